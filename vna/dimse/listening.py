"""The door of the DICOM server: connections until they have said who they are.

One thread accepts, shakes hands (TLS) and reads the A-ASSOCIATE-RQ of every connection at once, and never waits for
one of them (field notes 22 and 23): who is silent, slow or no DICOM peer costs a seat here for a few seconds, no
thread and no association. A whole request is handed to a few threads of their own, which judge it; nobody else
decodes what strangers send.
"""

import contextlib
import logging
import math
import queue
import selectors
import socket
import ssl
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from vna.dimse.admission import (
    TLS_HANDSHAKE,
    UNRECOGNISED_PDU,
    NotTls,
    Reason,
    Refusal,
    abort_pdu,
    not_a_request,
    reject_pdu,
    tls_sentence,
)
from vna.dimse.ports import BACKLOG
from vna.dimse.server_tls import ServerTls
from vna.dimse.tally import Lines
from vna.errors import where_it_happened
from vna.platform import wait_readable

_log = logging.getLogger(__name__)

NEGOTIATION_SECONDS = 5.0
"""A connection that has not asked for an association within so long is closed (field note 23)."""

LARGEST_REQUEST = 2**20
"""Longest A-ASSOCIATE-RQ we read: a declared length is never believed (field note 24)."""

SEATS = 256
"""Connections waiting here at once. When they are taken, the oldest of the address that holds most gives way."""

_READERS = 2
_LEAVING_SECONDS = 1.0
_PAUSE_SECONDS = 0.05
_HOLD_BACK_SECONDS = 0.25
_ASSOCIATE_RQ = 1
_FAILURES = 40
"""So often in a row, a pause between them, the system cannot say who waits: then it never will."""

_LINES, _LINES_SECONDS = 10, 60.0


@dataclass(eq=False, slots=True)
class Visitor:
    """A connection at the door; `request` is its A-ASSOCIATE-RQ as far as it has come."""

    connection: socket.socket
    address: str
    deadline: float
    shaking_hands: bool = False
    is_greeted: bool = False
    leaving: bool = False
    request: bytearray = field(default_factory=bytearray)
    missing: int = 6

    @property
    def by_tls(self) -> bool:
        return isinstance(self.connection, ssl.SSLSocket)


