"""Sending what is kept: the bytes as they are, good copies only, and nothing called stored that nobody knows of."""

import socket
import ssl
import struct
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import trustme
from arranging_receiver import CT, EXPLICIT, Sender, all_received, element, p_data, pdv, store_command
from arranging_retrieve import (
    FileIndex,
    StorageScp,
    digest,
    held,
    held_of,
    respond,
    spoil,
    spoiled,
)
from dimse.conftest import remote_at
from pynetdicom import AE, evt

from vna.dimse.answering_retrieve import GetService
from vna.dimse.index import HeldInstance
from vna.dimse.node import OurNode
from vna.dimse.outgoing import BUFFER_BYTES
from vna.dimse.receiver import Receiver
from vna.dimse.sending import sending
from vna.errors import (
    AnswerInvalid,
    AssociationAborted,
    InstanceRefused,
    NoGoodCopy,
    PeerTimeout,
    RemoteUnreachable,
    SyntaxNotAccepted,
)
from vna.simulated_pacs import shipped_files, write_studies
from vna.spool import Spool

STUDY_GET = "1.2.840.10008.5.1.4.1.2.2.3"


@pytest.fixture
def images(tmp_path: Path) -> list[HeldInstance]:
    """Six small CT images."""
    studies = write_studies(
        tmp_path / "kept", 1, instances=6, modalities=["CT"], transfer_syntaxes=[EXPLICIT]
    )
    return held_of(studies)


def large_image(tmp_path: Path, size: int = 3_000_000) -> HeldInstance:
    (image,) = held_of(write_studies(tmp_path / "large", 1, instances=1, seed=2, size_bytes=size))
    assert image.files[0].size > BUFFER_BYTES
    return image


def test_every_transfer_syntax_arrives_byte_for_byte(tmp_path: Path, node: OurNode) -> None:
    kept = held_of(write_studies(tmp_path / "kept", 12))
    kept += [held(path) for path in shipped_files()]
    spool = Spool(tmp_path / "spool", reserve_bytes=0)
    with (
        Receiver(spool, aet="PEER", host="127.0.0.1", port=0) as receiver,
        sending(remote_at(receiver.port), node) as destination,
    ):
        outcomes = list(destination.store_each(kept))
    assert [instance for instance, _ in outcomes] == kept
    assert {outcome.status for _, outcome in outcomes} == {0}
    assert sorted(file.dataset_sha256 for file in all_received(spool)) == sorted(map(digest, kept))
    assert len({instance.transfer_syntax_uid for instance in kept}) >= 8


def test_a_large_object_arrives_byte_for_byte_in_pdus_the_peer_accepts(tmp_path: Path, node: OurNode) -> None:
    image = large_image(tmp_path)
    for max_pdu in (4096, 16384, 131072, 0):
        scp = StorageScp(max_pdu=max_pdu)
        with scp.listening() as port, sending(remote_at(port), node) as destination:
            assert destination.store(image, move_originator=("ASKER", 7)).status == 0
        (stored,) = scp.stored
        assert (stored.sha256, stored.originator) == (digest(image), ("ASKER", 7))
        assert stored.largest_pdu <= (max_pdu or 2**18)
        assert scp.ends == ["released"]


def test_an_odd_largest_pdu_of_the_peer_gives_even_fragments(
    images: list[HeldInstance], node: OurNode
) -> None:
    scp = StorageScp(max_pdu=4097)
    with scp.listening() as port, sending(remote_at(port), node) as destination:
        assert destination.store(images[0]).status == 0
    assert scp.stored[0].sha256 == digest(images[0])
    assert scp.stored[0].largest_pdu % 2 == 0


def test_a_rotten_copy_is_never_sent_where_a_good_one_is_there(
    tmp_path: Path, images: list[HeldInstance], node: OurNode
) -> None:
    mirror = tmp_path / "mirror.dcm"
    mirror.write_bytes(images[0].files[0].path.read_bytes())
    both = held(images[0].files[0].path, mirror)
    spoil(both.files[0].path)
    scp = StorageScp()
    with scp.listening() as port, sending(remote_at(port), node) as destination:
        assert destination.store(both).status == 0
    assert [stored.sha256 for stored in scp.stored] == [digest(both)]


