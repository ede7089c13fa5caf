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
    Sender,
    all_received,
    association_request,
    echo_command,
    p_data,
    pdv,
    store_command,
)

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
    silent = [connect(receiver.port) for _ in range(20)]
    assert echo_seconds(receiver.port) < 5
    for connection in silent:
        connection.settimeout(8)
        assert is_closed(connection)
    until(lambda: not receiver.counts.open_associations and not receiver.counts.waiting)


def test_a_request_that_trickles_in_is_given_up(receiver: Receiver) -> None:
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
