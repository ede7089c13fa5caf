"""The server of a home over real associations: who gets in, which contexts, which limits, and what is counted."""

import contextlib
import logging
import socket
import struct
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from arranging_receiver import (
    CT,
    EXPLICIT,
    PRIVATE_CLASS,
    VERIFICATION,
    Sender,
    all_received,
    association_request,
    element,
    p_data,
    pdv,
)
from pynetdicom.dimse_primitives import C_FIND

from vna.dimse.admission import Reason
from vna.dimse.callers import caller_of
from vna.dimse.ports import listen
from vna.dimse.receiver import Receiver
from vna.errors import DiskFull, PortInUse, SettingsError
from vna.settings import Settings
from vna.site import DicomServer, RemoteServer, Site, UnknownCallers, WatchedSite, publish_site
from vna.spool import read_association

IMPLICIT, DEFLATED, JPEG2000 = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.90"
FIND, GET, MOVE = ("1.2.840.10008.5.1.4.1.2.2." + last for last in "132")
SENDER = RemoteServer(name="ct", aet="SENDER", host="127.0.0.1", port=104)
USER_REJECTION, NO_SUCH_CLASS, NO_SUCH_SYNTAX = 1, 3, 4


def site_of(*remotes: RemoteServer, **server: object) -> Site:
    return Site(
        remotes={remote.name: remote for remote in remotes}, server=DicomServer.model_validate(server)
    )


def settings_of(home: Path, **changes: object) -> Settings:
    facts: dict[str, object] = {"home": home, "scp_bind": "127.0.0.1", "reserve_bytes": 0}
    return Settings(**(facts | changes))  # pyright: ignore[reportArgumentType]


@contextlib.contextmanager
def serving(home: Path, site: Site | Callable[[], Site], **options: Any) -> Generator[Receiver]:
    asked = site if callable(site) else lambda: site
    settings = options.pop("settings", None) or settings_of(home)
    listening = options.pop("socket", None) or listen("127.0.0.1", 0)
    with Receiver.from_settings(settings, asked, socket=listening, **options) as receiver:
        yield receiver


