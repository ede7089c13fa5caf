"""DIMSE messages over one association, by plain blocking calls (PS3.7 chapter 6, PS3.8 chapter 9).

Negotiation is in `negotiation`; this is what follows it. Commands are plain mappings of tag to value; data
sets are the bytes as they are in the file or on the wire.
"""

import contextlib
import os
import select
import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from vna.simulated_pacs.elements import Encoding, read_elements, write_elements

AFFECTED_SOP_CLASS, COMMAND_FIELD = 0x00000002, 0x00000100
MESSAGE_ID, RESPONDED_TO = 0x00000110, 0x00000120
MOVE_DESTINATION, PRIORITY, DATA_SET_TYPE = 0x00000600, 0x00000700, 0x00000800
STATUS, ERROR_COMMENT, AFFECTED_SOP_INSTANCE = 0x00000900, 0x00000902, 0x00001000
REMAINING, COMPLETED, FAILED, WARNING = 0x00001020, 0x00001021, 0x00001022, 0x00001023
ORIGINATOR_AET, ORIGINATOR_ID = 0x00001030, 0x00001031

C_STORE_RQ, C_GET_RQ, C_FIND_RQ, C_MOVE_RQ, C_ECHO_RQ = 0x0001, 0x0010, 0x0020, 0x0021, 0x0030
C_CANCEL_RQ, RESPONSE, NO_DATA_SET = 0x0FFF, 0x8000, 0x0101

_VRS: Mapping[int, str] = {
    AFFECTED_SOP_CLASS: "UI",
    AFFECTED_SOP_INSTANCE: "UI",
    MOVE_DESTINATION: "AE",
    ORIGINATOR_AET: "AE",
    ERROR_COMMENT: "LO",
}
_COMMAND = Encoding(True, "<")
_COMMAND_TAGS = frozenset(
    {
        *(AFFECTED_SOP_CLASS, COMMAND_FIELD, MESSAGE_ID, RESPONDED_TO, MOVE_DESTINATION, PRIORITY),
        *(DATA_SET_TYPE, STATUS, ERROR_COMMENT, AFFECTED_SOP_INSTANCE, REMAINING, COMPLETED, FAILED),
        *(WARNING, ORIGINATOR_AET, ORIGINATOR_ID),
    }
)
LARGEST_PDU = 131072
_LARGEST_FRAGMENT = 1 << 18
_LARGEST_IDENTIFIER = 1 << 24
_P_DATA, _RELEASE_RQ, _RELEASE_RP, _ABORT = 4, 5, 6, 7

Command = Mapping[int, int | str]


class Writer(Protocol):
    """Where the data set of a C-STORE request goes, fragment by fragment."""

    def write(self, data: memoryview, /) -> object: ...


Sink = Callable[[Command, int], contextlib.AbstractContextManager[Writer]]
"""Opens a writer for a C-STORE request, given with its context ID."""


class PeerGone(Exception):
    """The peer released, aborted or vanished, or broke the protocol."""


@dataclass(frozen=True, slots=True)
class Context:
    """An accepted presentation context; `we_may_send` = we may store over it (PS3.7 D.3.3.4)."""

    abstract_syntax: str
    transfer_syntax: str
    we_may_send: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    """One received message; the data set of a C-STORE request went to its sink instead."""

    context_id: int
    command: Command
    data_set: bytes = b""

    def number(self, tag: int) -> int:
        value = self.command.get(tag, 0)
        return value if isinstance(value, int) else 0

    def text(self, tag: int) -> str:
        value = self.command.get(tag, "")
        return value if isinstance(value, str) else ""


