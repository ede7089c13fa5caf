"""The bytes that are stored are the bytes that were sent, wherever reads, fragments and the buffer begin and end.

The digest we make ourselves proves nothing here: what is compared is what the sender had.
"""

import random
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vna.dimse import pdata
from vna.dimse.pdata import PDataLoop
from vna.dimse.storing import Arrivals, Messages
from vna.identity import Receipt
from vna.spool import Spool

CONTEXT = 1


class Line:
    """A connection that gives as much at once as `how_much` says; all there is room for is a quick sender's way."""

    deadline = None

    def __init__(self, stream: bytes, how_much: Callable[[int], int]) -> None:
        self._stream = memoryview(stream)
        self._how_much = how_much

    def limit(self, seconds: float | None) -> None: ...

    def rest(self) -> None: ...

    def is_readable(self, seconds: float) -> bool:
        return bool(self._stream)

    def receive(self, room: memoryview) -> int:
        size = min(len(self._stream), max(1, self._how_much(len(room))), len(room))
        if not size:
            raise ConnectionError("nothing is left")
        room[:size] = self._stream[:size]
        self._stream = self._stream[size:]
        return size


def element(number: int, value: bytes) -> bytes:
    return struct.pack("<HHI", 0, number, len(value)) + value


def store_request(sop_instance_uid: bytes) -> bytes:
    body = b"".join(
        (
            element(0x0002, b"1.2.840.10008.5.1.4.1.1.2\0"),
            element(0x0100, b"\1\0"),
            element(0x0110, b"\1\0"),
            element(0x0800, b"\1\0"),
            element(0x1000, sop_instance_uid),
        )
    )
    return element(0x0000, struct.pack("<I", len(body))) + body


def pdu(control: int, part: bytes) -> bytes:
    return struct.pack(">BBIIBB", 4, 0, len(part) + 6, len(part) + 2, CONTEXT, control) + part


def sent(datasets: list[bytes], pdu_length: int) -> bytes:
    """Store requests as they come over the wire, in PDUs of this length."""
    stream = bytearray()
    for number, dataset in enumerate(datasets):
        stream += pdu(3, store_request(b"1.2.%03d\0" % (100 + number)))
        for start in range(0, len(dataset), pdu_length - 6):
            part = dataset[start : start + pdu_length - 6]
            stream += pdu(2 if start + len(part) == len(dataset) else 0, part)
    return bytes(stream)


def stored(folder: Path, stream: bytes, how_much: Callable[[int], int]) -> list[bytes]:
    """What lies in the spool after a stream was read, without the header, in the order of arrival."""
    receipts: list[Receipt] = []
    spool = Spool(folder, 0)
    arrivals = Arrivals(
        lambda: spool.open_association(calling_aet="A", called_aet="B", peer_address="", listener="scp"),
        lambda: "A",
        stored=receipts.append,
    )
    nothing: Any = SimpleNamespace(queue=(), put=lambda event: pytest.fail(f"the library is given {event}"))
    dul = SimpleNamespace(
        state_machine=SimpleNamespace(current_state="Sta6"),
        event_queue=nothing,
        to_provider_queue=nothing,
        _idle_timer=SimpleNamespace(stop=lambda: None),
        _kill_thread=False,
    )
    association: Any = SimpleNamespace(dul=dul, is_acceptor=False)
    answers: list[bytes] = []
    messages = Messages(
        arrivals,
        transfer_syntax=lambda context_id: "1.2.840.10008.1.2.1",
        send=answers.append,
        pass_on=lambda *_: pytest.fail("a store request is passed on"),
        peer_max_pdu=lambda: 16384,
    )
    line: Any = Line(stream, how_much)
    loop = PDataLoop(association, messages, line, 1 << 20)
    loop._read()
    assert loop._start == loop._end, "whoever takes the connection over would miss what is left here"
    assert len(answers) == len(receipts)
    files = [next(folder.glob(f"*/{receipt.file_name}")).read_bytes() for receipt in receipts]
    messages.close()
    return [data[132 + 12 + struct.unpack_from("<I", data, 140)[0] :] for data in files]


@pytest.mark.parametrize("buffer_bytes", [256, 1000, 4096])
def test_what_is_stored_is_what_was_sent_wherever_the_buffer_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, buffer_bytes: int
) -> None:
    """Heads of PDUs and fragments split at the buffer's end, at every place, by quick and slow senders."""
    monkeypatch.setattr(pdata, "BUFFER_BYTES", buffer_bytes)
    chance = random.Random(buffer_bytes)
    ways: list[Callable[[int], int]] = [
        lambda room: room,
        lambda room: room - 1,
        lambda room: chance.randrange(1, room + 1),
        lambda room: 7,
    ]
    for number, pdu_length in enumerate([*range(16, 80), *range(200, 270, 3), 1024, 5000]):
        datasets = [chance.randbytes(chance.randrange(1, 6000)) for _ in range(2)]
        found = stored(tmp_path / str(number), sent(datasets, pdu_length), ways[number % len(ways)])
        assert found == datasets, f"PDUs of {pdu_length} bytes"