def until(claim: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


class AnswersFind:
    """A service that answers every C-FIND at once, and remembers who asked."""

    def __init__(self, sop_classes: set[str] | None = None) -> None:
        self.sop_classes = frozenset(sop_classes or {FIND})
        self.callers: list[str] = []
        self.wait = threading.Event()
        self.wait.set()
        self.fails = False

    def serve(self, association: Any, message: Any, context: Any) -> None:
        self.callers.append(caller_of(association).calling_aet)
        if self.fails:
            raise ValueError("John Doe")
        self.wait.wait(10)
        response = C_FIND()
        response.MessageIDBeingRespondedTo = message.MessageID
        response.AffectedSOPClassUID = message.AffectedSOPClassUID
        response.Status = 0x0000
        association.dimse.send_msg(response, context.context_id)


def find_request(context_id: int = 1, message_id: int = 9) -> bytes:
    body = (
        element(0x0002, FIND.encode())
        + element(0x0100, b"\x20\0")
        + element(0x0110, struct.pack("<H", message_id))
        + element(0x0700, b"\0\0")
        + element(0x0800, b"\0\0")
    )
    command = element(0x0000, struct.pack("<I", len(body))) + body
    identifier = b"\x08\0\x52\0CS\x06\0STUDY "
    return p_data(pdv(context_id, 3, command)) + p_data(pdv(context_id, 2, identifier))


# -- who gets in


def test_a_remote_server_stores_and_its_record_says_who_it_was(tmp_path: Path) -> None:
    with serving(tmp_path, site_of(SENDER, other_aets=("PACS",))) as receiver:
        sender = Sender(receiver.port, called="PACS")
        assert sender.store("1.2.3", b"data") == 0
        sender.release()
        (folder,) = receiver.spool.folders()
        record = read_association(folder)
        assert (record.calling_aet, record.called_aet, record.tls_subject) == ("SENDER", "PACS", "")
        assert receiver.counts.accepted == 1
        assert (receiver.counts.received_instances, receiver.counts.refused) == (1, {})
        assert receiver.counts.received_bytes == all_received(receiver.spool)[0].path.stat().st_size


def test_a_stranger_is_refused_counted_and_shown_with_its_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(tmp_path, site_of(SENDER)) as receiver, caplog.at_level(logging.WARNING):
        for _ in range(5):
            assert Sender(receiver.port, calling="STRANGER").refused == (1, 1, 3)
        assert Sender(receiver.port, called="ELSE").refused == (1, 1, 7)
        counts = receiver.counts
    assert counts.refused == {Reason.calling_aet: 5, Reason.called_aet: 1}
    last = counts.last_refused[0]
    assert (last.calling_aet, last.called_aet, last.address) == ("SENDER", "ELSE", "127.0.0.1")
    assert last.reason is Reason.called_aet
    assert "BACKUPDR" in last.sentence
    logged = [record.getMessage() for record in caplog.records if "turned away" in record.getMessage()]
    assert len(logged) == 2, "a modality that tries again each second fills no log"
    assert "STRANGER at 127.0.0.1" in logged[0]


def test_the_last_refusals_are_kept_and_a_flood_of_names_fills_no_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(tmp_path, site_of()) as receiver:
        for number in range(125):
            assert Sender(receiver.port, calling=f"X{number}").refused
        assert [refusal.calling_aet for refusal in receiver.counts.last_refused] == [
            f"X{number}" for number in range(124, 104, -1)
        ]
        assert receiver.counts.refused == {Reason.calling_aet: 125}
    assert len([record for record in caplog.records if "turned away" in record.getMessage()]) == 100


def test_whoever_is_refused_costs_no_association_and_no_folder(tmp_path: Path) -> None:
    with serving(tmp_path, site_of()) as receiver:
        before = threading.active_count()
        senders = [Sender(receiver.port, calling=f"X{number}") for number in range(30)]
        assert threading.active_count() == before
        assert receiver.counts.open_associations == 0
        assert list(receiver.spool.folders()) == []
        for sender in senders:
            sender.close()


def test_unknown_callers_store_but_get_no_service(tmp_path: Path) -> None:
    site = site_of(unknown_callers=UnknownCallers.store)
    with serving(tmp_path, site, services=(AnswersFind(),)) as receiver:
        sender = Sender(receiver.port, [(CT, [EXPLICIT]), (FIND, [EXPLICIT]), (VERIFICATION, [EXPLICIT])])
        assert sender.results == {1: 0, 3: USER_REJECTION, 5: 0}
        assert sender.store("1.2.3", b"data") == 0
        sender.release()
        assert receiver.counts.refused == {Reason.no_retrieve: 1}
        (told,) = receiver.counts.last_refused
        assert told.sentence == (
            "SENDER asked to query, retrieve or for storage commitment, and callers unknown to this site may only store"
        )


def test_a_query_of_who_may_not_retrieve_is_counted_and_told_once_as_a_refusal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mute = SENDER.model_copy(update={"may_retrieve": False})
    with serving(tmp_path, site_of(mute), services=(AnswersFind(), AnswersFind({GET}))) as receiver:
        for _ in range(3):
            Sender(receiver.port, [(FIND, [EXPLICIT]), (VERIFICATION, [EXPLICIT])]).release()
        getting = Sender(receiver.port, [(GET, [EXPLICIT]), (CT, [EXPLICIT])], roles={CT: (False, True)})
        assert getting.results == {1: USER_REJECTION, 3: USER_REJECTION}
        getting.release()
        Sender(receiver.port).release()
        counts = receiver.counts
    assert (counts.accepted, counts.refused) == (5, {Reason.no_retrieve: 4})
    sentence = "ct asked to query, retrieve or for storage commitment, which its settings do not allow"
    assert {told.sentence for told in counts.last_refused} == {sentence}
    logged = [record.getMessage() for record in caplog.records if "refused a service" in record.getMessage()]
    assert logged == [f"SENDER at 127.0.0.1 was refused a service: {sentence}"]


def test_a_remote_server_that_may_not_store_gets_no_storage_context(tmp_path: Path) -> None:
    quiet = SENDER.model_copy(update={"may_store": False})
    with serving(tmp_path, site_of(quiet), services=(AnswersFind(),)) as receiver:
        sender = Sender(receiver.port, [(CT, [EXPLICIT]), (FIND, [EXPLICIT])])
        assert sender.results == {1: USER_REJECTION, 3: 0}
        assert sender.store("1.2.3", b"data", context_id=3) == 0x0122
        sender.release()
        assert receiver.counts.refused == {Reason.no_store: 1}
        assert (
            receiver.counts.last_refused[0].sentence == "ct asked to store, which its settings do not allow"
        )
        assert all_received(receiver.spool) == []


def test_open_lets_everybody_of_this_machine_in(tmp_path: Path) -> None:
    with serving(tmp_path, site_of(), open_to_loopback=True, services=(AnswersFind(),)) as receiver:
        sender = Sender(receiver.port, [(CT, [EXPLICIT]), (FIND, [EXPLICIT])], calling="ANYBODY")
        assert sender.results == {1: 0, 3: 0}
        assert sender.store("1.2.3", b"data") == 0
        sender.release()


def test_we_ourselves_may_echo_also_when_every_place_is_taken(tmp_path: Path) -> None:
    with serving(tmp_path, site_of(SENDER, max_associations=1)) as receiver:
        busy = Sender(receiver.port)
        assert Sender(receiver.port).refused == (2, 3, 2)
        ours = Sender(receiver.port, calling="BACKUPDR")
        assert ours.results == {1: USER_REJECTION, 3: 0}
        assert ours.echo() == 0
        ours.release()
        busy.release()


def test_a_change_of_the_site_holds_from_the_next_association_and_drops_nobody(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    publish_site(settings, site_of(SENDER))
    with serving(tmp_path, WatchedSite(settings), settings=settings) as receiver:
        sender = Sender(receiver.port)
        assert sender.store("1.2.1", b"data") == 0
        publish_site(settings, site_of(transfer_syntaxes=(JPEG2000,)))
        until(lambda: Sender(receiver.port).refused == (1, 1, 3))
        assert sender.store("1.2.2", b"data") == 0
        settings.site_path.write_text("{ half a fi")
        time.sleep(1.1)
        assert Sender(receiver.port).refused == (1, 1, 3)
        publish_site(settings, site_of(SENDER))
        until(lambda: Sender(receiver.port).kind == 2)
        assert sender.store("1.2.3", b"data") == 0
        sender.release()


# -- presentation contexts


def test_a_list_of_transfer_syntaxes_is_kept_to_in_its_order_context_by_context(tmp_path: Path) -> None:
    contexts = [
        (CT, [EXPLICIT, IMPLICIT, JPEG2000]),
        (CT, [EXPLICIT]),
        (CT, [IMPLICIT]),
        (PRIVATE_CLASS, [DEFLATED, JPEG2000]),
        (VERIFICATION, [IMPLICIT]),
        ("1.2.840.10008.5.1.4.31", [IMPLICIT]),  # Modality Worklist
    ]
    with serving(tmp_path, site_of(SENDER, transfer_syntaxes=(JPEG2000, IMPLICIT))) as receiver:
        sender = Sender(receiver.port, contexts)
        assert sender.results == {1: 0, 3: NO_SUCH_SYNTAX, 5: 0, 7: 0, 9: 0, 11: NO_SUCH_CLASS}
        assert sender.syntaxes == {1: JPEG2000, 5: IMPLICIT, 7: JPEG2000, 9: IMPLICIT}
        sender.release()


def test_without_a_list_each_context_gets_the_first_it_proposes(tmp_path: Path) -> None:
    contexts = [(CT, [JPEG2000, EXPLICIT]), (CT, [EXPLICIT, JPEG2000]), (CT, ["1.3.6.1.4.1.99999.9"])]
    with serving(tmp_path, site_of(SENDER)) as receiver:
        sender = Sender(receiver.port, contexts)
        assert sender.syntaxes == {1: JPEG2000, 3: EXPLICIT, 5: "1.3.6.1.4.1.99999.9"}
        sender.release()


def test_a_requester_may_be_scp_for_storage_where_c_get_is_offered(tmp_path: Path) -> None:
    contexts = [(CT, [JPEG2000]), (GET, [EXPLICIT]), (PRIVATE_CLASS, [EXPLICIT])]
    roles = {CT: (False, True), PRIVATE_CLASS: (True, True)}
    for services, results in (
        ((AnswersFind({GET}),), {1: 0, 3: 0, 5: 0}),
        ((), {1: USER_REJECTION, 3: NO_SUCH_CLASS, 5: 0}),
    ):
        with serving(tmp_path, site_of(SENDER), services=services) as receiver:
            sender = Sender(receiver.port, contexts, roles=roles)
            assert sender.results == results
            granted = struct.pack(">BBHH", 0x54, 0, len(CT) + 4, len(CT)) + CT.encode()
            assert (granted + b"\0\1" in sender.answer) is bool(services)
            # what the requester only receives it cannot send
            assert sender.store("1.2.3", b"data", context_id=1) == 0x0122 if services else True
            assert sender.store("1.2.4", b"data", context_id=5, sop_class_uid=PRIVATE_CLASS) == 0
            sender.release()


def test_instances_that_are_refused_are_counted_by_their_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int = 0) -> None:
        raise DiskFull("spool", 1, 2)

    with serving(tmp_path, site_of(SENDER)) as receiver:
        sender = Sender(receiver.port)
        assert sender.store("1.2.1", b"data") == 0
        assert sender.store("1.2.2", b"data", context_id=3) == 0x0122
        monkeypatch.setattr(receiver.spool, "check_space", full)
        assert [sender.store(f"1.2.{number}", b"x" * 300_000) for number in (3, 4)] == [0xA700] * 2
        sender.release()
        assert receiver.counts.refused_instances == {0x0122: 1, 0xA700: 2}
        assert receiver.counts.received_instances == 1


# -- services


def test_a_request_goes_to_the_service_of_its_context_and_stores_go_on_beside_it(tmp_path: Path) -> None:
    service = AnswersFind()
    with serving(tmp_path, site_of(SENDER), services=(service,)) as receiver:
        sender = Sender(
            receiver.port, [(FIND, [IMPLICIT, EXPLICIT]), (VERIFICATION, [EXPLICIT]), (CT, [EXPLICIT])]
        )
        assert sender.syntaxes[1] == IMPLICIT
        for number in range(3):
            sender.send(find_request(message_id=number))
            response = sender.response()
            assert response[0x0100] == b"\x20\x80"
            assert int.from_bytes(response[0x0120], "little") == number
            assert sender.echo() == 0
            assert sender.store(f"1.2.{number}", b"data", context_id=5) == 0
        sender.release()
    assert service.callers == ["SENDER"] * 3


def test_a_service_that_fails_ends_its_association_only_and_quotes_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = AnswersFind()
    with serving(tmp_path, site_of(SENDER), services=(service,)) as receiver, caplog.at_level(logging.DEBUG):
        other = Sender(receiver.port)
        service.fails = True
        sender = Sender(receiver.port, [(FIND, [EXPLICIT])])
        sender.send(find_request())
        assert sender.pdu()[0] == 7
        assert other.echo() == 0
        other.release()
    text = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("vna"))
    assert "C_FIND" in text
    assert "John Doe" not in text