@pytest.mark.parametrize("size", [2048, 3_000_000])
def test_an_instance_without_a_good_copy_is_not_sent_and_the_next_one_is(
    tmp_path: Path, images: list[HeldInstance], node: OurNode, size: int
) -> None:
    (rotten,) = held_of(write_studies(tmp_path / "rotten", 1, instances=1, size_bytes=size))
    spoil(rotten.files[0].path)
    shorter, gone, good = images[:3]
    shorter.files[0].path.write_bytes(shorter.files[0].path.read_bytes()[:-2])
    gone.files[0].path.unlink()
    scp = StorageScp()
    with scp.listening() as port, sending(remote_at(port), node) as destination:
        outcomes = list(destination.store_each([rotten, shorter, gone, good]))
    assert [outcome.status for _, outcome in outcomes] == [None, None, None, 0]
    assert all(isinstance(outcome.error, NoGoodCopy) for _, outcome in outcomes[:3])
    assert [stored.sop_instance_uid for stored in scp.stored] == [good.sop_instance_uid]
    assert scp.ends == ["released"]


def test_a_large_copy_that_rots_while_it_is_sent_is_never_completed(
    tmp_path: Path, images: list[HeldInstance], node: OurNode
) -> None:
    image = large_image(tmp_path)
    reads = 0

    def rot_once_it_was_proven() -> None:
        nonlocal reads
        reads += 1
        if reads == 5:  # four between the five buffers of the proof, the fifth is while sending
            spoil(image.files[0].path)

    scp = StorageScp()
    with scp.listening() as port, sending(remote_at(port), node) as destination:
        first = destination.store(image, working=rot_once_it_was_proven)
        second = destination.store(images[0])
    assert reads >= 5
    assert isinstance(first.error, NoGoodCopy)
    assert second.status == 0
    assert [stored.sha256 for stored in scp.stored] == [digest(images[0])]


def test_an_answer_without_status_is_no_success_and_the_instance_is_sent_again(
    images: list[HeldInstance], node: OurNode
) -> None:
    """Field note 26: an empty status means that nobody knows."""
    scp = StorageScp({1: lambda _, *rest: respond(*rest, None)})
    with scp.listening() as port, sending(remote_at(port), node) as destination:
        outcomes = list(destination.store_each(images))
    assert [outcome.status for _, outcome in outcomes] == [0] * 6
    assert [stored.sop_instance_uid for stored in scp.stored] == [i.sop_instance_uid for i in images]
    assert scp.requests == 7


def test_a_peer_that_always_answers_without_status_is_given_up_and_nothing_counts_as_stored(
    images: list[HeldInstance], node: OurNode
) -> None:
    scp = StorageScp(always=lambda _, *rest: respond(*rest, None))
    with scp.listening() as port, sending(remote_at(port), node) as destination:
        outcomes = list(destination.store_each(images))
        assert isinstance(destination.gave_up, AnswerInvalid)
    assert [outcome.status for _, outcome in outcomes] == [None] * 6
    assert scp.requests == 6  # three instances, twice each


def test_an_association_that_ends_in_the_middle_is_opened_anew(
    images: list[HeldInstance], node: OurNode
) -> None:
    def vanish(_: StorageScp, connection: socket.socket, *__: object) -> None:
        connection.close()

    scp = StorageScp({2: vanish, 4: vanish})
    with scp.listening() as port, sending(remote_at(port), node) as destination:
        outcomes = list(destination.store_each(images))
    assert [outcome.status for _, outcome in outcomes] == [0] * 6
    assert len(scp.associations) == 3
    assert sorted(s.sop_instance_uid for s in scp.stored) == sorted(i.sop_instance_uid for i in images)


def test_one_instance_that_makes_the_peer_abort_does_not_keep_the_others(
    images: list[HeldInstance], node: OurNode
) -> None:
    poison = images[2].sop_instance_uid

    def choke(event: evt.Event) -> int:
        if event.request.AffectedSOPInstanceUID == poison:
            event.assoc.abort()
        return 0

    entity = AE("PEER")
    entity.add_supported_context(CT)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, choke)])
    try:
        with sending(remote_at(server.server_address[1]), node) as destination:
            outcomes = {i.sop_instance_uid: outcome for i, outcome in destination.store_each(images)}
    finally:
        server.shutdown()
    assert isinstance(outcomes.pop(poison).error, AssociationAborted)
    assert {outcome.status for outcome in outcomes.values()} == {0}


def test_a_peer_that_never_answers_is_a_timeout_and_no_success(
    images: list[HeldInstance], node: OurNode
) -> None:
    silent = OurNode("BACKUPDR", acse_timeout=2, dimse_timeout=0.3, network_timeout=5)
    scp = StorageScp(always=lambda *_: None)
    with scp.listening() as port, sending(remote_at(port), silent) as destination:
        outcomes = list(destination.store_each(images))
    assert all(isinstance(outcome.error, PeerTimeout) for _, outcome in outcomes)
    assert scp.requests == 3  # then it is given up


