"""C-MOVE and C-GET of others: what they are told is what was done, and what they get are the bytes we keep."""

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from arranging_receiver import CT, EXPLICIT, all_received
from arranging_retrieve import FileIndex, StorageScp, digest, held_of, respond, spoil
from dimse.conftest import remote_at
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.presentation import build_context, build_role

from vna.dimse import get, move
from vna.dimse.admission import Rules
from vna.dimse.answering_retrieve import GetService, MoveService
from vna.dimse.index import HeldInstance
from vna.dimse.node import OurNode
from vna.dimse.pdata import Loop
from vna.dimse.places import Limits
from vna.dimse.receiver import Receiver, Terms
from vna.identity import FoundInstance
from vna.simulated_pacs import write_studies
from vna.site import RemoteServer
from vna.spool import Spool

PATIENT_MOVE, PATIENT_GET = "1.2.840.10008.5.1.4.1.2.1.2", "1.2.840.10008.5.1.4.1.2.1.3"
STUDY_MOVE, STUDY_GET = "1.2.840.10008.5.1.4.1.2.2.2", "1.2.840.10008.5.1.4.1.2.2.3"

Responses = list[tuple[Dataset, Dataset | None]]


@dataclass
class Ours:
    """A running server of ours that answers retrieves over an index."""

    receiver: Receiver
    index: FileIndex
    destinations: dict[str, RemoteServer]

    @property
    def remote(self) -> RemoteServer:
        return remote_at(self.receiver.port, name="ours", aet="BACKUPDR")


@pytest.fixture(params=list(Loop))
def loop(request: pytest.FixtureRequest) -> Loop:
    return request.param


@pytest.fixture
def ours(tmp_path: Path, node: OurNode, loop: Loop) -> Iterator[Ours]:
    """Three CT studies of four instances each; the second may be read by patient ID P2."""
    studies = write_studies(
        tmp_path / "kept", 3, instances=4, modalities=["CT"], transfer_syntaxes=[EXPLICIT]
    )
    index = FileIndex(held_of(studies), {studies[1].study_instance_uid: "P2"})
    with serving(tmp_path, index, node, loop) as running:
        yield running


@contextlib.contextmanager
def serving(
    tmp_path: Path,
    index: FileIndex,
    node: OurNode,
    loop: Loop = Loop.own,
    terms: Callable[[], Terms] | None = None,
) -> Generator[Ours]:
    destinations: dict[str, RemoteServer] = {}
    services = [MoveService(index, node, destinations.get), GetService(index)]
    spool = Spool(tmp_path / "ours", reserve_bytes=0)
    with Receiver(
        spool, aet="BACKUPDR", host="127.0.0.1", port=0, loop=loop, services=services, terms=terms
    ) as receiver:
        yield Ours(receiver, index, destinations)


def study_of(ours: Ours, number: int) -> list[HeldInstance]:
    return ours.index.instances[4 * number : 4 * number + 4]


@contextlib.contextmanager
def asking(
    ours: Ours,
    *sop_classes: str,
    storage: Sequence[tuple[str, Any]] = (),
    handlers: Sequence[Any] = (),
) -> Generator[Association]:
    """An association of the library to us; `storage` = what it accepts by C-GET."""
    entity = AE("ASKER")
    entity.dimse_timeout = 3
    contexts = [build_context(uid) for uid in sop_classes]
    contexts += [build_context(sop_class, syntax) for sop_class, syntax in storage]
    association = entity.associate(
        "127.0.0.1",
        ours.receiver.port,
        contexts=contexts,
        ae_title="BACKUPDR",
        ext_neg=[build_role(sop_class, scp_role=True) for sop_class, _ in dict(storage).items()],
        evt_handlers=list(handlers),
    )
    assert association.is_established
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


def identifier(level: str, **keys: str | list[str]) -> Dataset:
    dataset = Dataset()
    dataset.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(dataset, keyword, value)
    return dataset


