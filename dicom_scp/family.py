"""The server and, where wanted, its indexer: started together, stopped together.

The indexer is a process of its own: whatever a hostile data set or a hanging disk does to it, receiving goes on.
"""

import contextlib
import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator

from vna.dimse.receiver import Receiver
from vna.dimse.service import as_the_server_of
from vna.platform import spawn_bound
from vna.settings import Settings
from vna.site import WatchedSite

_log = logging.getLogger(__name__)

GRACE_SECONDS = 20.0
"""How long an ending server lets senders finish what they are sending."""

_INDEXER = [sys.executable, "-m", "vna.indexing", "--bound"]
_SHORTEST_PAUSE, _LONGEST_PAUSE, _STEADY_SECONDS = 1.0, 60.0, 60.0


def run_family(settings: Settings, *, index: bool = False, stop: threading.Event | None = None) -> int:
    """Receive until SIGINT, SIGTERM or `stop`, then drain; returns the exit code 0.

    Raises `PortInUse`, `SpoolUnusable`, or `SettingsError` if a server of this home runs already.
    """
    quiet_library()
    receiver = Receiver.from_settings(settings, WatchedSite(settings))
    with _until_told(stop or threading.Event()) as told:
        try:
            with as_the_server_of(settings) as announce:
                receiver.start()
                announce(receiver.aet, receiver.port)
                _log.info("receiving as %s on %s:%s", receiver.aet, receiver.host, receiver.port)
                with _kept_alive(_INDEXER) if index else contextlib.nullcontext():
                    while not told.wait(3600):
                        pass
                    receiver.stop_listening()
        finally:
            receiver.drain(GRACE_SECONDS)
    _log.info("stopped")
    return 0


def quiet_library() -> None:
    """The library logs every PDU and identifier, patient data with it; we log what an operator needs."""
    from pynetdicom import _config

    _config.LOG_HANDLER_LEVEL = "none"
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)


@contextlib.contextmanager
def _until_told(stop: threading.Event) -> Generator[threading.Event]:
    """The event is also set by Ctrl-C and a polite kill, where we are the main thread and may listen to them."""
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    names = ("SIGINT", "SIGTERM", "SIGBREAK")  # the last is Windows'
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _kept_alive(command: list[str]) -> Generator[None]:
    """A child that is started again when it ends, after pauses that grow as long as it does not stay up."""
    stop = threading.Event()
    keeper = threading.Thread(target=_keep_alive, args=(command, stop), name="indexer", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        stop.set()
        keeper.join()


def _keep_alive(command: list[str], stop: threading.Event) -> None:
    pause = _SHORTEST_PAUSE
    while not stop.is_set():
        started = time.monotonic()
        child = spawn_bound(command)
        while child.poll() is None and not stop.wait(0.2):
            pass
        if stop.is_set():
            _end(child)
            return
        if time.monotonic() - started > _STEADY_SECONDS:
            pause = _SHORTEST_PAUSE
        _log.error("the indexer ended with code %s; started again in %g s", child.returncode, pause)
        stop.wait(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)


def _end(child: "subprocess.Popen[bytes]") -> None:
    if child.stdin is not None:
        child.stdin.close()
    try:
        child.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
