"""An association's connection taken over from the library for as long as instances are sent over it.

pynetdicom sends and receives in a thread of its own that sleeps between two looks, and makes an object of every
fragment; where thousands of instances follow each other, that is where the time goes. Here that thread rests, and
the thread that has something to say uses the connection by plain blocking calls: one thread, so that TLS is safe too.
What is not P-DATA is given to the library's state machine, as `pdata` does, and is its own again at the end.
"""

# The library is partly untyped, and its thread is made to rest by its private methods, as of pynetdicom 3.0.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportPrivateUsage=false

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pynetdicom.association import Association

from vna.dimse.commands import ProtocolViolation, decode_command
from vna.dimse.pdata import CONTROL_SECONDS, LARGEST_CONTROL_PDU

Piece = bytes | memoryview

LARGEST_FRAGMENT = 1 << 18
"""Bytes of a fragment we send at most: beyond it nothing is gained, and no peer must hold more."""

_P_DATA_TF = 4
_LARGEST_MESSAGE = 1 << 20
_HANDOVER_SECONDS = 90.0
_MOST_PIECES = 512  # in one system call; IOV_MAX is 1024 on Linux
_WORKING_SECONDS = 1.0
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)


class PeerGone(Exception):
    """The peer released, aborted or vanished: nothing more is said on this association."""


class PeerSilent(PeerGone):
    """Nothing came within the time, or the peer does not take what is sent; the connection is cut."""


class PeerBroke(PeerGone):
    """What came breaks PS3.7 or PS3.8; the association is aborted."""


@dataclass(frozen=True, slots=True)
class Message:
    """One received message: element number to value of its command set, and its identifier."""

    command: Mapping[int, bytes]
    identifier: bytes = b""

    def number(self, element: int) -> int | None:
        """An element of two bytes; None where it is absent or none."""
        value = self.command.get(element, b"")
        return int.from_bytes(value, "little") if len(value) == 2 else None

    def text(self, element: int) -> str:
        return self.command.get(element, b"").decode("ascii", "replace").strip("\0 ")


@contextlib.contextmanager
def borrowed(association: Association) -> Generator["Connection"]:
    """The connection of an established association, ours alone until the block ends.

    In the association's own thread where we accepted it. Raises `PeerGone` if it is over already.
    """
    handover = _Handover(association)
    handover.take()
    try:
        connection = Connection(association)
        try:
            yield connection
        finally:
            connection.give_back()
    finally:
        handover.give_back()


class _Handover:
    """Stands in the queue of what is to be sent; when its turn comes, the library's thread rests."""

    def __init__(self, association: Association) -> None:
        self._dul: Any = association.dul
        self._reached, self._given_back = threading.Event(), threading.Event()

    def take(self) -> None:
        process = self._dul._process_recv_primitive

        def process_or_rest() -> bool:
            queued = self._dul.to_provider_queue.queue
            if not queued or queued[0] is not self:
                return bool(process())
            self._dul.to_provider_queue.get()
            self._reached.set()
            while not self._given_back.wait(0.5) and not self._dul._kill_thread:
                pass
            self._dul._process_recv_primitive = process
            return False

        self._dul._process_recv_primitive = process_or_rest
        self._dul.send_pdu(self)
        deadline = time.monotonic() + _HANDOVER_SECONDS
        while not self._reached.wait(0.05):
            if not self._dul.is_alive() or time.monotonic() > deadline:
                self._given_back.set()
                raise PeerGone("ended")

    def give_back(self) -> None:
        self._dul._idle_timer.restart()
        self._given_back.set()


