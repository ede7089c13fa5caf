"""Peers that break receivers: silence, trickles, floods of connections, fuzzed PDUs (field notes 23 to 25)."""

import contextlib
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from arranging_receiver import (
    CT,
    EXPLICIT,
    VERIFICATION,
    Sender,
    all_received,
    association_request,
    dataset_of,
    echo_command,
    p_data,
    pdv,
    store_command,
)

from vna.dimse.admission import Reason
from vna.dimse.listening import SEATS
from vna.dimse.pdata import Loop
from vna.dimse.receiver import Receiver
from vna.spool import Spool


@pytest.fixture
def receiver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setattr("vna.dimse.listening.NEGOTIATION_SECONDS", 1.0)
    monkeypatch.setattr("vna.dimse.pdata.CONTROL_SECONDS", 1.0)
    spool = Spool(tmp_path / "spool", reserve_bytes=0)
    with Receiver(
        spool, aet="BACKUPDR", host="127.0.0.1", port=0, loop=Loop.own, network_timeout=2
    ) as running:
        yield running


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def echo_seconds(port: int) -> float:
    """How long it takes to be served; a refusal for now is asked again, as a modality does."""
    started = time.monotonic()
    while (sender := Sender(port)).kind != 2:
        assert time.monotonic() - started < 15
        time.sleep(0.1)
    sender.send(p_data(pdv(3, 3, echo_command())))
    assert sender.status() == 0
    sender.release()
    return time.monotonic() - started


def until(claim: object, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not claim():  # type: ignore[operator]
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.05)


def is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1000) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def test_silent_connections_are_closed_and_meanwhile_others_are_served(receiver: Receiver) -> None:
    """Field note 23."""
    silent = [connect(receiver.port) for _ in range(20)]
    assert echo_seconds(receiver.port) < 5
    for connection in silent:
        connection.settimeout(8)
        assert is_closed(connection)
    until(lambda: not receiver.counts.open_associations and not receiver.counts.waiting)


def test_a_request_that_trickles_in_is_given_up(receiver: Receiver) -> None:
    """Field note 23."""
    connection = connect(receiver.port)
    started = time.monotonic()
    with contextlib.suppress(OSError):
        for byte in association_request([(CT, [EXPLICIT])]):
            connection.sendall(bytes([byte]))
            time.sleep(0.2)
            if time.monotonic() - started > 10:
                break
    assert time.monotonic() - started < 8, "it was still being listened to"
    until(lambda: not receiver.counts.open_associations and not receiver.counts.waiting)


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"\0" * 100,
        b"GET / HTTP/1.0\r\n\r\n",
        struct.pack(">BBI", 1, 0, 2**32 - 1) + b"x" * 10_000,
        struct.pack(">BBI", 1, 0, 4) + b"abcd",
        p_data(pdv(1, 3, store_command("1.2.3"))),
        struct.pack(">BBII", 5, 0, 4, 0),
        struct.pack(">BBII", 7, 0, 4, 0),
    ],
)
def test_anything_but_a_request_at_the_start_is_turned_away(receiver: Receiver, start: bytes) -> None:
    """Field note 24."""
    connection = connect(receiver.port)
    with contextlib.suppress(OSError):
        connection.sendall(start)
        connection.shutdown(socket.SHUT_WR)
    until(lambda: not receiver.counts.open_associations and not receiver.counts.waiting)
    assert echo_seconds(receiver.port) < 5
    assert list(receiver.spool.folders()) == []


def fuzzed(chance: random.Random) -> bytes:
    """A usual association and message with some bytes changed, cut out or put in."""
    usual = bytearray(
        association_request([(CT, [EXPLICIT])])
        + p_data(pdv(1, 3, store_command("1.2.3")))
        + p_data(pdv(1, 2, b"data" * 50))
    )
    first = chance.choice([0, 6, 60, len(association_request([(CT, [EXPLICIT])]))])
    for _ in range(chance.randrange(1, 8)):
        at = chance.randrange(first, len(usual))
        match chance.randrange(4):
            case 0:
                usual[at] = chance.randrange(256)
            case 1:
                del usual[at : at + chance.randrange(1, 20)]
            case 2:
                usual[at:at] = chance.randbytes(chance.randrange(1, 20))
            case _:
                usual[at : at + 4] = struct.pack(">I", chance.choice([0, 1, 2**16, 2**31, 2**32 - 1]))
        if len(usual) <= first + 1:
            break
    return bytes(usual)


