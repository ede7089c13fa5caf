"""Our own P-DATA loop, after the library's negotiation.

pynetdicom reads each PDU in pieces of 4 KiB, makes an object and a buffer of every fragment, and sleeps between
two looks at the socket; that is where a receiver's time goes. Here the bytes of a P-DATA-TF PDU go from one
buffer straight to the writer. Whatever else comes (association control, garbage) is read whole and given to the
library's state machine, which stays in charge; so are all messages but C-STORE requests.

It stands in the place of `DULServiceProvider._read_pdu_data` and runs in the library's DUL thread, the only one
that reads from or writes to the socket. `attach` says which loop an association gets; with the library's own
the messages are taken one step later, at `DIMSEServiceProvider.receive_primitive`.
"""

import contextlib
import mmap
import os
import socket
import struct
import time
from collections.abc import Callable
from enum import StrEnum
from typing import Any

from pynetdicom.association import Association
from pynetdicom.pdu_primitives import P_DATA

from vna.dimse.commands import ProtocolViolation
from vna.dimse.storing import Arrivals, Messages
from vna.dimse.tally import log_breach
from vna.errors import SettingsError
from vna.platform import wait_readable

BUFFER_BYTES = 2**20
LARGEST_CONTROL_PDU = 2**20
"""Longest A-ASSOCIATE-RQ we read: a declared length is never believed (field note 24)."""

_P_DATA_TF = 4
_KNOWN_PDUS = range(1, 8)
CONTROL_SECONDS = 5.0
"""How long a PDU of association control may take to come whole: no peer has a reason to send it in drops."""

_LINGER_SECONDS = 0.02
"""How long the next request is waited for here before the library gets its turn."""

_ESTABLISHED, _CLOSING = "Sta6", "Sta13"
_CLOSED_BY_PEER, _INVALID_PDU = "Evt17", "Evt19"
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)


class Loop(StrEnum):
    """Who reads P-DATA from the socket."""

    own = "own"
    library = "library"


def chosen_loop() -> Loop:
    """`BACKUPDR_RECEIVE_LOOP`: `own` unless said; `library` where ours meets a peer it cannot read."""
    value = os.environ.get("BACKUPDR_RECEIVE_LOOP", "own")
    try:
        return Loop(value)
    except ValueError:
        raise SettingsError(f"BACKUPDR_RECEIVE_LOOP is {value!r}; it must be own or library.") from None


def attach(
    association: Association,
    arrivals: Arrivals,
    transfer_syntax: Callable[[int], str | None],
    *,
    loop: Loop,
    largest_pdu: int,
    timeout: float,
) -> Messages:
    """Let C-STORE requests on `association` go to `arrivals`; before it is started, or once it is established.

    `largest_pdu` = what we negotiate, in bytes; `timeout` = seconds of silence inside a PDU after which the
    connection counts as lost. The caller closes the returned `Messages` when the association is over.
    """
    dul: Any = association.dul
    dimse: Any = association.dimse
    line = Line(_socket_of(association), timeout)
    receive_primitive = dimse.receive_primitive

    def pass_on(context_id: int, command: bytes, identifier: bytes | None) -> None:
        primitive = P_DATA()
        primitive.presentation_data_value_list.append((context_id, b"\x03" + command))
        if identifier is not None:
            primitive.presentation_data_value_list.append((context_id, b"\x02" + identifier))
        try:
            receive_primitive(primitive)
        except Exception as error:  # the library's decoder raises whatever a hostile message makes it
            raise ProtocolViolation(f"a message that cannot be decoded ({type(error).__name__})") from error

    messages = Messages(
        arrivals,
        transfer_syntax=transfer_syntax,
        send=line.send,
        pass_on=pass_on,
        peer_max_pdu=lambda: dimse.maximum_pdu_size,
    )
    if loop is Loop.own:
        _replace(dul, "_read_pdu_data", PDataLoop(association, messages, line, largest_pdu).read)
    else:
        _replace(dimse, "receive_primitive", _from_library(association, messages))
    return messages


def _replace(target: object, name: str, function: Callable[..., None]) -> None:
    """Shadow a method of one object; fails at once if a later version of the library has no such method."""
    if not callable(getattr(target, name)):
        raise TypeError(f"pynetdicom's {type(target).__name__}.{name} is no method")
    setattr(target, name, function)


def _socket_of(association: Association) -> socket.socket:
    wrapped = association.dul.socket
    if wrapped is None or wrapped.socket is None:
        raise ConnectionError("the association has no connection")
    return wrapped.socket


def hang_up(association: Association) -> None:
    """Cut the connection, so that whoever reads from it stops at once."""
    with contextlib.suppress(OSError):
        _socket_of(association).shutdown(socket.SHUT_RDWR)


