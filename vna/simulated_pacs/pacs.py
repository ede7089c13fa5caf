"""The simulated PACS itself: a listening socket, a thread for each association, and the services."""

import contextlib
import errno
import itertools
import os
import socket
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from types import TracebackType

from vna.errors import PortInUse, SettingsError
from vna.simulated_pacs.answering import Answers
from vna.simulated_pacs.channel import (
    C_CANCEL_RQ,
    C_ECHO_RQ,
    C_FIND_RQ,
    C_GET_RQ,
    C_MOVE_RQ,
    C_STORE_RQ,
    COMMAND_FIELD,
    Channel,
    Message,
    PeerGone,
)
from vna.simulated_pacs.faults import Faults
from vna.simulated_pacs.folder import Folder
from vna.simulated_pacs.misbehaving import Misbehaviour
from vna.simulated_pacs.negotiation import (
    BUSY,
    FIND,
    GET,
    MOVE,
    UNKNOWN_CALLED_AET,
    VERIFICATION,
    Rejection,
    accept,
    is_storage,
)
from vna.simulated_pacs.pace import Counters, Pace
from vna.simulated_pacs.querying import SUCCESS, response_to, serve_find
from vna.simulated_pacs.retrieving import Retrieving
from vna.simulated_pacs.storing import Storing

_NO_DESTINATIONS: Mapping[str, tuple[str, int]] = {}
_NEGOTIATION_SECONDS, _CLOSING_SECONDS = 15.0, 5.0