class Connection:
    """One borrowed connection; used by one thread."""

    def __init__(self, association: Association) -> None:
        ours: Any = association
        self._dul: Any = ours.dul
        self._unread = bytearray()
        self._deadline = 0.0
        self._working: Callable[[], None] = lambda: None
        self._is_over = False
        wrapped = self._dul.socket
        if wrapped is None or wrapped.socket is None:
            raise PeerGone("ended")
        self._socket: socket.socket = wrapped.socket
        self._timeout = self._socket.gettimeout()
        largest = int(ours.dimse.maximum_pdu_size or 0)
        room = min(largest, LARGEST_FRAGMENT) if largest else LARGEST_FRAGMENT
        self.fragment_size = max(room - 6, 64) & ~1
        """Bytes of a message in one PDU as the peer accepts it (PS3.8 D.1), even as PS3.8 annex E has it."""
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    # -- sending

    def send(self, pieces: Sequence[Piece]) -> None:
        """Send whole PDUs, in pieces. Raises `PeerGone`."""
        if self._is_over:
            raise PeerGone("ended")
        try:
            self._socket.settimeout(self._timeout)
            if isinstance(self._socket, ssl.SSLSocket) or not hasattr(self._socket, "sendmsg"):
                self._socket.sendall(b"".join(pieces))
            else:
                _send_pieces(self._socket, pieces)
        except TimeoutError as error:
            raise self._lost(PeerSilent("it does not take what is sent")) from error
        except OSError as error:
            raise self._lost(PeerGone("ended")) from error

    def send_message(self, context_id: int, command: bytes, identifier: bytes = b"") -> None:
        """Send a small message. Raises `PeerGone`."""
        pieces = [*self.pdus(context_id, command, is_command=True)]
        if identifier:
            pieces += self.pdus(context_id, identifier, is_command=False)
        self.send(pieces)

    def pdus(
        self, context_id: int, data: Piece, *, is_command: bool, is_last: bool = True
    ) -> Generator[Piece]:
        """`data` as P-DATA-TF PDUs with one fragment each (PS3.8 9.3.5): a head, then a view of the data.

        `is_last`: with it the command or data set is complete; else its length is a multiple of `fragment_size`.
        """
        view, size = memoryview(data), self.fragment_size
        for start in range(0, max(len(view), 1), size):
            part = view[start : start + size]
            control = int(is_command) | (2 if is_last and start + size >= len(view) else 0)
            yield struct.pack(">BxIIBB", _P_DATA_TF, len(part) + 6, len(part) + 2, context_id, control)
            yield part

    # -- receiving

    def is_waiting(self) -> bool:
        """Whether the peer has begun to say something, such as a C-CANCEL or A-ABORT. Raises `PeerGone`."""
        if self._is_over:
            raise PeerGone("ended")
        if self._unread:
            return True
        try:
            self._socket.settimeout(0)
            data = self._socket.recv(6)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        except OSError as error:
            raise self._lost(PeerGone("ended")) from error
        if not data:
            raise self._lost(PeerGone("ended"))
        self._unread += data
        return True

    def receive(self, seconds: float, working: Callable[[], None] = lambda: None) -> Message:
        """The next message. Raises `PeerGone`; `PeerSilent` where it is not complete in so many seconds.

        `working` is called about each second of the wait.
        """
        if self._is_over:
            raise PeerGone("ended")
        self._deadline, self._working = time.monotonic() + seconds, working
        command, identifier = bytearray(), bytearray()
        is_complete = False
        try:
            while not is_complete:
                is_complete = self._read_p_data(command, identifier)
            return Message(decode_command(command), bytes(identifier))
        except ProtocolViolation as error:
            self._dul.event_queue.put("Evt19")
            self._is_over = True
            raise PeerBroke(str(error)) from error
        except TimeoutError as error:
            raise self._lost(PeerSilent(f"no answer for {seconds:g} s")) from error
        except OSError as error:
            raise self._lost(PeerGone("ended")) from error
        finally:
            self._working = lambda: None

    def _read_p_data(self, command: bytearray, identifier: bytearray) -> bool:
        """One PDU; whether the message is complete with it. What is no P-DATA ends the conversation."""
        kind, length = struct.unpack(">BxI", self._take(6))
        if length > LARGEST_CONTROL_PDU:
            raise ProtocolViolation(f"a PDU of type {kind} that declares {length} bytes")
        body = self._take(length)
        if kind != _P_DATA_TF:
            self._give_to_library(struct.pack(">BxI", kind, length) + body)
            self._is_over = True
            raise PeerGone("ended")
        at = 0
        while at < length:
            if length - at < 6:
                raise ProtocolViolation("a PDU that ends in the head of a fragment")
            size, _, control = struct.unpack_from(">IBB", body, at)
            if size < 2 or at + 4 + size > length:
                raise ProtocolViolation("a fragment longer than its PDU")
            part = command if control & 1 else identifier
            part += body[at + 6 : at + 4 + size]
            if len(part) > _LARGEST_MESSAGE:
                raise ProtocolViolation("a message without end")
            at += 4 + size
            if control & 2 and (not control & 1 or _has_no_identifier(command)):
                if at < length:
                    raise ProtocolViolation("two messages in one PDU")
                return True
        return False

    def _give_to_library(self, pdu: bytes) -> None:
        try:
            decoded, event = self._dul._decode_pdu(bytearray(pdu))
        except Exception as error:  # the library's decoder raises whatever a hostile PDU makes it
            raise ProtocolViolation(f"a PDU that cannot be decoded ({type(error).__name__})") from error
        self._dul.event_queue.put(event)
        self._dul._recv_pdu.put(decoded)

    def _take(self, count: int) -> bytes:
        while len(self._unread) < count:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(min(left, _WORKING_SECONDS))
            try:
                data = self._socket.recv(count - len(self._unread))
            except TimeoutError:
                self._working()
                continue
            if not data:
                raise ConnectionError
            self._unread += data
            if _QUICKACK is not None:
                # Linux forgets it; a peer with Nagle's algorithm that answers in two pieces waits for it
                with contextlib.suppress(OSError):
                    self._socket.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
        taken = bytes(self._unread[:count])
        del self._unread[:count]
        return taken

    # -- ending

    def cut(self) -> None:
        """Close the connection at once, such as in the middle of a message that must not be completed."""
        if not self._is_over:
            self._lost(PeerGone("ended"))

    def _lost(self, reason: PeerGone) -> PeerGone:
        """Cut the connection: an abort would wait behind what the peer does not take."""
        self._is_over = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._dul.event_queue.put("Evt17")
        return reason

    def give_back(self) -> None:
        """The library's again; what the peer began to say meanwhile goes to it whole."""
        self._deadline = time.monotonic() + CONTROL_SECONDS
        try:
            while self._unread and not self._is_over:
                head = self._take(6)
                (length,) = struct.unpack_from(">I", head, 2)
                if length > LARGEST_CONTROL_PDU:
                    raise ProtocolViolation("a PDU without end")
                self._give_to_library(head + self._take(length))
        except ProtocolViolation:
            self._dul.event_queue.put("Evt19")
        except OSError:
            self._lost(PeerGone("ended"))
        finally:
            with contextlib.suppress(OSError):
                self._socket.settimeout(self._timeout)


def _has_no_identifier(command: bytearray) -> bool:
    return decode_command(command).get(0x0800) == b"\x01\x01"


def _send_pieces(connection: socket.socket, pieces: Sequence[Piece]) -> None:
    views = [memoryview(piece) for piece in pieces]
    while views:
        sent = connection.sendmsg(views[:_MOST_PIECES])
        done = 0
        while done < len(views) and sent >= len(views[done]):
            sent -= len(views[done])
            done += 1
        del views[:done]
        if sent:
            views[0] = views[0][sent:]