def test_a_peer_that_takes_nothing_more_is_a_timeout(tmp_path: Path) -> None:
    """Silent in the middle of a data set: the buffers of the network are full."""
    image = large_image(tmp_path, 30_000_000)
    stuck = OurNode("BACKUPDR", acse_timeout=2, dimse_timeout=1, network_timeout=0.5)
    scp = StorageScp()
    release = threading.Event()
    scp._one = lambda _: release.wait(30)  # type: ignore[method-assign]
    with scp.listening() as port, sending(remote_at(port), stuck) as destination:
        began = time.monotonic()
        outcome = destination.store(image)
        assert isinstance(outcome.error, PeerTimeout)
        assert time.monotonic() - began < 5
    release.set()


def test_an_answer_for_another_instance_is_no_success(images: list[HeldInstance], node: OurNode) -> None:
    def lie(_: StorageScp, connection: socket.socket, context: int, message: bytes, uid: bytes) -> None:
        respond(connection, context, message, b"1.2.3.4", 0)

    scp = StorageScp({0: lie})
    with scp.listening() as port, sending(remote_at(port), node) as destination:
        first, second = (outcome for _, outcome in destination.store_each(images[:2]))
    assert isinstance(first.error, AnswerInvalid)
    assert second.status == 0


def test_failures_and_warnings_of_the_peer_are_told_apart(images: list[HeldInstance], node: OurNode) -> None:
    statuses = {1: 0xA700, 2: 0xB000, 3: 0xC123, 4: 0x0110}
    scp = StorageScp({n: lambda _, *rest, s=status: respond(*rest, s) for n, status in statuses.items()})
    with scp.listening() as port, sending(remote_at(port), node) as destination:
        outcomes = [outcome for _, outcome in destination.store_each(images)]
    assert [outcome.status for outcome in outcomes] == [0, 0xA700, 0xB000, 0xC123, 0x0110, 0]
    assert [outcome.error is None for outcome in outcomes] == [True, False, True, False, False, True]
    refused = outcomes[1].error
    assert isinstance(refused, InstanceRefused)
    assert refused.transient
    assert "0xA700" in outcomes[1].sentence


def test_a_syntax_the_peer_does_not_accept_is_a_failure_and_never_converted(
    tmp_path: Path, node: OurNode
) -> None:
    kept = held_of(write_studies(tmp_path / "kept", 5, instances=1, modalities=["CT"]))
    refused = kept[2].transfer_syntax_uid
    scp = StorageScp(refuses={refused})
    with scp.listening() as port, sending(remote_at(port), node) as destination:
        outcomes = list(destination.store_each(kept))
    assert [outcome.status for _, outcome in outcomes] == [0, 0, None, 0, 0]
    assert isinstance(outcomes[2][1].error, SyntaxNotAccepted)
    assert refused in outcomes[2][1].sentence
    assert len(scp.associations) == 1


def test_a_peer_that_accepts_nothing_is_asked_once(images: list[HeldInstance], node: OurNode) -> None:
    scp = StorageScp(refuses={EXPLICIT})
    with scp.listening() as port, sending(remote_at(port), node) as destination:
        outcomes = [outcome for _, outcome in destination.store_each(images)]
    assert all(isinstance(outcome.error, SyntaxNotAccepted) for outcome in outcomes)
    assert len(scp.associations) == 1


def test_one_context_for_each_class_and_syntax_and_never_more_than_128_on_an_association(
    images: list[HeldInstance], node: OurNode
) -> None:
    """Field note 16."""
    kept = [replace(images[0], sop_class_uid=f"1.2.826.0.1.{n}") for n in range(300)]
    scp = StorageScp()
    with scp.listening() as port, sending(remote_at(port), node) as destination:
        assert {outcome.status for _, outcome in destination.store_each(kept)} == {0}
    assert len(scp.stored) == 300
    assert max(map(len, scp.associations)) <= 128
    assert len(scp.associations) <= 4


def test_nobody_there_is_found_out_once(images: list[HeldInstance], node: OurNode) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    began = time.monotonic()
    with sending(remote_at(port), node) as destination:
        outcomes = [outcome for _, outcome in destination.store_each(images)]
    assert all(isinstance(outcome.error, RemoteUnreachable) for outcome in outcomes)
    assert time.monotonic() - began < 3


