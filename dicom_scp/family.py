"""The server of a home: one process that receives or several behind one port, and where wanted an indexer;
started together, stopped together.

The indexer is a process of its own: whatever a hostile data set or a hanging disk does to it, receiving goes on.
Where several processes receive, this one only keeps the listening sockets and the processes: when one dies the
connections that wait at the port are taken by the others, and by its successor.
"""

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator

from dicom_scp.children import Child
from dicom_scp.receiving import GRACE_SECONDS, ReceivingProcess
from vna.dimse.ports import listen
from vna.dimse.server_tls import ServerTls, TlsFiles
from vna.dimse.service import answers_itself, as_the_server_of, child_environment
from vna.dimse.status import (
    EVERY_SECONDS,
    ScpStatus,
    clear_statuses,
    read_statuses,
    remove_status,
    together,
    write_status,
)
from vna.platform import can_share_sockets, has_service_manager, tell_service_manager, watchdog_seconds
from vna.settings import Settings
from vna.site import WatchedSite
from vna.spool import Spool

_log = logging.getLogger(__name__)

_INDEXER = [sys.executable, "-m", "vna.indexing", "--bound"]
_RECEIVER = [sys.executable, "-m", "dicom_scp", "--bound"]
_END_SECONDS = 3.0
_CLOSING_SECONDS = 0.5
_SAME_SECONDS = 0.5
"""A terminal and what started us may both tell us of the same Ctrl-C."""


def run_family(
    settings: Settings,
    *,
    index: bool = False,
    open_to_loopback: bool = False,
    stop: threading.Event | None = None,
) -> int:
    """Receive until SIGINT, SIGTERM or `stop`, then drain; returns the exit code 0.

    `open_to_loopback`: any calling AE title on this machine may store and retrieve. Raises `PortInUse`,
    `SpoolUnusable`, or `SettingsError` if a server of this home runs already.
    """
    family = _Family(settings, index=index, open_to_loopback=open_to_loopback)
    with _until_told(stop or threading.Event(), again=family.end_now) as told:
        try:
            with as_the_server_of(settings) as announce:
                clear_statuses(settings)
                family.start()
                announce()
                where = f"receiving as {settings.scp_aet} on {_ports(settings)}"
                _log.info("%s", where)
                tell_service_manager("READY=1", f"STATUS={where}")
                family.mind(told)
                _log.info(
                    "finishing what is being received, at most %g s; Ctrl-C again ends it now", GRACE_SECONDS
                )
                tell_service_manager("STOPPING=1", "STATUS=finishing what is being received")
                family.stop_listening()
        finally:
            family.end()
    _log.info("stopped")
    return 0


def _ports(settings: Settings) -> str:
    plain = None if settings.scp_tls_only else f"{settings.scp_bind}:{settings.scp_port}"
    tls = None if settings.scp_tls_port is None else f"{settings.scp_bind}:{settings.scp_tls_port} (TLS)"
    return " and ".join(filter(None, (plain, tls)))