def moved(ours: Ours, wanted: Dataset, destination: str = "WS", model: str = STUDY_MOVE) -> Responses:
    with asking(ours, model) as association:
        return list(association.send_c_move(wanted, destination, model))


def counts(status: Dataset) -> tuple[int | None, ...]:
    """Remaining, completed, failed, warning."""
    names = ("Remaining", "Completed", "Failed", "Warning")
    return tuple(status.get(f"NumberOf{name}Suboperations") for name in names)


def failed_uids(answered: Dataset | None) -> list[str]:
    value = answered.FailedSOPInstanceUIDList if answered else []
    return [value] if isinstance(value, str) else [str(uid) for uid in value]


# -- C-MOVE


def test_a_study_is_moved_as_it_is_kept_and_counted(ours: Ours) -> None:
    wanted = study_of(ours, 1)
    scp = StorageScp()
    with scp.listening() as port:
        ours.destinations["WS"] = remote_at(port, aet="WS")
        responses = moved(ours, identifier("STUDY", StudyInstanceUID=wanted[0].study_instance_uid))
    assert [stored.sha256 for stored in scp.stored] == [digest(instance) for instance in wanted]
    assert {stored.originator for stored in scp.stored} == {("ASKER", 1)}
    assert scp.calling == ["BACKUPDR"]
    assert [status.Status for status, _ in responses] == [0xFF00] * 5 + [0]
    assert [counts(status) for status, _ in responses] == [
        *((4 - done, done, 0, 0) for done in range(5)),
        (None, 4, 0, 0),
    ]


@pytest.mark.parametrize("level", ["SERIES", "IMAGE"])
def test_series_and_lists_of_instances_are_moved(ours: Ours, level: str) -> None:
    wanted = study_of(ours, 2)
    keys: dict[str, Any] = {
        "StudyInstanceUID": wanted[0].study_instance_uid,
        "SeriesInstanceUID": wanted[0].series_instance_uid,
    }
    if level == "IMAGE":
        wanted = wanted[1:3]
        keys["SOPInstanceUID"] = [instance.sop_instance_uid for instance in wanted]
    scp = StorageScp()
    with scp.listening() as port:
        ours.destinations["WS"] = remote_at(port, aet="WS")
        responses = moved(ours, identifier(level, **keys))
    assert responses[-1][0].Status == 0
    assert [stored.sop_instance_uid for stored in scp.stored] == [i.sop_instance_uid for i in wanted]


def test_a_patient_is_moved_by_patient_root(ours: Ours) -> None:
    scp = StorageScp()
    with scp.listening() as port:
        ours.destinations["WS"] = remote_at(port, aet="WS")
        responses = moved(ours, identifier("PATIENT", PatientID="P2"), model=PATIENT_MOVE)
    assert responses[-1][0].Status == 0
    assert len(scp.stored) == 4
    assert {s.sop_instance_uid for s in scp.stored} == {i.sop_instance_uid for i in study_of(ours, 1)}


def test_who_asks_for_itself_gets_it_itself_though_another_has_its_ae_title(
    tmp_path: Path, node: OurNode
) -> None:
    """Two workstations of one AE title, told apart by their addresses."""
    kept = write_studies(tmp_path / "kept", 1, instances=2, modalities=["CT"], transfer_syntaxes=[EXPLICIT])
    wanted = identifier("STUDY", StudyInstanceUID=kept[0].study_instance_uid)
    with StorageScp().listening() as other_port, (asker := StorageScp()).listening() as port:
        other = remote_at(other_port, name="a-ws", aet="ASKER", addresses=["192.0.2.9"])
        rules = Rules(("BACKUPDR",), (other, remote_at(port, name="b-ws", aet="ASKER")))
        terms = Terms(rules, Limits(8, 8), 131072, 60.0)
        with serving(tmp_path, FileIndex(held_of(kept), {}), node, terms=lambda: terms) as ours:
            ours.destinations["ASKER"] = other
            responses = moved(ours, wanted, "ASKER")
    assert responses[-1][0].Status == 0
    assert len(asker.stored) == 2