def _from_library(association: Association, messages: Messages) -> Callable[[P_DATA], None]:
    """The library's loop: it has read and decoded a P-DATA-TF PDU."""

    def receive_primitive(primitive: P_DATA) -> None:
        try:
            for context_id, fragment in primitive.presentation_data_value_list:
                control, data = fragment[0], memoryview(fragment)[1:]
                messages.feed(context_id, bool(control & 1), data, bool(control & 2))
            messages.flush()
        except ProtocolViolation as error:
            log_breach(_peer(association), error)
            association.dul.event_queue.put(_INVALID_PDU)
        except OSError:
            association.dul.event_queue.put(_CLOSED_BY_PEER)

    return receive_primitive


def _peer(association: Association) -> str:
    remote: Any = association.requestor if association.is_acceptor else association.acceptor
    return str(remote.address)


class Line:
    """The connection, read from and written to without asking first whether it is ready: that is a system call each.

    What a Python socket with a timeout asks before, we ask only when there is nothing. A TLS connection, and one on a
    platform where a socket is no file, are used as they are. `deadline` (monotonic clock, seconds): when what is
    received must be complete; None: each receive by itself within `timeout`.
    """

    def __init__(self, connection: socket.socket, timeout: float) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(timeout)
        self._socket = connection
        self._timeout = timeout
        self._is_file = type(connection) is socket.socket and hasattr(os, "readv")
        self.deadline: float | None = None

    def limit(self, seconds: float | None) -> None:
        """Let what is received from now on be complete within so long."""
        self.deadline = None if seconds is None else time.monotonic() + seconds

    def rest(self) -> None:
        """The library's turn, which expects the socket as it was."""
        self.deadline = None
        if not self._is_file:
            self._socket.settimeout(self._timeout)

    def send(self, data: bytes) -> None:
        """Raises `OSError`, `TimeoutError` among them."""
        sent = 0
        if self._is_file:
            with contextlib.suppress(BlockingIOError):
                sent = os.write(self._socket.fileno(), data)
        if sent < len(data):
            self._socket.settimeout(self._timeout)
            self._socket.sendall(data[sent:])

    def receive(self, room: memoryview) -> int:
        """At least one byte into `room`. Raises `OSError`: silent for too long, or closed by the peer."""
        if self._is_file:
            received = self._receive_from_file(room)
        else:
            self._socket.settimeout(self._seconds_left())
            received = self._socket.recv_into(room)
            self._acknowledge()
        if not received:
            raise ConnectionError("closed by the peer")
        return received

    def _receive_from_file(self, room: memoryview) -> int:
        while True:
            try:
                return os.readv(self._socket.fileno(), (room,))
            except BlockingIOError:
                self._acknowledge()
                if not self.is_readable(self._seconds_left()):
                    raise TimeoutError("silent") from None

    def is_readable(self, seconds: float) -> bool:
        """Whether there is something to receive, or comes within so long."""
        if getattr(self._socket, "pending", int)():  # what a TLS socket has decrypted already
            return True
        return wait_readable(self._socket, seconds)

    def _seconds_left(self) -> float:
        left = self._timeout if self.deadline is None else self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("a PDU that comes in drops")
        return left

    def _acknowledge(self) -> None:
        """Now, as the peer may be waiting for it: a sender with Nagle's algorithm waits 40 ms a message for our
        delayed ACK. Linux forgets that we want none delayed.
        """
        if _QUICKACK is not None:
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)