def test_fuzzed_associations_leave_a_server_that_answers_and_no_thread(receiver: Receiver) -> None:
    """Field note 25, small and in this process; in full in test_fuzzing."""
    echo_seconds(receiver.port)
    until(lambda: not receiver.counts.open_associations and not receiver.counts.waiting)
    time.sleep(0.2)
    before = threading.active_count()
    chance = random.Random(20260101)
    for number in range(300):
        connection = connect(receiver.port)
        with contextlib.suppress(OSError):
            connection.sendall(fuzzed(chance))
            connection.shutdown(socket.SHUT_WR)
        connection.close()
        if number % 50 == 49:
            assert echo_seconds(receiver.port) < 15
    until(lambda: threading.active_count() <= before + 2, seconds=30)
    assert not list(receiver.spool.path.rglob("*.part"))
    assert all(file.path.parent.parent == receiver.spool.path for file in all_received(receiver.spool))
    assert {path.name for path in receiver.spool.path.parent.iterdir()} == {"spool"}


def echo_from(address: str, port: int) -> float:
    started = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=15, source_address=(address, 0)) as connection:
        connection.sendall(association_request([(VERIFICATION, [EXPLICIT])]))
        assert connection.recv(1) == b"\2"
    return time.monotonic() - started


def test_thousands_of_silent_connections_cost_no_thread_and_keep_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Field note 23: who only connects takes a seat at the door from its own address, never an association."""
    monkeypatch.setattr("vna.dimse.listening.NEGOTIATION_SECONDS", 2.0)
    spool = Spool(tmp_path / "spool", reserve_bytes=0)
    with Receiver(spool, aet="BACKUPDR", host="127.0.0.1", port=0, max_associations=4) as receiver:
        before = threading.active_count()
        crowd: list[socket.socket] = []
        slowest = 0.0
        for number in range(3000):
            crowd.append(connect(receiver.port))
            if number % 100 == 99:
                slowest = max(slowest, echo_from("127.0.0.2", receiver.port))
                assert threading.active_count() <= before + 4  # of that echo
                assert receiver.counts.waiting <= SEATS
        assert slowest < 5
        assert echo_seconds(receiver.port) < 15
        until(lambda: receiver.counts.waiting == 0)
        counts = receiver.counts
        assert counts.refused[Reason.crowd] + counts.refused.get(Reason.silent, 0) >= 3000 - 5
        assert set(counts.refused) <= {Reason.crowd, Reason.silent}
        for connection in crowd:
            connection.close()


def test_a_department_that_connects_all_at_once_is_served_up_to_the_limit_and_the_rest_told_to_wait(
    tmp_path: Path,
) -> None:
    """Field note 38."""
    spool = Spool(tmp_path / "spool", reserve_bytes=0)
    answers: list[tuple[int, ...]] = []
    all_asked = threading.Barrier(150, timeout=60)

    def ask(port: int) -> None:
        sender = Sender(port)
        answers.append(sender.refused)
        all_asked.wait()
        if not sender.refused:
            assert sender.echo() == 0
            sender.release()

    with Receiver(spool, aet="BACKUPDR", host="127.0.0.1", port=0, max_associations=40) as receiver:
        threads = [threading.Thread(target=ask, args=(receiver.port,)) for _ in range(150)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers.count(()) == 40
        assert answers.count((2, 3, 2)) == 110
        until(lambda: receiver.counts.open_associations == 0)
        assert receiver.counts.refused == {Reason.limit: 110}


def test_a_length_of_4_gib_is_not_believed(receiver: Receiver) -> None:
    """Field note 24: neither before nor after negotiation is memory asked for what is only declared."""
    before = resident_kib()
    for head in (struct.pack(">BBI", 1, 0, 2**32 - 1), struct.pack(">BBI", 1, 0, 2**20 + 1)):
        connection = connect(receiver.port)
        connection.sendall(head)
        assert connection.recv(10)[:1] == b"\7"
        connection.close()
    sender = Sender(receiver.port)
    sender.send(struct.pack(">BBIIBB", 4, 0, 2**32 - 1, 2**32 - 7, 1, 0) + b"x" * 1000)
    assert sender.pdu()[0] == 7
    until(lambda: not receiver.counts.open_associations)
    assert resident_kib() - before < 10 * 1024


def resident_kib() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise LookupError("VmRSS")


def test_a_request_with_every_context_there_can_be_is_answered_in_full(receiver: Receiver) -> None:
    """Field note 16: 128 contexts, each with many transfer syntaxes."""
    syntaxes = [EXPLICIT, *(f"1.2.840.10008.1.2.4.{number}" for number in range(50, 110))]
    contexts = [(f"1.2.840.10008.5.1.4.1.1.{number}.9.9", syntaxes) for number in range(128)]
    sender = Sender(receiver.port, contexts)
    assert sender.results == dict.fromkeys(range(1, 256, 2), 0)
    assert sender.store("1.2.3", b"data", context_id=255) == 0
    sender.release()


def test_what_is_no_image_at_all_is_kept_as_it_is_behind_a_harmless_preamble(receiver: Receiver) -> None:
    """Field note 29 (CVE-2019-11687): the preamble is ours, all zero; nothing a sender says comes before DICM."""
    sender = Sender(receiver.port)
    payload = b"MZ\x90\0<script>alert(1)</script>" * 20
    assert sender.store("1.2.3", payload) == 0
    sender.release()
    (file,) = all_received(receiver.spool)
    content = file.path.read_bytes()
    assert content[:132] == bytes(128) + b"DICM"
    assert dataset_of(file.path) == payload


def test_the_same_study_from_two_senders_at_once_is_whole_in_both_folders(receiver: Receiver) -> None:
    """Field note 20; that the indexer keeps one of each is tested there."""
    sent = {f"1.2.3.{number}": bytes([number]) * 50_000 for number in range(20)}
    failures: list[BaseException] = []

    def send() -> None:
        try:
            sender = Sender(receiver.port)
            assert [sender.store(uid, data) for uid, data in sent.items()] == [0] * 20
            sender.release()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=send) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    folders = [receiver.spool.received(folder) for folder in receiver.spool.folders()]
    assert [{file.sop_instance_uid: dataset_of(file.path) for file in files} for files in folders] == [
        sent,
        sent,
    ]


def stuffed_request(kind: str) -> bytes:
    """An A-ASSOCIATE-RQ of nearly a MiB that is full of items."""
    usual = association_request([(CT, [EXPLICIT])])
    item = {
        "application contexts": b"\x10\0\0\0",
        "contexts": b"\x20\0\0\x0b\1\0\0\0\x30\0\0\0031.2",
        "user information": b"\x50\0\0\0",
        "transfer syntaxes": b"\x20\0\xff\xfc\1\0\0\0" + b"\x40\0\0\2" * 10 + b"\x40\0\0\0" * 16_364,
    }[kind]
    body = usual[6:] + item * ((2**20 - len(usual)) // len(item))
    return struct.pack(">BBI", 1, 0, len(body)) + body


@pytest.mark.parametrize(
    "kind", ["application contexts", "contexts", "user information", "transfer syntaxes"]
)
def test_requests_stuffed_with_items_keep_nobody_waiting(receiver: Receiver, kind: str) -> None:
    """Field note 24: a MiB of empty items takes the library seconds; it never sees it."""
    crowd = [connect(receiver.port) for _ in range(20)]
    for connection in crowd:
        connection.sendall(stuffed_request(kind))
    assert echo_seconds(receiver.port) < 5
    for connection in crowd:
        assert connection.recv(10)[:1] == b"\7"
        connection.close()
    assert receiver.counts.refused == {Reason.not_dicom: 20}