def test_a_slow_peer_is_waited_for_and_whoever_waits_hears_of_it(
    images: list[HeldInstance], node: OurNode
) -> None:
    heard: list[float] = []

    def later(_: StorageScp, connection: socket.socket, context: int, message: bytes, uid: bytes) -> None:
        time.sleep(1.5)
        respond(connection, context, message, uid, 0)

    scp = StorageScp({0: later})
    with scp.listening() as port, sending(remote_at(port), node) as destination:
        outcome = destination.store(images[0], working=lambda: heard.append(time.monotonic()))
    assert outcome.status == 0
    assert heard


def test_who_stops_in_the_middle_aborts_the_association(tmp_path: Path, node: OurNode) -> None:
    image = large_image(tmp_path)
    calls = 0

    def stop() -> None:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise KeyboardInterrupt

    scp = StorageScp()
    with (
        scp.listening() as port,
        pytest.raises(KeyboardInterrupt),
        sending(remote_at(port), node) as destination,
    ):
        destination.store(image, working=stop)
    deadline = time.monotonic() + 5
    while not scp.ends and time.monotonic() < deadline:
        time.sleep(0.01)
    assert scp.ends in (["aborted"], ["closed"])
    assert not scp.stored


def test_nothing_of_ours_stays_behind(images: list[HeldInstance], node: OurNode) -> None:
    before = threading.active_count()
    scp = StorageScp()
    with scp.listening() as port:
        for _ in range(3):
            with sending(remote_at(port), node) as destination:
                list(destination.store_each(images))
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert threading.active_count() <= before


def test_it_goes_by_tls_as_well(tmp_path: Path, images: list[HeldInstance], node: OurNode) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    got: dict[str, bytes] = {}

    def keep(event: evt.Event) -> int:
        got[event.request.AffectedSOPInstanceUID] = event.request.DataSet.getvalue()
        return 0

    entity = AE("PEER")
    for uid in {CT, large_image(tmp_path).sop_class_uid}:
        entity.add_supported_context(uid, [EXPLICIT])
    server = entity.start_server(
        ("127.0.0.1", 0), block=False, ssl_context=context, evt_handlers=[(evt.EVT_C_STORE, keep)]
    )
    kept = [*images, large_image(tmp_path)]
    try:
        remote = remote_at(server.server_address[1], tls={"ca_file": str(ca_file)})
        with sending(remote, node) as destination:
            assert [outcome.sentence for _, outcome in destination.store_each(kept)] == [""] * 7
    finally:
        server.shutdown()
    for instance in kept:
        (file,) = instance.files
        assert got[instance.sop_instance_uid] == file.path.read_bytes()[file.header_length :]


def test_what_nobody_recorded_is_not_sent(images: list[HeldInstance], node: OurNode) -> None:
    scp = StorageScp()
    with scp.listening() as port, sending(remote_at(port), node) as destination:
        assert isinstance(destination.store(spoiled(images[0])).error, NoGoodCopy)
    assert not scp.requests


def test_a_request_in_the_place_of_an_answer_ends_the_conversation_for_both(
    tmp_path: Path, images: list[HeldInstance]
) -> None:
    """Over a C-GET, whose connection is the requester's: nobody would answer its request, and it would wait."""
    body = element(0x0002, STUDY_GET.encode()) + element(0x0100, b"\x10\0") + element(0x0110, b"\x09\0")
    body += element(0x0700, b"\0\0") + element(0x0800, b"\0\0")
    command = element(0x0000, struct.pack("<I", len(body))) + body
    uid = images[0].study_instance_uid.encode()
    uid += b"\0" * (len(uid) % 2)
    identifier = b"\x08\0\x52\0CS\x06\0STUDY " + b"\x20\0\x0d\0UI" + struct.pack("<H", len(uid)) + uid
    spool = Spool(tmp_path / "spool", reserve_bytes=0)
    service = GetService(FileIndex(images))
    with Receiver(spool, aet="BACKUPDR", host="127.0.0.1", port=0, services=(service,)) as receiver:
        contexts = [(CT, [EXPLICIT]), (STUDY_GET, [EXPLICIT])]
        sender = Sender(receiver.port, contexts, roles={CT: (True, True)})
        assert set(sender.results.values()) == {0}
        sender.send(p_data(pdv(3, 3, command)) + p_data(pdv(3, 2, identifier)))
        while sender.response()[0x0100] != b"\x01\0":
            pass  # pending responses
        sender.socket.settimeout(5)
        sender.send(p_data(pdv(1, 3, store_command("1.2.3"))) + p_data(pdv(1, 2, b"data")))
        while sender.pdu()[0]:
            pass  # what was under way; then the end of the connection
        deadline = time.monotonic() + 5
        while receiver.counts.open_associations:
            assert time.monotonic() < deadline
            time.sleep(0.01)