class Door:
    """Takes connections from `plain` and `tls` sockets until it is closed.

    `judge` gets each visitor whose request is whole, in a thread that may take its time; it keeps the connection
    and returns None, or returns what the visitor is told before it goes. `turned_away` is told of those that never
    came so far. `has_room` is given where others take from the same sockets: while it is false they go first.
    """

    def __init__(
        self,
        plain: socket.socket | None,
        tls: socket.socket | None,
        server_tls: ServerTls | None,
        *,
        judge: Callable[[Visitor], Refusal | bytes | None],
        turned_away: Callable[[Visitor, Reason, str], None],
        has_room: Callable[[], bool] | None = None,
    ) -> None:
        self._listening = [listening for listening in (plain, tls) if listening is not None]
        self._tls = tls
        self._server_tls = server_tls
        self._judge = judge
        self._turned_away = turned_away
        self._has_room = has_room
        self._holds_back = False
        self._waits_since: dict[socket.socket, float] = {}
        self._seats: dict[Visitor, None] = {}  # the oldest first
        self._whole: queue.SimpleQueue[Visitor | None] = queue.SimpleQueue()
        self._judged: deque[tuple[Visitor, bytes]] = deque()
        self._selector = selectors.DefaultSelector()
        self._bell, self._wire = socket.socketpair()
        self._closing = False
        self._lines = Lines(_LINES, _LINES_SECONDS)
        self._threads: list[threading.Thread] = []
        self.is_broken = False
        """It closed by itself; nobody is let in any more."""

    @property
    def waiting(self) -> int:
        return len(self._seats)

    def open(self) -> None:
        for listening in (*self._listening, self._wire):
            listening.setblocking(False)
            self._selector.register(listening, selectors.EVENT_READ)
        jobs = [self._run, *[self._read_requests] * _READERS]
        self._threads = [threading.Thread(target=job, name="door", daemon=True) for job in jobs]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Take nobody any more; who waits is sent away. Whoever else listens on the same sockets goes on."""
        self._closing = True
        self._ring()
        for _ in range(_READERS):
            self._whole.put(None)
        for thread in self._threads:
            thread.join()
        self._bell.close()
        self._wire.close()

    # -- the thread at the door

    def _run(self) -> None:
        failures = 0
        try:
            while not self._closing and failures < _FAILURES:
                self._guarded(self._let_others_go_first)
                ready: list[selectors.SelectorKey] = []
                if self._guarded(self._wait, ready):
                    failures = 0
                else:
                    failures += 1
                    time.sleep(_PAUSE_SECONDS)
                for key in ready:
                    if not self._guarded(self._attend, key):
                        self._give_up(key)
                self._guarded(self._see_off)
                self._guarded(self._end_late_ones)
        finally:
            if not self._closing:
                self.is_broken = True
                _log.critical("the door of the DICOM server broke: it takes no connections until a new start")
            for listening in self._listening:
                listening.close()
            for visitor in list(self._seats):
                self._drop(visitor)
            self._selector.close()

    def _wait(self, ready: list[selectors.SelectorKey]) -> None:
        ready += [key for key, _ in self._selector.select(self._until_next_deadline())]

    def _guarded(self, step: Callable[..., object], *about: object) -> bool:
        """Whether it came to its end; what nobody foresaw costs this step, never the door."""
        try:
            step(*about)
        except Exception as error:  # noqa: BLE001
            if self._lines.take():
                _log.error("unforeseen at the door of the DICOM server: %s", where_it_happened(error))
            return False
        return True

    def _give_up(self, key: selectors.SelectorKey) -> None:
        if isinstance(key.data, Visitor):
            self._drop(key.data)
        else:
            time.sleep(_PAUSE_SECONDS)  # who waits there is still waiting

    def _let_others_go_first(self) -> None:
        """Without a free place of ours, leave new connections to the others; refuse those that nobody takes."""
        if self._has_room is not None and self._holds_back is self._has_room():
            self._hold_back(not self._holds_back)
        if not self._holds_back:
            return
        now = time.monotonic()
        for listening in self._listening:
            if not wait_readable(listening, 0):
                self._waits_since.pop(listening, None)
            elif now - self._waits_since.setdefault(listening, now) > _HOLD_BACK_SECONDS:
                del self._waits_since[listening]
                self._accept(listening)

    def _hold_back(self, holds_back: bool) -> None:
        self._holds_back = holds_back
        for listening in self._listening:
            self._waits_since.pop(listening, None)
            if holds_back:
                self._selector.unregister(listening)
            else:
                self._selector.register(listening, selectors.EVENT_READ)

    def _attend(self, key: selectors.SelectorKey) -> None:
        if key.fileobj is self._wire:
            with contextlib.suppress(BlockingIOError):
                self._wire.recv(4096)
        elif key.data is None:
            assert isinstance(key.fileobj, socket.socket)  # noqa: S101  for the type checker
            self._accept(key.fileobj)
        elif key.data in self._seats:  # it may have made room meanwhile
            self._hear(key.data)

    def _accept(self, listening: socket.socket) -> None:
        """All that wait, as long as there are any; another process may have taken them first."""
        for _ in range(BACKLOG):
            try:
                connection, address = listening.accept()
            except BlockingIOError:
                return
            except ConnectionError:
                continue  # gone before it was taken
            except OSError as error:
                _log.error("a connection could not be taken: %s", error.strerror)
                self._make_room()
                time.sleep(_PAUSE_SECONDS)  # out of files: what is open must end first
                return
            self._let_in(connection, str(address[0]), by_tls=listening is self._tls)

    def _let_in(self, connection: socket.socket, address: str, *, by_tls: bool) -> None:
        if len(self._seats) >= SEATS and not self._make_room():
            connection.close()
            return
        try:
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if by_tls and self._server_tls is not None:
                context = self._server_tls.context()
                connection = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
            visitor = Visitor(
                connection, address, time.monotonic() + NEGOTIATION_SECONDS, shaking_hands=by_tls
            )
            self._selector.register(connection, selectors.EVENT_READ, visitor)
        except (OSError, ValueError):
            connection.close()
            return
        self._seats[visitor] = None

    def _make_room(self) -> bool:
        """Whether one could be sent away; those that are being judged cannot."""
        ours = [visitor for visitor in self._seats if not self._is_being_judged(visitor)]
        if not ours:
            return False
        fullest, _ = Counter(visitor.address for visitor in ours).most_common(1)[0]
        oldest = next(visitor for visitor in ours if visitor.address == fullest)
        if not oldest.leaving:
            self._turned_away(oldest, Reason.crowd, "too many connections of its address were waiting")
        self._drop(oldest)
        return True

    def _hear(self, visitor: Visitor) -> None:
        try:
            if visitor.leaving:
                if not visitor.connection.recv(65536):
                    self._drop(visitor)
                return
            if visitor.shaking_hands:
                self._shake_hands(visitor)
            if not visitor.shaking_hands:
                self._read(visitor)
        except (BlockingIOError, ssl.SSLWantReadError):
            self._wait_for(visitor, selectors.EVENT_READ)
        except ssl.SSLWantWriteError:
            self._wait_for(visitor, selectors.EVENT_WRITE)
        except ssl.SSLError as error:
            if visitor.leaving:
                self._drop(visitor)
                return
            self._turned_away(visitor, Reason.tls, tls_sentence(error))
            self._drop(visitor)
        except (OSError, ValueError):
            self._drop(visitor)

    def _shake_hands(self, visitor: Visitor) -> None:
        assert isinstance(visitor.connection, ssl.SSLSocket)  # noqa: S101  for the type checker
        if not visitor.is_greeted:
            first = socket.socket.recv(visitor.connection, 1, socket.MSG_PEEK)  # under the TLS of `ssl`
            visitor.is_greeted = True
            if first not in (b"", TLS_HANDSHAKE):
                raise NotTls
        visitor.connection.do_handshake()
        visitor.shaking_hands = False
        self._wait_for(visitor, selectors.EVENT_READ)

    def _read(self, visitor: Visitor) -> None:
        while visitor.missing:
            part = visitor.connection.recv(visitor.missing)
            if not part:
                self._drop(visitor)  # said nothing, or not all: a probe, or a peer that changed its mind
                return
            visitor.request += part
            visitor.missing -= len(part)
            if len(visitor.request) == 6:
                kind, length = struct.unpack_from(">BxI", visitor.request)
                if kind != _ASSOCIATE_RQ or not length or length > LARGEST_REQUEST:
                    self._turned_away(visitor, *not_a_request(visitor.request, kind, length))
                    self._dismiss(visitor, abort_pdu(UNRECOGNISED_PDU))
                    return
                visitor.missing = length
        self._leave_selector(visitor)
        self._whole.put(visitor)

    def _dismiss(self, visitor: Visitor, last_words: bytes) -> None:
        """Say it, and wait a moment for the peer to close: closed first, its system may throw away what we said."""
        visitor.leaving, visitor.deadline = True, time.monotonic() + _LEAVING_SECONDS
        visitor.request.clear()
        try:
            visitor.connection.setblocking(False)
            if last_words:
                visitor.connection.send(last_words)
            if not visitor.by_tls:
                visitor.connection.shutdown(socket.SHUT_WR)
            self._wait_for(visitor, selectors.EVENT_READ)
        except (OSError, ValueError):
            self._drop(visitor)

    def _see_off(self) -> None:
        while self._judged:
            visitor, last_words = self._judged.popleft()
            self._seats.pop(visitor, None)
            if last_words:
                self._seats[visitor] = None
                self._dismiss(visitor, last_words)

    def _end_late_ones(self) -> None:
        now = time.monotonic()
        for visitor in [visitor for visitor in self._seats if visitor.deadline <= now]:
            if self._is_being_judged(visitor):
                continue
            if not visitor.leaving:
                said = (
                    "asked for no association" if not visitor.shaking_hands else "did not shake hands (TLS)"
                )
                self._turned_away(visitor, Reason.silent, f"it {said} within {NEGOTIATION_SECONDS:g} s")
            self._drop(visitor)

    @staticmethod
    def _is_being_judged(visitor: Visitor) -> bool:
        return not visitor.missing and not visitor.leaving

    def _until_next_deadline(self) -> float:
        late = [visitor.deadline for visitor in self._seats if not self._is_being_judged(visitor)]
        longest = _PAUSE_SECONDS if self._holds_back else 60.0
        return max(0.0, min(longest, min(late, default=math.inf) - time.monotonic()))

    def _wait_for(self, visitor: Visitor, what: int) -> None:
        if visitor.connection in self._selector.get_map():
            self._selector.modify(visitor.connection, what, visitor)
        else:
            self._selector.register(visitor.connection, what, visitor)

    def _leave_selector(self, visitor: Visitor) -> None:
        with contextlib.suppress(KeyError, ValueError, OSError):
            self._selector.unregister(visitor.connection)

    def _drop(self, visitor: Visitor) -> None:
        self._seats.pop(visitor, None)
        self._leave_selector(visitor)
        with contextlib.suppress(OSError):
            visitor.connection.close()

    def _ring(self) -> None:
        with contextlib.suppress(OSError):
            self._bell.send(b"\0")

    # -- the threads that judge

    def _read_requests(self) -> None:
        while (visitor := self._whole.get()) is not None:
            last_words = b""
            try:
                answer = self._judge(visitor)
                last_words = reject_pdu(answer) if isinstance(answer, Refusal) else answer or b""
            except Exception as error:  # noqa: BLE001  a stranger's request never ends this thread
                if self._lines.take():
                    _log.error("an association request could not be judged: %s", where_it_happened(error))
                why = "its request could not be judged"
                self._guarded(self._turned_away, visitor, Reason.failure, why)
                last_words = abort_pdu(0)
            self._judged.append((visitor, last_words))
            self._ring()
