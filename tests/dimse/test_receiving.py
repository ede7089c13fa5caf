"""The receiver over real associations, under our own P-DATA loop and under the library's."""

import hashlib
import os
import re
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from arranging_receiver import (
    CT,
    EXPLICIT,
    PRIVATE_CLASS,
    VERIFICATION,
    Sender,
    all_received,
    dataset_of,
    echo_command,
    element,
    p_data,
    pdv,
    store_command,
)

from vna.dimse.pdata import Loop
from vna.dimse.receiver import Receiver
from vna.errors import DiskFull, PortInUse, SettingsError, SpoolUnusable
from vna.identity import safe_name
from vna.spool import Spool, read_association

SUCCESS, OUT_OF_RESOURCES, PROCESSING_FAILURE = 0x0000, 0xA700, 0x0110


@pytest.fixture(params=list(Loop))
def receiver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Receiver]:
    spool = Spool(tmp_path / "spool", reserve_bytes=0)
    with Receiver(
        spool, aet="BACKUPDR", host="127.0.0.1", port=0, loop=request.param, network_timeout=3
    ) as running:
        yield running


def until(claim: object, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not claim():  # type: ignore[operator]
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


def no_association_open(receiver: Receiver) -> bool:
    return not receiver.counts.open_associations and not any(
        receiver.spool.is_open(f) for f in receiver.spool.folders()
    )


def echoes(port: int) -> bool:
    sender = Sender(port)
    sender.send(p_data(pdv(3, 3, echo_command())))
    response = sender.response()
    sender.release()
    return int.from_bytes(response[0x0120], "little") == 7 and response[0x0900] == b"\0\0"


def test_an_echo_is_answered(receiver: Receiver) -> None:
    assert echoes(receiver.port)
    until(lambda: no_association_open(receiver))
    assert list(receiver.spool.folders()) == []


def test_what_is_sent_is_in_the_spool_byte_by_byte_when_success_is_said(receiver: Receiver) -> None:
    """Field notes 18, 19 and 37: nothing is decoded or held, and the digest is of what came over the wire."""
    sender = Sender(receiver.port)
    sent = {f"1.2.{size}": os.urandom(size) for size in (2, 6, 1000, 99_999, 100_000, 3_000_001)}
    for uid, data in sent.items():
        assert sender.store(uid, data) == SUCCESS
        assert uid in receiver.spool.pending([uid])
    sender.release()
    files = {file.sop_instance_uid: file for file in all_received(receiver.spool)}
    assert {uid: dataset_of(file.path) for uid, file in files.items()} == sent
    for uid, file in files.items():
        assert file.dataset_sha256 == hashlib.sha256(sent[uid]).hexdigest()
    meta = pydicom.dcmread(files["1.2.6"].path, force=True, stop_before_pixels=True).file_meta
    assert (meta.SourceApplicationEntityTitle, meta.TransferSyntaxUID) == ("SENDER", EXPLICIT)
    (folder,) = receiver.spool.folders()
    record = read_association(folder)
    assert (record.calling_aet, record.called_aet, record.peer_address) == ("SENDER", "BACKUPDR", "127.0.0.1")


def test_the_response_names_the_request(receiver: Receiver) -> None:
    sender = Sender(receiver.port)
    sender.send(p_data(pdv(1, 3, store_command("1.2.3", message_id=4711))) + p_data(pdv(1, 2, b"data")))
    response = sender.response()
    assert int.from_bytes(response[0x0120], "little") == 4711
    assert response[0x0100] == b"\x01\x80"
    assert response[0x0800] == b"\x01\x01"
    assert response[0x1000].rstrip(b"\0") == b"1.2.3"
    assert response[0x0002].rstrip(b"\0") == CT.encode()
    length = int.from_bytes(response[0x0000], "little")
    assert length == sum(8 + len(value) for number, value in response.items() if number)
    sender.release()


@pytest.mark.parametrize("cut", [1, 5, 6, 7, 11, 12, 13, 50])
def test_a_message_arrives_whole_however_it_is_cut_on_the_wire(receiver: Receiver, cut: int) -> None:
    message = (
        p_data(pdv(1, 1, store_command("1.2.3")[:40]))
        + p_data(pdv(1, 3, store_command("1.2.3")[40:]))
        + p_data(pdv(1, 0, b"one"), pdv(1, 0, b""), pdv(1, 0, b" two"))
        + p_data(pdv(1, 2, b" three"))
    )
    sender = Sender(receiver.port)
    for start in range(0, len(message), cut):
        sender.send(message[start : start + cut])
        if cut > 12:
            time.sleep(0.01)
    assert sender.status() == SUCCESS
    sender.release()
    (file,) = all_received(receiver.spool)
    assert dataset_of(file.path) == b"one two three"


def test_command_and_data_in_one_pdu_are_taken(receiver: Receiver) -> None:
    sender = Sender(receiver.port)
    sender.send(p_data(pdv(1, 3, store_command("1.2.3")), pdv(1, 2, b"data")))
    assert sender.status() == SUCCESS
    sender.send(p_data(pdv(1, 3, store_command("1.2.4"))) + p_data(pdv(1, 2, b"")))
    assert sender.status() == SUCCESS
    sender.release()


def test_echo_and_store_alternate_on_one_association(receiver: Receiver) -> None:
    sender = Sender(receiver.port)
    for number in range(5):
        assert sender.store(f"1.2.{number}", b"data") == SUCCESS
        sender.send(p_data(pdv(3, 3, echo_command())))
        assert sender.status() == SUCCESS
    sender.release()
    assert len(all_received(receiver.spool)) == 5


def test_any_sop_class_is_taken_in_the_first_transfer_syntax_its_sender_names(receiver: Receiver) -> None:
    """Field notes 16, 17 and 19: private and retired classes, no list, no transcoding."""
    private_syntax = "1.3.6.1.4.1.99999.9"
    contexts = [
        (PRIVATE_CLASS, ["1.2.840.10008.1.2.4.90", EXPLICIT]),
        (PRIVATE_CLASS, [EXPLICIT]),
        (CT, [private_syntax]),
        ("1.2.840.10008.5.1.1.30", [EXPLICIT]),  # retired: Hardcopy Color Image
    ]
    sender = Sender(receiver.port, contexts)
    for number, (sop_class, _) in enumerate(contexts):
        status = sender.store(
            f"1.2.{number}", b"x" * number, context_id=2 * number + 1, sop_class_uid=sop_class
        )
        assert status == SUCCESS
    sender.release()
    syntaxes = {
        file.sop_instance_uid: str(pydicom.dcmread(file.path, force=True).file_meta.TransferSyntaxUID)
        for file in all_received(receiver.spool)
        if file.sop_instance_uid != "1.2.2"
    }
    assert syntaxes == {"1.2.0": "1.2.840.10008.1.2.4.90", "1.2.1": EXPLICIT, "1.2.3": EXPLICIT}
    (odd,) = [file for file in all_received(receiver.spool) if file.sop_instance_uid == "1.2.2"]
    assert private_syntax.encode() in odd.path.read_bytes()


def test_a_service_we_do_not_offer_gets_no_context(receiver: Receiver) -> None:
    worklist = "1.2.840.10008.5.1.4.31"
    sender = Sender(receiver.port, [(worklist, [EXPLICIT]), (VERIFICATION, [EXPLICIT])])
    assert sender.kind == 2
    results = dict(re.findall(rb"\x21\0\0.(.)\0(.)", sender.answer, re.DOTALL))
    assert results == {b"\1": b"\3", b"\3": b"\0"}
    sender.release()


def test_a_store_on_a_context_that_is_not_for_storage_is_refused(receiver: Receiver) -> None:
    sender = Sender(receiver.port)
    assert sender.store("1.2.3", b"data", context_id=3) == 0x0122
    assert sender.store("1.2.4", b"data") == SUCCESS
    sender.release()


def test_another_called_ae_title_is_refused_with_the_reason(receiver: Receiver) -> None:
    sender = Sender(receiver.port, called="SOMEBODY")
    assert sender.kind == 3
    assert tuple(sender.answer[1:4]) == (1, 1, 7)


def test_a_sender_with_a_tiny_pdu_gets_its_answer_in_pieces(receiver: Receiver) -> None:
    sender = Sender(receiver.port, max_pdu=128)
    assert sender.store("1.2.3", b"data") == SUCCESS
    sender.release()


def test_below_the_reserve_each_object_is_refused_and_the_association_goes_on(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int = 0) -> None:
        raise DiskFull("spool", 1, 2)

    sender = Sender(receiver.port)
    assert sender.store("1.2.1", b"data") == SUCCESS
    with monkeypatch.context() as patch:
        patch.setattr(receiver.spool, "check_space", full)
        assert sender.store("1.2.2", b"x" * 500_000) == OUT_OF_RESOURCES
        sender.send(p_data(pdv(3, 3, echo_command())))
        assert sender.status() == SUCCESS
    assert sender.store("1.2.2", b"x" * 500_000) == SUCCESS
    sender.release()
    assert len(all_received(receiver.spool)) == 2
    assert not list(receiver.spool.path.rglob("*.part"))


def test_a_disk_that_fills_inside_an_object_is_out_of_resources(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = Sender(receiver.port)
    assert sender.store("1.2.1", b"data") == SUCCESS
    monkeypatch.setattr("vna.spool.writing.CHECK_EVERY", 2**18)
    calls = iter([None, DiskFull("spool", 1, 2)])

    def fills(_: int = 0) -> None:
        if (error := next(calls, None)) is not None:
            raise error

    monkeypatch.setattr(receiver.spool, "check_space", fills)
    assert sender.store("1.2.2", bytes(2**20)) == OUT_OF_RESOURCES
    sender.release()
    assert [file.sop_instance_uid for file in all_received(receiver.spool)] == ["1.2.1"]
    assert not list(receiver.spool.path.rglob("*.part"))


def test_a_disk_that_fails_is_a_processing_failure_and_never_success(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> None:
        raise OSError(5, "Input/output error")

    sender = Sender(receiver.port)
    assert sender.store("1.2.1", b"data") == SUCCESS
    with monkeypatch.context() as patch:
        patch.setattr("vna.platform.KeptFolder.sync", broken)
        assert sender.store("1.2.2", b"data") == PROCESSING_FAILURE
    assert sender.store("1.2.3", b"data") == SUCCESS
    sender.release()


@pytest.mark.parametrize("uid", ["../../../../tmp/evil", "1.2\\3", "1." * 60 + "1", ".", "a" * 300])
def test_an_invalid_uid_is_stored_under_a_safe_name_inside_the_spool(receiver: Receiver, uid: str) -> None:
    """Field note 30: a UID is no path."""
    sender = Sender(receiver.port)
    assert sender.store(uid, b"data") == SUCCESS
    sender.release()
    (file,) = all_received(receiver.spool)
    assert file.sop_instance_uid == safe_name(uid)
    assert file.path.parent.parent == receiver.spool.path
    assert uid.encode() in file.path.read_bytes()


def test_the_same_instance_twice_succeeds_twice_and_is_kept_once(receiver: Receiver) -> None:
    """Field note 26: who got no answer sends again."""
    sender = Sender(receiver.port)
    assert [sender.store("1.2.3", b"data") for _ in range(2)] == [SUCCESS, SUCCESS]
    sender.release()
    assert len(all_received(receiver.spool)) == 1


@pytest.mark.parametrize("part", ["command", "data", "pdu"])
def test_a_sender_that_vanishes_leaves_only_what_was_acknowledged(receiver: Receiver, part: str) -> None:
    """Field notes 28 and 35: a cut data set is never kept, a partial never left."""
    sender = Sender(receiver.port)
    assert sender.store("1.2.1", b"whole") == SUCCESS
    sender.send(p_data(pdv(1, 3, store_command("1.2.2")))[: None if part != "command" else 30])
    if part == "data":
        sender.send(p_data(pdv(1, 0, b"half")))
    if part == "pdu":
        sender.send(p_data(pdv(1, 0, b"x" * 1000))[:500])
    time.sleep(0.1)
    sender.close()
    until(lambda: no_association_open(receiver))
    (folder,) = receiver.spool.folders()
    assert [file.sop_instance_uid for file in receiver.spool.received(folder)] == ["1.2.1"]
    assert not list(folder.glob("*.part"))
    assert echoes(receiver.port)


def test_a_sender_that_falls_silent_inside_an_object_is_given_up(receiver: Receiver) -> None:
    sender = Sender(receiver.port)
    sender.send(p_data(pdv(1, 3, store_command("1.2.2"))) + p_data(pdv(1, 0, b"x" * 1000))[:500])
    until(lambda: no_association_open(receiver), seconds=12)
    assert list(receiver.spool.folders()) == []


GARBAGE = {
    "an unknown PDU type": b"\x2a\0\0\0\0\4abcd",
    "noise": b"\xff" * 5000,
    "an HTTP request": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a PDU longer than agreed": struct.pack(">BBI", 4, 0, 2**31) + b"x" * 1000,
    "a fragment longer than its PDU": struct.pack(">BBIIBB", 4, 0, 10, 2**30, 1, 0) + b"abcd",
    "a fragment without room for its head": struct.pack(">BBII", 4, 0, 4, 1),
    "data before any command": p_data(pdv(1, 2, b"data")),
    "two messages mixed": p_data(pdv(1, 3, store_command("1.2.9")), pdv(3, 3, echo_command())),
    "a command inside a data set": p_data(
        pdv(1, 3, store_command("1.2.9")), pdv(1, 3, store_command("1.2.8"))
    ),
    "a command that is none": p_data(pdv(1, 3, b"\x08\0\x05\0\xff\xff\xff\xffgarbage")),
    "a command without a field": p_data(pdv(1, 3, element(0x0002, b"1.2"))),
    "a second association request": b"\1\0\0\0\0\4abcd",
    "a huge control PDU": struct.pack(">BBI", 1, 0, 2**32 - 1) + b"x" * 1000,
    "an endless command": p_data(pdv(1, 1, b"x" * 60_000)) * 3,
}


@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_after_negotiation_ends_only_its_association(receiver: Receiver, kind: str) -> None:
    """Field note 24: what a PDU declares is believed up to what was agreed."""
    sender = Sender(receiver.port)
    assert sender.store("1.2.1", b"whole") == SUCCESS
    sender.send(GARBAGE[kind])
    kind_of_answer, _ = sender.pdu()
    assert kind_of_answer in {7, 0}, "aborted or closed"
    sender.close()
    until(lambda: no_association_open(receiver))
    assert [file.sop_instance_uid for file in all_received(receiver.spool)] == ["1.2.1"]
    assert not list(receiver.spool.path.rglob("*.part"))
    assert echoes(receiver.port)


def test_a_store_without_a_data_set_is_refused(receiver: Receiver) -> None:
    sender = Sender(receiver.port)
    sender.send(p_data(pdv(1, 3, store_command("1.2.3", dataset=False))))
    assert sender.status() == 0xC000
    assert sender.store("1.2.4", b"data") == SUCCESS
    sender.release()


def test_several_senders_at_once_mix_nothing(receiver: Receiver) -> None:
    """Field note 19: parallel senders, each with an association of its own."""
    sent: dict[str, bytes] = {}
    errors: list[BaseException] = []

    def send(number: int) -> None:
        try:
            sender = Sender(receiver.port)
            for count in range(15):
                uid = f"1.2.{number}.{count}"
                sent[uid] = os.urandom(200_000 + number)
                assert sender.store(uid, sent[uid]) == SUCCESS
            sender.release()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert {file.sop_instance_uid: dataset_of(file.path) for file in all_received(receiver.spool)} == sent
    assert len(list(receiver.spool.folders())) == 6


def test_threads_and_folders_are_given_back(receiver: Receiver) -> None:
    assert echoes(receiver.port)
    until(lambda: no_association_open(receiver))
    time.sleep(0.2)
    before = threading.active_count()
    for number in range(20):
        sender = Sender(receiver.port)
        if number % 2:
            assert sender.store("1.2.3", b"data") == SUCCESS
            sender.release()
        else:
            sender.close()
    until(lambda: no_association_open(receiver) and threading.active_count() <= before + 1)


def test_draining_finishes_what_is_being_received_and_takes_nothing_new(receiver: Receiver) -> None:
    sender = Sender(receiver.port)
    sender.send(p_data(pdv(1, 3, store_command("1.2.3"))) + p_data(pdv(1, 0, b"half, ")))
    time.sleep(0.2)
    drained = threading.Thread(target=receiver.drain, args=(10,))
    drained.start()
    time.sleep(0.8)
    with pytest.raises(OSError):
        Sender(receiver.port)
    sender.send(p_data(pdv(1, 2, b"whole")))
    assert sender.status() == SUCCESS
    drained.join(8)
    assert not drained.is_alive()
    (file,) = all_received(receiver.spool)
    assert dataset_of(file.path) == b"half, whole"


def test_draining_does_not_wait_for_an_association_that_is_idle(receiver: Receiver) -> None:
    sender = Sender(receiver.port)
    assert sender.store("1.2.3", b"data") == SUCCESS
    started = time.monotonic()
    receiver.drain(20)
    assert time.monotonic() - started < 5
    assert sender.pdu()[0] == 7


def test_a_port_that_a_stranger_holds_is_one_sentence(receiver: Receiver, tmp_path: Path) -> None:
    other = Receiver(Spool(tmp_path / "other", 0), aet="X", host="127.0.0.1", port=receiver.port)
    with pytest.raises(PortInUse):
        other.start()


def test_a_spool_that_cannot_be_used_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("")
    with pytest.raises(SpoolUnusable):
        Receiver(Spool(tmp_path / "spool", 0), aet="X", host="127.0.0.1", port=0).start()


def test_too_many_associations_are_refused_for_now(tmp_path: Path) -> None:
    """Field notes 23 and 38."""
    spool = Spool(tmp_path / "spool", 0)
    with Receiver(spool, aet="BACKUPDR", host="127.0.0.1", port=0, max_associations=2) as running:
        first, second = Sender(running.port), Sender(running.port)
        refused = Sender(running.port)
        assert refused.kind == 3
        assert tuple(refused.answer[1:4]) == (2, 3, 2)
        first.release()
        second.release()
        until(lambda: Sender(running.port).kind == 2)


def test_an_unknown_loop_is_a_settings_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKUPDR_RECEIVE_LOOP", "fastest")
    with pytest.raises(SettingsError, match="own or library"):
        Receiver(Spool(tmp_path / "spool", 0), aet="X", host="127.0.0.1", port=0)