class _Family:
    """The processes of one server."""

    def __init__(self, settings: Settings, *, index: bool, open_to_loopback: bool) -> None:
        self._settings = settings
        self._indexer = self._child("indexer", _INDEXER) if index else None
        self._sockets: list[socket.socket] = []
        self._receivers: list[Child] = []
        self._own: ReceivingProcess | None = None
        self._open = open_to_loopback
        self._started = time.time()
        if settings.scp_processes == 1 or not can_share_sockets:
            self._own = ReceivingProcess(
                settings, open_to_loopback=open_to_loopback, indexer=self._indexer_state
            )

    def start(self) -> None:
        """Listen, then let the children run. Raises `PortInUse` and `SpoolUnusable`."""
        if self._own is not None:
            if self._settings.scp_processes > 1:
                _log.warning("this platform cannot share a port among processes; one process serves it")
            self._own.start()
        else:
            # what keeps every process from starting is told once, here
            WatchedSite(self._settings)
            Spool(self._settings.spool_path, self._settings.reserve_bytes).prepare()
            self._start_receivers()
        if self._indexer is not None:
            self._indexer.start()

    def mind(self, told: threading.Event) -> None:
        """Return when told to stop; meanwhile tell the service manager how it is, if there is one."""
        every = watchdog_seconds()
        alive_at = 0.0
        while not told.wait(EVERY_SECONDS):
            if self._own is None:
                with contextlib.suppress(OSError):
                    write_status(self._settings, self._status())
            if every and time.monotonic() - alive_at > every / 2 and answers_itself(self._settings):
                alive_at = time.monotonic()
                tell_service_manager("WATCHDOG=1")
            if has_service_manager():
                tell_service_manager(f"STATUS={_in_words(together(read_statuses(self._settings)))}")

    def stop_listening(self) -> None:
        """Take no new association, and have the children finish what they have in work."""
        for child in self._children():
            child.ask_to_stop()
        if self._own is not None:
            self._own.stop_listening()
        if self._sockets:
            time.sleep(_CLOSING_SECONDS)  # until the children have closed the port on their side
        for listening in self._sockets:
            with contextlib.suppress(OSError):  # ends it for the children too where the platform can do that
                listening.shutdown(socket.SHUT_RDWR)
            listening.close()
        self._sockets.clear()

    def end(self) -> None:
        """Return when all have ended, at the end of the grace period at the latest."""
        self.stop_listening()
        if self._own is not None:
            self._own.drain(GRACE_SECONDS)
        for child in self._children():
            child.join()
        remove_status(self._settings, os.getpid())

    def end_now(self) -> None:
        """Whatever is under way is cut off, and the senders send it again: nothing acknowledged is lost by that."""
        for child in self._children():
            child.end_now()
        remove_status(self._settings, os.getpid())

    def _children(self) -> list[Child]:
        return [*self._receivers, *([self._indexer] if self._indexer is not None else [])]

    def _start_receivers(self) -> None:
        settings = self._settings
        options = ["--open"] if self._open else []
        if (tls := TlsFiles.from_settings(settings)) is not None:
            ServerTls(tls)  # what cannot be used is told once, and not by each child again and again
        if not settings.scp_tls_only:
            options += ["--socket", str(self._listen(settings.scp_port))]
        if settings.scp_tls_port is not None:
            options += ["--tls-socket", str(self._listen(settings.scp_tls_port))]
        for number in range(settings.scp_processes):
            receiver = self._child(f"receiver {number + 1}", [*_RECEIVER, *options])
            receiver.descriptors = [listening.fileno() for listening in self._sockets]
            receiver.shortest_pause, receiver.longest_pause = 0.2, 10.0
            receiver.grace_seconds = GRACE_SECONDS + _END_SECONDS
            self._receivers.append(receiver)
            receiver.start()

    def _listen(self, port: int) -> int:
        listening = listen(self._settings.scp_bind, port)
        self._sockets.append(listening)
        return listening.fileno()

    def _child(self, name: str, command: list[str]) -> Child:
        settings = self._settings
        return Child(
            name,
            command,
            child_environment(settings),
            on_end=lambda pid: remove_status(settings, pid),
        )

    def _indexer_state(self) -> str:
        if self._indexer is None:
            return ""
        if self._indexer.is_starting:
            return "starting"
        return "running" if self._indexer.is_running else "ended"

    def _status(self) -> ScpStatus:
        ended = [child.name for child in self._receivers if not (child.is_running or child.is_starting)]
        return ScpStatus(
            pid=os.getpid(),
            at=time.time(),
            started=self._started,
            indexer=self._indexer_state(),
            problems=tuple(f"The process {name} ended and is being started again." for name in ended),
        )


def _in_words(now: ScpStatus) -> str:
    return (
        f"{now.associations} associations open, {now.instances} instances received, "
        f"{sum(now.refused.values())} associations refused"
    )


@contextlib.contextmanager
def _until_told(stop: threading.Event, *, again: Callable[[], None]) -> Generator[threading.Event]:
    """The event is also set by Ctrl-C and a polite kill, where we are the main thread and may listen to them.

    When one comes again, `again` is called and this process ends at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    first: list[float] = []

    def told(number: int, _: object) -> None:
        stop.set()
        first.append(time.monotonic())
        if first[-1] - first[0] > _SAME_SECONDS:
            _log.warning("told to end again: ended without finishing what was being received")
            again()
            os._exit(128 + number)

    names = ("SIGINT", "SIGTERM", "SIGBREAK")  # the last is Windows'
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {number: signal.signal(number, told) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