def test_only_registered_destinations_are_sent_to(ours: Ours) -> None:
    wanted = study_of(ours, 0)
    responses = moved(ours, identifier("STUDY", StudyInstanceUID=wanted[0].study_instance_uid))
    ((status, _),) = responses
    assert status.Status == 0xA801
    assert "not registered" in status.ErrorComment
    assert ours.index.given == 0


def test_a_retrieve_without_its_unique_keys_is_refused(ours: Ours) -> None:
    """One value of each level above, one or more of its own (PS3.4 C.4.2.2.1); no wildcards."""
    refused: list[tuple[str, dict[str, str]]] = [
        (STUDY_MOVE, {"QueryRetrieveLevel": "STUDY"}),
        (STUDY_MOVE, {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": ""}),
        (STUDY_MOVE, {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "*"}),
        (STUDY_MOVE, {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "1.2.*"}),
        (STUDY_MOVE, {"QueryRetrieveLevel": "SERIES", "SeriesInstanceUID": "1.2"}),
        (STUDY_MOVE, {"QueryRetrieveLevel": "IMAGE", "StudyInstanceUID": "1.2", "SOPInstanceUID": "1.3"}),
        (STUDY_MOVE, {"QueryRetrieveLevel": "PATIENT", "PatientID": "P2"}),
        (STUDY_MOVE, {"QueryRetrieveLevel": "FRAME", "StudyInstanceUID": "1.2"}),
        (STUDY_MOVE, {"StudyInstanceUID": "1.2"}),
        (PATIENT_MOVE, {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "1.2"}),
        (PATIENT_MOVE, {"QueryRetrieveLevel": "PATIENT", "PatientID": ""}),
        (PATIENT_MOVE, {"QueryRetrieveLevel": "PATIENT", "PatientID": "P1\\P2"}),
    ]
    ours.destinations["WS"] = remote_at(1, aet="WS")
    with asking(ours, STUDY_MOVE, PATIENT_MOVE) as association:
        for model, keys in refused:
            wanted = Dataset()
            for keyword, value in keys.items():
                setattr(wanted, keyword, value)
            ((status, _),) = association.send_c_move(wanted, "WS", model)
            assert status.Status == 0xA900, keys
            assert status.ErrorComment
    assert ours.index.given == 0


def test_what_is_not_here_is_a_success_of_nothing(ours: Ours) -> None:
    ours.destinations["WS"] = remote_at(1, aet="WS")
    responses = moved(ours, identifier("STUDY", StudyInstanceUID="1.2.3.4"))
    assert responses[-1][0].Status == 0
    assert counts(responses[-1][0]) == (None, 0, 0, 0)


def test_what_the_destination_refuses_is_named_in_a_warning(ours: Ours) -> None:
    wanted = study_of(ours, 0)
    scp = StorageScp({1: lambda _, *rest: respond(*rest, 0xA700), 2: lambda _, *rest: respond(*rest, 0xB000)})
    with scp.listening() as port:
        ours.destinations["WS"] = remote_at(port, aet="WS")
        responses = moved(ours, identifier("STUDY", StudyInstanceUID=wanted[0].study_instance_uid))
    status, answered = responses[-1]
    assert (status.Status, counts(status)) == (0xB000, (None, 2, 1, 1))
    assert failed_uids(answered) == [wanted[1].sop_instance_uid]
    assert status.ErrorComment == "1 refused (0xA700)"


def test_a_destination_that_is_away_fails_every_suboperation(ours: Ours) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    ours.destinations["WS"] = remote_at(port, aet="WS")
    wanted = study_of(ours, 0)
    status, answered = moved(ours, identifier("STUDY", StudyInstanceUID=wanted[0].study_instance_uid))[-1]
    assert (status.Status, counts(status)) == (0xA702, (None, 0, 4, 0))
    assert failed_uids(answered) == [instance.sop_instance_uid for instance in wanted]
    assert "destination away" in status.ErrorComment


def test_a_destination_that_vanishes_for_good_in_the_middle_is_told_as_it_is(
    ours: Ours, tmp_path: Path
) -> None:
    """What it had acknowledged is completed, the rest failed, and the answer comes soon."""

    def vanish(scp: StorageScp, connection: socket.socket, *_: object) -> None:
        connection.close()
        listening.close()

    scp = StorageScp({2: vanish})
    listening = contextlib.ExitStack()
    with listening:
        port = listening.enter_context(scp.listening())
        ours.destinations["WS"] = remote_at(port, aet="WS")
        wanted = study_of(ours, 0)
        began = time.monotonic()
        status, answered = moved(ours, identifier("STUDY", StudyInstanceUID=wanted[0].study_instance_uid))[-1]
    assert time.monotonic() - began < 10
    assert (status.Status, counts(status)) == (0xB000, (None, 2, 2, 0))
    assert failed_uids(answered) == [instance.sop_instance_uid for instance in wanted[2:]]


def test_a_rotten_copy_is_failed_and_named_and_the_rest_is_sent(ours: Ours) -> None:
    wanted = study_of(ours, 0)
    spoil(wanted[3].files[0].path)
    scp = StorageScp()
    with scp.listening() as port:
        ours.destinations["WS"] = remote_at(port, aet="WS")
        status, answered = moved(ours, identifier("STUDY", StudyInstanceUID=wanted[0].study_instance_uid))[-1]
    assert (status.Status, counts(status)) == (0xB000, (None, 3, 1, 0))
    assert failed_uids(answered) == [wanted[3].sop_instance_uid]
    assert status.ErrorComment == "1 without a good copy"
    assert [stored.sha256 for stored in scp.stored] == [digest(instance) for instance in wanted[:3]]


def test_a_cancelled_move_stops_and_tells_what_is_left(ours: Ours) -> None:
    go_on = threading.Event()

    def wait(_: StorageScp, connection: socket.socket, context: int, message: bytes, uid: bytes) -> None:
        assert go_on.wait(10)
        respond(connection, context, message, uid, 0)

    scp = StorageScp({1: wait})
    wanted = study_of(ours, 0)
    with scp.listening() as port:
        ours.destinations["WS"] = remote_at(port, aet="WS")
        with asking(ours, STUDY_MOVE) as association:
            query = identifier("STUDY", StudyInstanceUID=wanted[0].study_instance_uid)
            last = Dataset()
            answers = association.send_c_move(query, "WS", STUDY_MOVE, msg_id=9)
            for number, (status, _) in enumerate(answers):
                last = status
                if number == 1:  # the first is stored, the second waits
                    association.send_c_cancel(9, query_model=STUDY_MOVE)
                    threading.Timer(0.5, go_on.set).start()
            assert (last.Status, counts(last)) == (0xFE00, (2, 2, 0, 0))
            # the association is as good as before
            again = list(association.send_c_move(query, "WS", STUDY_MOVE))
            assert counts(again[-1][0]) == (None, 4, 0, 0)
    assert scp.requests == 6


def test_a_requester_that_leaves_ends_the_move_and_the_destination_is_let_go(ours: Ours) -> None:
    go_on = threading.Event()

    def wait(_: StorageScp, connection: socket.socket, context: int, message: bytes, uid: bytes) -> None:
        assert go_on.wait(10)
        respond(connection, context, message, uid, 0)

    scp = StorageScp({1: wait})
    wanted = study_of(ours, 0)
    with scp.listening() as port:
        ours.destinations["WS"] = remote_at(port, aet="WS")
        with asking(ours, STUDY_MOVE) as association:
            query = identifier("STUDY", StudyInstanceUID=wanted[0].study_instance_uid)
            for number, _ in enumerate(association.send_c_move(query, "WS", STUDY_MOVE)):
                if number == 1:
                    association.abort()
                    break
            go_on.set()
        _eventually(lambda: bool(scp.ends))
    assert scp.ends[0] in {"aborted", "closed"}
    assert scp.requests == 2
    _eventually(lambda: not ours.receiver._messages)


def test_a_second_request_before_the_first_is_answered_ends_the_association(ours: Ours) -> None:
    """Nothing asynchronous was agreed; a request that is never answered would keep its sender waiting."""
    go_on = threading.Event()

    def wait(_: StorageScp, connection: socket.socket, context: int, message: bytes, uid: bytes) -> None:
        assert go_on.wait(10)
        respond(connection, context, message, uid, 0)

    scp = StorageScp({1: wait})
    wanted = study_of(ours, 0)
    with scp.listening() as port:
        ours.destinations["WS"] = remote_at(port, aet="WS")
        with asking(ours, STUDY_MOVE) as association:
            query = identifier("STUDY", StudyInstanceUID=wanted[0].study_instance_uid)
            answers = association.send_c_move(query, "WS", STUDY_MOVE)
            for _ in range(2):
                next(answers)
            list(association.send_c_move(query, "WS", STUDY_MOVE))
            go_on.set()
        _eventually(lambda: not ours.receiver._messages)
    assert scp.requests == 2


def test_each_second_of_a_long_suboperation_is_answered(ours: Ours) -> None:
    def wait(_: StorageScp, connection: socket.socket, context: int, message: bytes, uid: bytes) -> None:
        time.sleep(3.2)
        respond(connection, context, message, uid, 0)

    wanted = study_of(ours, 0)[0]
    scp = StorageScp({0: wait})
    # the node's patience for an answer is two seconds and starts anew with none of this
    patient = MoveService(ours.index, OurNode("BACKUPDR", dimse_timeout=10), ours.destinations.get)
    ours.receiver._services._by_class[STUDY_MOVE] = patient
    with scp.listening() as port:
        ours.destinations["WS"] = remote_at(port, aet="WS")
        responses = moved(
            ours,
            identifier(
                "IMAGE",
                StudyInstanceUID=wanted.study_instance_uid,
                SeriesInstanceUID=wanted.series_instance_uid,
                SOPInstanceUID=wanted.sop_instance_uid,
            ),
        )
    assert [status.Status for status, _ in responses][-1] == 0
    assert 4 <= len(responses) <= 6
    assert counts(responses[1][0]) == (1, 0, 0, 0)


def test_a_catalog_that_is_away_is_a_refusal_to_try_again(ours: Ours) -> None:
    ours.destinations["WS"] = remote_at(1, aet="WS")
    ours.index.away = 0
    ((status, _),) = moved(ours, identifier("STUDY", StudyInstanceUID="1.2"))
    assert status.Status == 0xA701
    assert "catalog" in status.ErrorComment
    ours.index.away = None
    assert moved(ours, identifier("STUDY", StudyInstanceUID="1.2"))[-1][0].Status == 0


def test_a_catalog_that_goes_away_in_the_middle_is_no_success(ours: Ours) -> None:
    ours.index.away = 2
    wanted = study_of(ours, 0)
    scp = StorageScp()
    with scp.listening() as port:
        ours.destinations["WS"] = remote_at(port, aet="WS")
        status, _ = moved(ours, identifier("STUDY", StudyInstanceUID=wanted[0].study_instance_uid))[-1]
    assert status.Status == 0xA702
    assert "catalog" in status.ErrorComment


def test_no_patient_is_named_in_the_log(ours: Ours, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "vna")
    ours.destinations["WS"] = remote_at(1, aet="WS")
    moved(ours, identifier("PATIENT", PatientID="P2"), model=PATIENT_MOVE)
    assert "C-MOVE to 'WS'" in caplog.text
    assert "P2" not in caplog.text


# -- C-GET


def got(
    ours: Ours,
    wanted: Dataset,
    storage: Sequence[tuple[str, Any]] = ((CT, EXPLICIT),),
    status: Callable[[int], int] = lambda _: 0,
) -> tuple[Responses, dict[str, bytes]]:
    """The responses, and what came by SOP Instance UID; `status` answers the C-STORE of that number."""
    arrived: dict[str, bytes] = {}

    def keep(event: evt.Event) -> int:
        answer = status(len(arrived))
        arrived[event.request.AffectedSOPInstanceUID] = event.request.DataSet.getvalue()
        return answer

    with asking(ours, STUDY_GET, storage=storage, handlers=[(evt.EVT_C_STORE, keep)]) as association:
        return list(association.send_c_get(wanted, STUDY_GET)), arrived


def test_a_study_is_got_as_it_is_kept_and_counted(ours: Ours) -> None:
    wanted = study_of(ours, 1)
    responses, arrived = got(ours, identifier("STUDY", StudyInstanceUID=wanted[0].study_instance_uid))
    for instance in wanted:
        (file,) = instance.files
        assert arrived[instance.sop_instance_uid] == file.path.read_bytes()[file.header_length :]
    assert [counts(status) for status, _ in responses] == [
        *((4 - done, done, 0, 0) for done in range(5)),
        (None, 4, 0, 0),
    ]
    assert responses[-1][0].Status == 0


def test_our_own_c_get_brings_every_transfer_syntax_from_us(
    tmp_path: Path, node: OurNode, loop: Loop
) -> None:
    """The same loop reads and sends, on both sides."""
    studies = write_studies(tmp_path / "kept", 5, instances=2, modalities=["CT", "MR"])
    index = FileIndex(held_of(studies))
    spool = Spool(tmp_path / "spool", reserve_bytes=0)
    spool.prepare()
    with serving(tmp_path, index, node, loop) as ours:
        for study in studies:
            found = [
                FoundInstance(
                    i.sop_instance_uid, i.series_instance_uid, i.sop_class_uid, i.transfer_syntax_uid
                )
                for i in study.instances
            ]
            outcome = get(
                ours.remote, node, study.study_instance_uid, found, spool, whole=found, study_attributes={}
            )
            assert (outcome.arrived, outcome.sentence) == (2, "")
    assert sorted(file.dataset_sha256 for file in all_received(spool)) == sorted(
        i.dataset_sha256 for study in studies for i in study.instances
    )


def test_a_large_object_is_got_byte_for_byte(tmp_path: Path, node: OurNode, loop: Loop) -> None:
    studies = write_studies(
        tmp_path / "kept", 1, instances=2, size_bytes=3_000_000, transfer_syntaxes=[EXPLICIT]
    )
    index = FileIndex(held_of(studies))
    sop_class = index.instances[0].sop_class_uid
    with serving(tmp_path, index, node, loop) as ours:
        _, arrived = got(
            ours,
            identifier("STUDY", StudyInstanceUID=studies[0].study_instance_uid),
            storage=[(sop_class, EXPLICIT)],
        )
    for instance in index.instances:
        (file,) = instance.files
        assert arrived[instance.sop_instance_uid] == file.path.read_bytes()[file.header_length :]


def test_a_syntax_the_requester_did_not_accept_is_failed_and_said(ours: Ours) -> None:
    implicit = "1.2.840.10008.1.2"
    wanted = study_of(ours, 0)
    ours.index.instances[1] = replace(wanted[1], transfer_syntax_uid="1.2.840.10008.1.2.4.70")
    query = identifier("STUDY", StudyInstanceUID=wanted[0].study_instance_uid)
    responses, arrived = got(ours, query)
    status, answered = responses[-1]
    assert (status.Status, counts(status)) == (0xB000, (None, 3, 1, 0))
    assert failed_uids(answered) == [wanted[1].sop_instance_uid]
    assert status.ErrorComment == "1 kept in a syntax not accepted"
    assert wanted[1].sop_instance_uid not in arrived
    responses, arrived = got(ours, query, storage=[(CT, implicit)])
    assert (responses[-1][0].Status, counts(responses[-1][0])) == (0xA702, (None, 0, 4, 0))
    assert not arrived


def test_of_several_syntaxes_in_a_context_the_one_that_is_kept_is_accepted(
    tmp_path: Path, node: OurNode
) -> None:
    """Nothing is converted, so the first one proposed is of no use where another is kept."""
    implicit = "1.2.840.10008.1.2"
    studies = write_studies(
        tmp_path / "kept", 1, instances=3, modalities=["CT"], transfer_syntaxes=[implicit]
    )
    index = FileIndex(held_of(studies))
    query = identifier("STUDY", StudyInstanceUID=studies[0].study_instance_uid)
    with serving(tmp_path, index, node) as ours:
        responses, arrived = got(ours, query, storage=[(CT, [EXPLICIT, implicit])])
    assert counts(responses[-1][0]) == (None, 3, 0, 0)
    assert len(arrived) == 3


def test_a_catalog_that_hangs_delays_an_association_once_and_only_a_moment(
    ours: Ours, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    monkeypatch.setattr("vna.dimse.answering_retrieve._FIRST_WAIT_SECONDS", 1.0)
    ours.index.syntaxes_held = lambda: go_on.wait(20) and {}  # type: ignore[method-assign]
    seconds: list[float] = []
    for _ in range(2):
        began = time.monotonic()
        with asking(ours, STUDY_GET, storage=[(f"1.2.3.{n}", EXPLICIT) for n in range(50)]):
            seconds.append(time.monotonic() - began)
    go_on.set()
    assert 1.0 <= seconds[0] < 3.0
    assert seconds[1] < 1.0


def test_a_catalog_that_is_away_keeps_no_association_from_being_agreed(ours: Ours) -> None:
    ours.index.away = 0
    began = time.monotonic()
    responses, _ = got(ours, identifier("STUDY", StudyInstanceUID="1.2"))
    assert responses[-1][0].Status == 0xA701
    assert time.monotonic() - began < 3


def test_without_the_scp_role_nothing_is_sent_to_a_requester(ours: Ours) -> None:
    """PS3.7 D.3.3.4: it proposed to store to us, not that we store to it."""
    wanted = study_of(ours, 0)
    arrived: list[str] = []

    def keep(event: evt.Event) -> int:
        arrived.append(event.request.AffectedSOPInstanceUID)
        return 0

    association = AE("ASKER").associate(
        "127.0.0.1",
        ours.receiver.port,
        contexts=[build_context(STUDY_GET), build_context(CT, EXPLICIT)],
        ae_title="BACKUPDR",
        evt_handlers=[(evt.EVT_C_STORE, keep)],
    )
    query = identifier("STUDY", StudyInstanceUID=wanted[0].study_instance_uid)
    responses = list(association.send_c_get(query, STUDY_GET))
    association.release()
    assert (responses[-1][0].Status, counts(responses[-1][0])) == (0xA702, (None, 0, 4, 0))
    assert not arrived


def test_what_the_requester_refuses_is_failed(ours: Ours) -> None:
    wanted = study_of(ours, 0)
    query = identifier("STUDY", StudyInstanceUID=wanted[0].study_instance_uid)
    responses, _ = got(ours, query, status=lambda number: 0xA700 if number == 2 else 0)
    status, answered = responses[-1]
    assert (status.Status, counts(status)) == (0xB000, (None, 3, 1, 0))
    assert failed_uids(answered) == [wanted[2].sop_instance_uid]


def test_a_cancelled_get_stops_and_tells_what_is_left(ours: Ours) -> None:
    wanted = study_of(ours, 0)
    query = identifier("STUDY", StudyInstanceUID=wanted[0].study_instance_uid)

    def cancel(event: evt.Event) -> int:
        event.assoc.send_c_cancel(9, query_model=STUDY_GET)
        return 0

    with asking(
        ours, STUDY_GET, storage=[(CT, EXPLICIT)], handlers=[(evt.EVT_C_STORE, cancel)]
    ) as association:
        responses = list(association.send_c_get(query, STUDY_GET, msg_id=9))
    status = responses[-1][0]
    assert (status.Status, counts(status)) == (0xFE00, (3, 1, 0, 0))


def test_a_requester_that_leaves_in_the_middle_of_a_get_ends_it(ours: Ours) -> None:
    wanted = study_of(ours, 0)
    query = identifier("STUDY", StudyInstanceUID=wanted[0].study_instance_uid)
    before = threading.active_count()

    def leave(event: evt.Event) -> int:
        event.assoc.abort()
        return 0

    with asking(
        ours, STUDY_GET, storage=[(CT, EXPLICIT)], handlers=[(evt.EVT_C_STORE, leave)]
    ) as association:
        list(association.send_c_get(query, STUDY_GET))
    _eventually(lambda: not ours.receiver._messages and threading.active_count() <= before)
    responses, _ = got(ours, query)
    assert responses[-1][0].Status == 0


def test_one_association_serves_one_request_after_the_other(ours: Ours) -> None:
    """C-GET, C-ECHO and C-GET again: the connection is the library's between them."""
    wanted = study_of(ours, 0)
    query = identifier("STUDY", StudyInstanceUID=wanted[0].study_instance_uid)
    with asking(
        ours,
        STUDY_GET,
        "1.2.840.10008.1.1",
        storage=[(CT, EXPLICIT)],
        handlers=[(evt.EVT_C_STORE, lambda _: 0)],
    ) as association:
        for _ in range(3):
            responses = list(association.send_c_get(query, STUDY_GET))
            assert counts(responses[-1][0]) == (None, 4, 0, 0)
            assert association.send_c_echo().Status == 0


def test_the_list_of_failed_instances_fits_into_its_element(tmp_path: Path, node: OurNode) -> None:
    studies = write_studies(
        tmp_path / "kept", 1, instances=1, modalities=["CT"], transfer_syntaxes=[EXPLICIT]
    )
    (image,) = held_of(studies)
    long_uid = "1.2.826.0.1.3680043.8.498." + "9" * 33
    many = [replace(image, sop_instance_uid=f"{long_uid}{n:05d}", files=()) for n in range(1200)]
    with serving(tmp_path, FileIndex(many), node) as ours:
        responses, _ = got(ours, identifier("STUDY", StudyInstanceUID=image.study_instance_uid))
    status, answered = responses[-1]
    assert (status.Status, counts(status)) == (0xA702, (None, 0, 1200, 0))
    assert 900 < len(failed_uids(answered)) < 1000


def test_several_retrieve_at_once(tmp_path: Path, node: OurNode) -> None:
    studies = write_studies(
        tmp_path / "kept", 6, instances=10, modalities=["CT"], transfer_syntaxes=[EXPLICIT]
    )
    index = FileIndex(held_of(studies))
    target = Spool(tmp_path / "target", reserve_bytes=0)
    with (
        serving(tmp_path, index, node) as ours,
        Receiver(target, aet="TARGET", host="127.0.0.1", port=0) as receiver,
    ):
        ours.destinations["TARGET"] = remote_at(receiver.port, aet="TARGET")
        outcomes: list[int] = []

        def one(study_instance_uid: str) -> None:
            outcomes.append(move(ours.remote, node, study_instance_uid, [], "TARGET", whole=[]).completed)

        threads = [threading.Thread(target=one, args=(study.study_instance_uid,)) for study in studies]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert outcomes == [10] * 6
    assert sorted(file.dataset_sha256 for file in all_received(target)) == sorted(
        digest(instance) for instance in index.instances
    )


def _eventually(is_so: Callable[[], bool], seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