def test_an_answer_may_take_longer_than_silence_may(tmp_path: Path) -> None:
    service = AnswersFind()
    with serving(tmp_path, site_of(SENDER, network_timeout=0.5), services=(service,)) as receiver:
        sender = Sender(receiver.port, [(FIND, [EXPLICIT])])
        service.wait.clear()
        sender.send(find_request())
        time.sleep(1.2)
        service.wait.set()
        assert sender.status() == 0
        sender.send(find_request())
        assert sender.status() == 0
        sender.release()


def test_draining_waits_for_an_answer_that_is_on_its_way(tmp_path: Path) -> None:
    service = AnswersFind()
    with serving(tmp_path, site_of(SENDER), services=(service,)) as receiver:
        sender = Sender(receiver.port, [(FIND, [EXPLICIT])])
        service.wait.clear()
        sender.send(find_request())
        until(lambda: service.callers)
        drained = threading.Thread(target=receiver.drain, args=(10,))
        drained.start()
        time.sleep(1)
        service.wait.set()
        assert sender.status() == 0
        drained.join(5)
        assert not drained.is_alive()


# -- limits


def test_associations_are_limited_in_all_and_per_address_and_counted(tmp_path: Path) -> None:
    with serving(tmp_path, site_of(SENDER, max_associations=3, associations_per_address=2)) as receiver:
        first, second = Sender(receiver.port), Sender(receiver.port)
        assert Sender(receiver.port).refused == (2, 3, 2)
        assert receiver.counts.refused == {Reason.address_limit: 1}
        assert receiver.counts.open_associations == 2
        first.release()
        until(lambda: receiver.counts.open_associations == 1)
        third = Sender(receiver.port)
        assert third.kind == 2
        third.release()
        second.release()
        until(lambda: receiver.counts.open_associations == 0)