class SimulatedPacs:
    """A DICOM server over the files of a folder: C-ECHO, C-FIND, C-MOVE, C-GET and C-STORE, with faults by name.

    A context manager; it serves from entering to leaving. `port` 0 takes a free one. `destinations` are the AE
    titles C-MOVE knows, with host and port. `bind` is the address it listens on: files are shown to whoever
    asks, so only this machine unless said otherwise. Entering raises `PortInUse` or `SettingsError`.
    """

    def __init__(
        self,
        data: Path,
        aet: str = "SIMULATED",
        port: int = 0,
        faults: Faults | None = None,
        destinations: Mapping[str, tuple[str, int]] = _NO_DESTINATIONS,
        *,
        bind: str = "127.0.0.1",
    ) -> None:
        self.data, self.aet, self.port, self.bind = data, aet, port, bind
        self.faults = faults or Faults()
        self.destinations = dict(destinations)
        self._counters, self._pace = Counters(), Pace(self.faults.seconds)
        self._numbers, self._attempts = itertools.count(1), itertools.count(1)
        self._open: set[socket.socket] = set()
        self._threads: set[threading.Thread] = set()
        self._lock = threading.Lock()
        self._leaving = contextlib.ExitStack()

    # -- what happened so far

    @property
    def sent(self) -> Counter[str]:
        """Storage sub-operations sent so far, by SOP Instance UID."""
        return self._counters.sent

    @property
    def acknowledged(self) -> Counter[str]:
        """Storage sub-operations that were answered with Success, by SOP Instance UID."""
        return self._counters.acknowledged

    @property
    def received(self) -> Counter[str]:
        """Instances stored to us so far, by SOP Instance UID."""
        return self._counters.received

    @property
    def queries(self) -> int:
        """C-FIND requests."""
        return self._counters.queries

    @property
    def retrieves(self) -> int:
        """C-MOVE and C-GET requests."""
        return self._counters.retrieves

    @property
    def associations(self) -> int:
        """Associations accepted."""
        return self._counters.associations

    @property
    def peak_associations(self) -> int:
        """The most associations open at once."""
        return self._counters.peak_associations

    def holdings(self) -> tuple[int, int]:
        """How many studies and instances there are now."""
        return self._folder.size()

    def look_again(self) -> None:
        """Notice at once what changed in the folder; without, a query does within ten times what looking takes."""
        self._folder.look_again()

    # -- life

    def __enter__(self) -> "SimulatedPacs":
        with contextlib.ExitStack() as leaving:
            listener = leaving.enter_context(self._listen())
            self.port = listener.getsockname()[1]
            changes = Path(leaving.enter_context(tempfile.TemporaryDirectory(prefix="simulated-pacs-")))
            self._folder = Folder(self.data, changes)
            self._folder.look_again()
            self._answers = Answers(self._folder, self.faults)
            misbehaviour = Misbehaviour(self.faults, self._answers, self._folder, changes)
            self._retrieving = Retrieving(
                self.aet,
                self._answers,
                misbehaviour,
                self.destinations,
                self._counters,
                self._pace,
                self._connected,
            )
            leaving.callback(self._end_associations)
            self._start(self._accept, listener)
            self._leaving = leaving.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pace.stopping.set()
        self._leaving.close()

    def _listen(self) -> socket.socket:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            if os.name != "nt":
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self.bind, self.port))
            listener.listen(256)
        except OSError as error:
            listener.close()
            if error.errno == errno.EADDRINUSE:
                raise PortInUse(self.bind, self.port) from error
            raise SettingsError(
                f"The simulated PACS cannot listen on {self.bind}, port {self.port} ({error.strerror})."
            ) from error
        listener.settimeout(0.2)
        return listener

    def _start(self, target: Callable[[socket.socket], None], argument: socket.socket) -> None:
        def run() -> None:
            try:
                target(argument)
            finally:
                with self._lock:
                    self._threads.discard(thread)

        thread = threading.Thread(target=run, name="simulated-pacs", daemon=True)
        with self._lock:
            self._threads.add(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while not self._pace.stopping.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            except OSError:  # closed, or out of descriptors for a moment
                self._pace.stopping.wait(0.05)
                continue
            self._start(self._serve_connection, connection)

    def _end_associations(self) -> None:
        with self._lock:
            connections, threads = list(self._open), list(self._threads)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(_CLOSING_SECONDS)

    @contextlib.contextmanager
    def _connected(self, connection: socket.socket) -> Generator[socket.socket]:
        """Close a connection at the end, and when we stop."""
        with self._lock:
            self._open.add(connection)
        try:
            yield connection
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()

    # -- associations

    def _serve_connection(self, connection: socket.socket) -> None:
        with contextlib.suppress(PeerGone, OSError), self._connected(connection):
            connection.settimeout(_NEGOTIATION_SECONDS)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            channel = accept(connection, self._judge, self._not_offered())
            connection.settimeout(None)
            self._counters.opened()
            try:
                self._serve_channel(channel)
            finally:
                self._counters.closed()

    def _not_offered(self) -> set[str]:
        by_fault = {"no-get": GET, "no-move": MOVE}
        return {uid for fault, classes in by_fault.items() if fault in self.faults for uid in classes}

    def _judge(self, called_aet: str) -> Rejection | None:
        if called_aet != self.aet:
            return UNKNOWN_CALLED_AET
        nth = self.faults.number("refuse-nth-association")
        return BUSY if nth and next(self._attempts) % nth == 0 else None

    def _serve_channel(self, channel: Channel) -> None:
        storing = Storing(channel, self.data, self._folder, next(self._numbers))
        while not self._pace.stopping.is_set():
            request = channel.receive(storing.sink)
            if request.number(COMMAND_FIELD) == C_CANCEL_RQ:  # too late
                continue
            if "hang" in self.faults:
                continue
            self._serve_request(channel, request, storing)

    def _serve_request(self, channel: Channel, request: Message, storing: Storing) -> None:
        service = channel.contexts[request.context_id].abstract_syntax
        match request.number(COMMAND_FIELD):
            case number if number == C_ECHO_RQ and service == VERIFICATION:
                self._pace.wait()
                channel.send(request.context_id, response_to(request, SUCCESS))
            case number if number == C_FIND_RQ and service in FIND:
                self._counters.count_query()
                serve_find(channel, request, self._answers, self.faults, self._pace, self.aet)
            case number if number == C_MOVE_RQ and service in MOVE:
                self._counters.count_retrieve()
                self._retrieving.serve_move(channel, request)
            case number if number == C_GET_RQ and service in GET:
                self._counters.count_retrieve()
                self._retrieving.serve_get(channel, request)
            case number if number == C_STORE_RQ and is_storage(service):
                self._pace.wait()
                stored = storing.serve(request)
                if stored:
                    self._counters.count_received(stored)
            case _:  # a service that was not agreed on this context
                channel.abort()
                raise PeerGone