class PDataLoop:
    """The reader of one association; `read` is called by the DUL thread when the socket has something."""

    def __init__(self, association: Association, messages: Messages, line: Line, largest_pdu: int) -> None:
        self._association: Any = association  # its private attributes are used, as of pynetdicom 3.0
        self._dul: Any = association.dul
        self._messages = messages
        self._largest_pdu = largest_pdu
        self._line = line
        # a mapping of its own: pages it never touches cost nothing, and all of it is given back at the end
        self._buffer = memoryview(mmap.mmap(-1, BUFFER_BYTES))
        self._start: int = 0
        self._end: int = 0
        self._library_only = False
        self._reads_ahead = False

    def read(self) -> None:
        """Read until the peer pauses or the library has something to do; what happened is put as its events.

        On return nothing is left in the buffer: whoever takes the connection over (`borrowing`) misses nothing.
        """
        try:
            self._read()
        except ProtocolViolation as error:
            log_breach(_peer(self._association), error)
            self._start = self._end = 0
            self._library_only = True
            self._dul.event_queue.put(_INVALID_PDU)
        except OSError:  # closed, or silent inside a PDU for too long
            self._start = self._end = 0
            self._dul.event_queue.put(_CLOSED_BY_PEER)
        finally:
            self._line.rest()
            if self._association.is_acceptor:
                self._association._reactor_checkpoint.set()

    def _read(self) -> None:
        """The library's state changes in this thread only, so it is the same until we return."""
        state = self._dul.state_machine.current_state
        if state == _CLOSING:
            self._discard()
            return
        # whether what comes is ours; before and after that no byte is taken that the library may want
        self._reads_ahead = state == _ESTABLISHED and not self._library_only
        is_reading = False
        while True:
            self._line.limit(None if self._reads_ahead else CONTROL_SECONDS)
            self._need(6)
            kind, length = struct.unpack_from(">BxI", self._buffer, self._start)
            if kind == _P_DATA_TF and self._reads_ahead:
                if not is_reading:
                    is_reading = True
                    self._pause_library()
                self._start += 6
                self._read_p_data(length)
                if self._messages.between and not self._more_is_coming():
                    return
            else:
                self._give_to_library(kind, length)
                if self._start == self._end:
                    return

    def _read_p_data(self, length: int) -> None:
        """The PDVs of one P-DATA-TF PDU (PS3.8 9.3.5)."""
        if length > self._largest_pdu:
            raise ProtocolViolation(f"a PDU of {length} bytes, {self._largest_pdu} were agreed")
        while length:
            if length < 6:
                raise ProtocolViolation("a PDU that ends in the head of a fragment")
            self._need(6)
            size, context_id, control = struct.unpack_from(">IBB", self._buffer, self._start)
            self._start += 6
            length -= 6
            left = size - 2
            if left < 0 or left > length:
                raise ProtocolViolation("a fragment longer than its PDU")
            length -= left
            is_command, is_last = bool(control & 1), bool(control & 2)
            if not left:
                self._messages.feed(context_id, is_command, self._buffer[:0], is_last)
            while left:
                data = self._take(left)
                left -= len(data)
                self._messages.feed(context_id, is_command, data, is_last and not left)

    def _pause_library(self) -> None:
        """While we read, silence is judged by the socket's timeout, and the association's own thread may rest."""
        self._dul._idle_timer.stop()
        self._messages.passed_on = 0
        if self._association.is_acceptor:
            self._association._reactor_checkpoint.clear()

    def _more_is_coming(self) -> bool:
        """Whether to go on reading; False as soon as the library has an answer to send or an order to end."""
        if self._start < self._end:
            return True
        dul = self._dul
        if (
            self._messages.passed_on
            or dul.to_provider_queue.queue
            or dul.event_queue.queue
            or dul._kill_thread
        ):
            return False
        return self._line.is_readable(_LINGER_SECONDS)

    def _give_to_library(self, kind: int, length: int) -> None:
        """Anything but P-DATA, and P-DATA out of place: whole and decoded, as the library's own reader would."""
        if kind not in _KNOWN_PDUS:
            raise ProtocolViolation(f"a PDU of unknown type {kind}")
        if length > LARGEST_CONTROL_PDU:
            raise ProtocolViolation(f"a PDU of type {kind} that declares {length} bytes")
        if self._line.deadline is None:
            self._line.limit(CONTROL_SECONDS)
        pdu = bytearray()
        while len(pdu) < 6 + length:
            pdu += self._take(6 + length - len(pdu))
        if self._dul.state_machine.current_state == _ESTABLISHED:
            self._library_only, self._reads_ahead = True, False
        try:
            decoded, event = self._dul._decode_pdu(pdu)
        except Exception as error:  # the library's decoder raises whatever a hostile PDU makes it
            raise ProtocolViolation(f"a PDU that cannot be decoded ({type(error).__name__})") from error
        self._dul.event_queue.put(event)
        self._dul._recv_pdu.put(decoded)

    def _discard(self) -> None:
        """After an abort whatever still comes is thrown away until the peer closes (PS3.8 9.2, AA-6)."""
        self._start = self._end = 0
        self._line.receive(self._buffer)

    # -- the buffer: unread bytes lie between _start and _end

    def _need(self, count: int) -> None:
        while self._end - self._start < count:
            self._receive(count - (self._end - self._start))

    def _take(self, limit: int) -> memoryview:
        """At least one and at most `limit` bytes, valid until the next call."""
        if self._start == self._end:
            self._receive(limit)
        size = min(limit, self._end - self._start)
        self._start += size
        return self._buffer[self._start - size : self._start]

    def _receive(self, wanted: int) -> None:
        self._messages.flush()  # before a byte of the buffer moves: what was fed are views into it
        if self._start == self._end:
            self._start = self._end = 0
        elif len(self._buffer) - self._end < wanted:  # only ever a few bytes of a head
            unread = bytes(self._buffer[self._start : self._end])
            self._start, self._end = 0, len(unread)
            self._buffer[: self._end] = unread
        room = self._buffer[self._end :] if self._reads_ahead else self._buffer[self._end :][:wanted]
        self._end += self._line.receive(room)