def test_another_address_is_served_while_one_has_all_it_may_have(tmp_path: Path) -> None:
    with serving(tmp_path, site_of(SENDER, max_associations=8, associations_per_address=1)) as receiver:
        greedy = Sender(receiver.port)
        assert Sender(receiver.port).refused == (2, 3, 2)
        other = socket.create_connection(
            ("127.0.0.1", receiver.port), timeout=5, source_address=("127.0.0.2", 0)
        )
        other.sendall(association_request([(VERIFICATION, [EXPLICIT])]))
        assert other.recv(1) == b"\2"
        other.close()
        greedy.release()


def test_processes_that_share_a_port_share_its_limit(tmp_path: Path) -> None:
    listening = listen("127.0.0.1", 0)
    with serving(tmp_path, site_of(SENDER, max_associations=5), socket=listening, processes=3) as receiver:
        senders = [Sender(receiver.port) for _ in range(3)]
        assert [sender.kind for sender in senders] == [2, 2, 3]


def test_several_receivers_take_turns_at_one_listening_socket(tmp_path: Path) -> None:
    listening = listen("127.0.0.1", 0)
    twins = [listening, listening.dup()]
    port = listening.getsockname()[1]
    with (
        serving(tmp_path, site_of(SENDER), socket=twins[0]) as first,
        serving(tmp_path, site_of(SENDER), socket=twins[1]) as second,
    ):
        senders = [Sender(port) for _ in range(40)]
        assert {sender.kind for sender in senders} == {2}
        assert first.counts.accepted + second.counts.accepted == 40
        for sender in senders:
            sender.release()
        first.stop_listening()
        assert Sender(port).kind == 2, "the one that is left takes them all"
        assert second.counts.accepted >= 1


