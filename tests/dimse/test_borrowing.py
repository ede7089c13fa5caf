"""A connection taken over from the library: any bytes a peer sends become a message or the end of the association."""

import queue
import random
import socket
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from arranging_receiver import element, p_data, pdv
from arranging_retrieve import held_of
from dimse.conftest import remote_at
from peers.dcmtk import DicomPeer
from pynetdicom.dul import DULServiceProvider

from vna.dimse.borrowing import Connection, PeerBroke, PeerGone, PeerSilent
from vna.dimse.node import OurNode
from vna.dimse.sending import sending
from vna.simulated_pacs import write_studies

CASES = 3000
LONGEST = 1 << 20


class Pair:
    """A connection of ours, and the peer's end of it."""

    def __init__(self, maximum: int = 16384) -> None:
        ours, self.peer = socket.socketpair()
        ours.settimeout(5)
        self.dul = SimpleNamespace(
            socket=SimpleNamespace(socket=ours), event_queue=queue.Queue(), _recv_pdu=queue.Queue()
        )
        self.dul.assoc = SimpleNamespace(get_handlers=lambda _: (None, None))
        self.dul._decode_pdu = lambda pdu: DULServiceProvider._decode_pdu(self.dul, pdu)
        association = SimpleNamespace(dul=self.dul, dimse=SimpleNamespace(maximum_pdu_size=maximum))
        self.connection = Connection(association)  # type: ignore[arg-type]

    def events(self) -> list[str]:
        return list(self.dul.event_queue.queue)

    def close(self) -> None:
        self.peer.close()
        self.dul.socket.socket.close()


@pytest.fixture(autouse=True)
def no_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pynetdicom.dul.evt.trigger", lambda *_: None)


def answer(status: int = 0) -> bytes:
    body = element(0x0100, b"\x01\x80") + element(0x0120, b"\x01\0") + element(0x0800, b"\x01\x01")
    body += element(0x0900, struct.pack("<H", status)) + element(0x1000, b"1.2.3")
    return element(0x0000, struct.pack("<I", len(body))) + body


def test_a_message_comes_whole_however_it_is_cut() -> None:
    command = answer(0xB000)
    for cut in range(1, len(command), 7):
        pair = Pair()
        first, last = pdv(1, 1, command[:cut]), pdv(1, 3, command[cut:])
        pair.peer.sendall(p_data(first, last) if cut % 2 else p_data(first) + p_data(last))
        message = pair.connection.receive(1)
        assert (message.number(0x0900), message.text(0x1000)) == (0xB000, "1.2.3")
        assert not pair.connection.is_waiting()
        pair.close()


def test_messages_come_one_after_the_other_and_what_is_left_goes_to_the_library() -> None:
    whole = p_data(pdv(1, 3, answer(1)))
    pair = Pair()
    pair.peer.sendall(whole[:20])
    pair.peer.sendall(whole[20:] + p_data(pdv(1, 3, answer(2))) + whole)
    assert pair.connection.receive(1).number(0x0900) == 1
    assert pair.connection.is_waiting()
    assert pair.connection.receive(1).number(0x0900) == 2
    assert pair.connection.is_waiting()  # six bytes are taken by looking
    pair.connection.give_back()
    assert pair.events() == ["Evt10"]
    assert pair.dul._recv_pdu.get().encode() == whole
    pair.close()


@pytest.mark.parametrize(
    ("pdu", "event"), [(b"\x05\0\0\0\0\x04\0\0\0\0", "Evt12"), (b"\x07\0\0\0\0\x04\0\0\0\0", "Evt16")]
)
def test_a_release_or_abort_is_the_librarys(pdu: bytes, event: str) -> None:
    pair = Pair()
    pair.peer.sendall(pdu)
    with pytest.raises(PeerGone):
        pair.connection.receive(1)
    assert pair.events() == [event]
    with pytest.raises(PeerGone):
        pair.connection.send([b"more"])
    pair.connection.give_back()
    assert pair.events() == [event]
    pair.close()


def test_a_declared_length_is_not_believed() -> None:
    """Field note 24."""
    pair = Pair()
    pair.peer.sendall(struct.pack(">BxI", 4, LONGEST + 1))
    with pytest.raises(PeerBroke):
        pair.connection.receive(5)
    assert pair.events() == ["Evt19"]
    pair.close()


def test_drops_do_not_keep_it_waiting_beyond_its_time() -> None:
    pair = Pair()
    pair.peer.sendall(p_data(pdv(1, 3, answer()))[:-1])
    with pytest.raises(PeerSilent):
        pair.connection.receive(0.2)
    pair.close()


def test_any_bytes_are_a_message_or_the_end() -> None:
    """A seeded generator's mutations of what a peer answers, and rubbish."""
    chance = random.Random(25)
    good = [
        p_data(pdv(1, 3, answer())),
        p_data(pdv(1, 1, answer()[:30])) + p_data(pdv(1, 3, answer()[30:])),
        p_data(pdv(1, 1, answer()[:30]), pdv(1, 3, answer()[30:])),
        b"\x05\0\0\0\0\x04\0\0\0\0",
    ]
    seen: set[str] = set()
    for number in range(CASES):
        data = bytearray(chance.choice(good))
        kind = number % 4
        if kind == 0:
            for _ in range(chance.randint(1, 4)):
                data[chance.randrange(len(data))] = chance.randrange(256)
        elif kind == 1:
            del data[chance.randrange(len(data)) :]
        elif kind == 2:
            at = chance.randrange(len(data))
            data[at:at] = chance.randbytes(chance.randint(1, 40))
        else:
            data = bytearray(chance.randbytes(chance.randint(1, 200)))
        pair = Pair()
        pair.peer.sendall(data)
        pair.peer.shutdown(socket.SHUT_WR)
        try:
            message = pair.connection.receive(2)
            message.number(0x0900)
            seen.add("message")
        except PeerGone as gone:
            seen.add(type(gone).__name__)
        pair.connection.give_back()
        pair.close()
    assert seen == {"message", "PeerGone", "PeerBroke"}


@pytest.mark.peer("dcmtk")
def test_a_large_object_needs_no_more_memory_than_a_small_one(
    tmp_path: Path, node: OurNode, storescp: Callable[..., DicomPeer]
) -> None:
    (image,) = held_of(write_studies(tmp_path / "kept", 1, instances=1, size_bytes=100_000_000))
    theirs = storescp(aet="PEER")
    tracemalloc.start()
    try:
        with sending(remote_at(theirs.port), node) as destination:
            assert destination.store(image).status == 0
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert theirs.files()[0].stat().st_size > 90_000_000
    assert peak < 6_000_000


def test_the_librarys_names_that_are_used_exist() -> None:
    """A later version of the library without them fails here, not in a hospital."""
    for name in ("_process_recv_primitive", "_decode_pdu", "send_pdu"):
        assert callable(getattr(DULServiceProvider, name))