@dataclass(slots=True)
class Channel:
    """An established association over a connected socket."""

    connection: socket.socket
    contexts: Mapping[int, Context]
    largest_pdu: int
    calling_aet: str = ""
    _next_message_id: int = field(default=0, init=False)

    def next_message_id(self) -> int:
        self._next_message_id = self._next_message_id % 65535 + 1
        return self._next_message_id

    # -- sending

    def send(self, context_id: int, command: Command, data_set: bytes = b"") -> None:
        """Send a message; raises `PeerGone`."""
        fragments = [*self._fragments(context_id, _command_bytes(command, bool(data_set)), 1)]
        if data_set:
            fragments += self._fragments(context_id, data_set, 0)
        self._write(b"".join(fragments))

    def send_file(self, context_id: int, command: Command, path: Path, offset: int) -> None:
        """Send a message with the bytes of a file from `offset` on as its data set.

        Raises `PeerGone`; `OSError` where the file cannot be opened and nothing was sent.
        """
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size - offset
            file.seek(offset)
            waiting = b"".join(self._fragments(context_id, _command_bytes(command, True), 1))
            while size > 0:
                chunk = file.read(min(self._fragment_size, size))
                size -= len(chunk)
                if not chunk:  # it became shorter meanwhile: the message cannot be completed
                    self.abort()
                    raise PeerGone
                self._write(waiting + _pdu(context_id, 0 if size else 2, chunk))
                waiting = b""

    @property
    def _fragment_size(self) -> int:
        return min(self.largest_pdu or _LARGEST_FRAGMENT, _LARGEST_FRAGMENT) - 6

    def _fragments(self, context_id: int, data: bytes, kind: int) -> Iterator[bytes]:
        size = self._fragment_size
        for start in range(0, len(data), size):
            last = 2 if start + size >= len(data) else 0
            yield _pdu(context_id, kind | last, data[start : start + size])

    def _write(self, data: bytes) -> None:
        try:
            self.connection.sendall(data)
        except OSError as error:
            raise PeerGone from error

    # -- receiving

    def is_something_waiting(self) -> bool:
        """Whether the peer sent something, such as a cancel, or left."""
        try:
            return bool(select.select([self.connection], [], [], 0)[0])
        except (OSError, ValueError) as error:
            raise PeerGone from error

    def receive(self, sink: Sink | None = None) -> Message:
        """The next message; raises `PeerGone` when the association ended, answering a release first."""
        command_bytes, data_set, command = bytearray(), bytearray(), None
        with contextlib.ExitStack() as closing:
            file: Writer | None = None
            for context_id, control, fragment in self._values():
                if control & 1:
                    command_bytes += fragment
                    if control & 2:
                        command = _command(bytes(command_bytes))
                        if command.get(DATA_SET_TYPE) == NO_DATA_SET:
                            return Message(context_id, command)
                        if sink is not None and command.get(COMMAND_FIELD) == C_STORE_RQ:
                            file = closing.enter_context(sink(command, context_id))
                    continue
                if command is None or len(data_set) > _LARGEST_IDENTIFIER:
                    self.abort()
                    raise PeerGone
                if file is not None:
                    file.write(fragment)
                else:
                    data_set += fragment
                if control & 2:
                    return Message(context_id, command, bytes(data_set))
        raise PeerGone

    def _values(self) -> Iterator[tuple[int, int, memoryview]]:
        """(context ID, control header, fragment) of every presentation data value (PS3.8 9.3.5.1)."""
        while True:
            kind, length = struct.unpack(">BxI", self._read(6))
            if kind == _RELEASE_RQ:
                self._read(length)
                self._write(struct.pack(">BxII", _RELEASE_RP, 4, 0))
                raise PeerGone
            if kind != _P_DATA or length > LARGEST_PDU + 12:
                if kind != _ABORT:
                    self.abort()
                raise PeerGone
            body, position = memoryview(self._read(length)), 0
            while position < length:
                if position + 6 > length:
                    self.abort()
                    raise PeerGone
                size, context_id, control = struct.unpack_from(">IBB", body, position)
                if size < 2 or position + 4 + size > length or context_id not in self.contexts:
                    self.abort()
                    raise PeerGone
                yield context_id, control, body[position + 6 : position + 4 + size]
                position += 4 + size

    def _read(self, size: int) -> bytes:
        return read_exactly(self.connection, size)

    # -- ending

    def release(self) -> None:
        """End our own association properly; the peer may already be gone."""
        with contextlib.suppress(PeerGone):
            self._write(struct.pack(">BxII", _RELEASE_RQ, 4, 0))
            self._read(10)
        self.connection.close()

    def abort(self) -> None:
        """A-ABORT by the service user (PS3.8 9.3.8), and close."""
        with contextlib.suppress(PeerGone):
            self._write(struct.pack(">BxIxxBB", _ABORT, 4, 0, 0))
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        self.connection.close()


def read_exactly(connection: socket.socket, size: int) -> bytes:
    """`size` bytes from the peer; raises `PeerGone`."""
    buffer = bytearray(size)
    view, got = memoryview(buffer), 0
    while got < size:
        try:
            count = connection.recv_into(view[got:])
        except OSError as error:
            raise PeerGone from error
        if not count:
            raise PeerGone
        got += count
    return bytes(buffer)


def _pdu(context_id: int, control: int, fragment: bytes) -> bytes:
    size = len(fragment)
    return struct.pack(">BxIIBB", _P_DATA, size + 6, size + 2, context_id, control) + fragment


def _command_bytes(command: Command, has_data_set: bool) -> bytes:
    whole = {**command, DATA_SET_TYPE: 1 if has_data_set else NO_DATA_SET}
    body = write_elements(
        (
            (
                tag,
                _VRS.get(tag, "US"),
                value.encode("ascii", "replace") if isinstance(value, str) else struct.pack("<H", value),
            )
            for tag, value in sorted(whole.items())
        ),
        _COMMAND,
    )
    return struct.pack("<III", 0, 4, len(body)) + body


def _command(data: bytes) -> Command:
    try:
        raw = read_elements(data, _COMMAND, _COMMAND_TAGS)
    except ValueError as error:
        raise PeerGone from error
    return {
        tag: value.decode("ascii", "replace").strip(" \0")
        if tag in _VRS
        else int.from_bytes(value[:2], "little")
        for tag, value in raw.items()
    }