def test_who_has_no_free_place_leaves_callers_to_its_twin_and_refuses_them_only_when_both_are_full(
    tmp_path: Path,
) -> None:
    listening = listen("127.0.0.1", 0)
    port = listening.getsockname()[1]
    site = site_of(SENDER, max_associations=8)
    with (
        serving(tmp_path, site, socket=listening.dup(), processes=2) as first,
        serving(tmp_path, site, socket=listening, processes=2) as second,
    ):
        senders = [Sender(port) for _ in range(8)]
        assert [sender.kind for sender in senders] == [2] * 8, "one refused while the other had room"
        assert (first.counts.open_associations, second.counts.open_associations) == (4, 4)
        started = time.monotonic()
        assert Sender(port).refused == (2, 3, 2)
        assert time.monotonic() - started < 3
        senders[0].release()
        until(lambda: first.counts.open_associations + second.counts.open_associations == 7)
        time.sleep(0.2)  # the full one has seen meanwhile that nobody waits any more
        assert Sender(port).kind == 2


# -- listening


def test_an_address_that_is_not_ours_is_one_sentence(tmp_path: Path) -> None:
    receiver = Receiver.from_settings(settings_of(tmp_path, scp_bind="192.0.2.1"), site_of)
    with pytest.raises(SettingsError, match="no address of this machine"):
        receiver.start()


def test_a_port_that_is_taken_is_one_sentence(tmp_path: Path) -> None:
    with listen("127.0.0.1", 0) as taken:
        receiver = Receiver.from_settings(settings_of(tmp_path, scp_port=taken.getsockname()[1]), site_of)
        with pytest.raises(PortInUse):
            receiver.start()


def test_ipv6_is_listened_on_where_it_is_asked_for(tmp_path: Path) -> None:
    try:
        listening = listen("::1", 0)
    except SettingsError:
        pytest.skip("no IPv6 here")
    with serving(tmp_path, site_of(), socket=listening, open_to_loopback=True) as receiver:
        connection = socket.create_connection(("::1", receiver.port), timeout=5)
        connection.sendall(association_request([(VERIFICATION, [EXPLICIT])]))
        assert connection.recv(1) == b"\2"
        connection.close()
