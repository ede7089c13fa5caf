"""The DICOM server of a home as others see it: whether it runs, and that it runs while a C-MOVE needs it.

A running server holds `scp.lock` in the home folder and says in `scp.json` where it listens. A backup uses the one
that runs, or starts one of its own for as long as it lasts.
"""

import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

import vna
from vna.dimse.echoing import EchoAnswer, echo
from vna.dimse.node import OurNode
from vna.dimse.ports import listen
from vna.durable import write_durably
from vna.errors import (
    BackupError,
    PeerError,
    PeerTimeout,
    PortInUse,
    ReceiverFailed,
    RemoteUnreachable,
    SettingsError,
    TlsFailed,
)
from vna.platform import is_locked, may_be_running, spawn_bound, take_lock
from vna.settings import Settings
from vna.site import RemoteServer, Tls

_log = logging.getLogger(__name__)

START_SECONDS = 20.0
STOP_SECONDS = 30.0
WATCH_SECONDS = 0.5
LONGEST_PAUSE = 30.0
_ECHO_SECONDS = 5.0


class RunningScp(BaseModel):
    """The DICOM server that runs for this home, as it was started; files by path, never their content."""

    model_config = ConfigDict(frozen=True)

    aet: str
    port: int
    pid: int
    host: str = ""
    plain: bool = True
    tls_port: int | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_ca: Path | None = None


def running_scp(settings: Settings) -> RunningScp | None:
    """The server of this home, or None if none is listening."""
    if not is_locked(_lock_path(settings)):
        return None
    try:
        running = RunningScp.model_validate_json(_facts_path(settings).read_bytes())
    except (OSError, ValidationError):  # locked, and not yet listening
        return None
    # a new one that has just the lock has not yet taken away what a killed one said
    return running if may_be_running(running.pid) else None


@contextlib.contextmanager
def as_the_server_of(settings: Settings) -> Generator[Callable[[], None]]:
    """Be the server of this home for the block; raises `SettingsError` if another process is.

    Entered before listening and left after; call what it yields once listening as the settings say.
    """
    settings.home.mkdir(parents=True, exist_ok=True)
    lock = take_lock(_lock_path(settings))
    if lock is None:
        raise SettingsError(f"A DICOM server is already running for {settings.home}.")
    facts = _facts_path(settings)

    def announce() -> None:
        listens = RunningScp(
            aet=settings.scp_aet,
            port=settings.scp_port,
            pid=os.getpid(),
            host=settings.scp_bind,
            plain=not settings.scp_tls_only,
            tls_port=settings.scp_tls_port,
            tls_cert=settings.scp_tls_cert,
            tls_key=settings.scp_tls_key,
            tls_ca=settings.scp_tls_ca,
        )
        write_durably(facts, listens.model_dump_json().encode())

    with lock:
        facts.unlink(missing_ok=True)  # a killed server's
        try:
            yield announce
        finally:
            facts.unlink(missing_ok=True)


def echo_ourselves(settings: Settings) -> EchoAnswer:
    """C-ECHO to the server of this home from this machine; raises the `PeerError` that says what is in the way."""
    ours = running_scp(settings)
    if ours is None:
        raise ReceiverFailed(f"no DICOM server of {settings.home} is running")
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(ours.host, ours.host)  # noqa: S104
    port, tls = ours.port, None
    if not ours.plain and ours.tls_port is not None:
        port = ours.tls_port
        tls = Tls(ca_file=ours.tls_ca, cert_file=ours.tls_cert, key_file=ours.tls_key, check_host=False)
    remote = RemoteServer(name="our DICOM server", aet=ours.aet, host=host, port=port, tls=tls)
    node = OurNode(
        ours.aet, connect_timeout=_ECHO_SECONDS, acse_timeout=_ECHO_SECONDS, dimse_timeout=_ECHO_SECONDS
    )
    return echo(remote, node)


def answers_itself(settings: Settings) -> bool:
    """Whether the server of this home answers at all: also one that is full, or that takes no certificate of ours as
    a caller's, says so and lives.
    """
    try:
        echo_ourselves(settings)
    except (RemoteUnreachable, PeerTimeout, ReceiverFailed) as error:
        _log.error("%s", error)
        return False
    except PeerError as error:
        return not (isinstance(error, TlsFailed) and error.silent)
    return True


@contextlib.contextmanager
def receiving(settings: Settings, *, by_move: bool) -> Generator[None]:
    """Have a DICOM server of this home running for the whole block, where the source sends to us by C-MOVE.

    The one that runs is used; if it goes away meanwhile, or there is none, we start our own, bound to this
    process. Raises `PortInUse` if another program has the port, `SettingsError` if the one that runs has another AE
    title or port than the settings say by now, and `ReceiverFailed` if it cannot be started.
    """
    if not by_move:
        yield
        return
    keeper = _Keeper(settings)
    keeper.ensure()
    stop = threading.Event()
    watcher = threading.Thread(target=keeper.watch, args=(stop,), name="receiving", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()
        keeper.end()


class _Keeper:
    """Sees to it that a server runs; owns at most one child."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._log_path = settings.home / "logs" / "scp.log"
        self._child: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0

    def ensure(self) -> None:
        """Return once a server of this home listens."""
        deadline = time.monotonic() + START_SECONDS
        while (running := running_scp(self._settings)) is None:
            if time.monotonic() > deadline:
                raise ReceiverFailed(f"it did not listen within {START_SECONDS:g} s")
            if not is_locked(_lock_path(self._settings)) and not self._is_starting():
                self._start()
            time.sleep(0.05)
        wanted = (self._settings.scp_aet, self._settings.scp_port)
        if (running.aet, running.port) != wanted:
            raise SettingsError(
                f"The DICOM server of {self._settings.home} runs as {running.aet} on port {running.port}, but the "
                f"settings say {wanted[0]} on port {wanted[1]}; start it again, or set BACKUPDR_SCP_AET and "
                f"BACKUPDR_SCP_PORT to what it has."
            )

    def watch(self, stop: threading.Event) -> None:
        pause = WATCH_SECONDS
        while not stop.wait(pause):
            try:
                self.ensure()
                pause = WATCH_SECONDS
            except (BackupError, OSError) as error:
                _log.warning("%s", error)
                pause = min(pause * 2, LONGEST_PAUSE)

    def end(self) -> None:
        """Let our own child finish what it is receiving, and end."""
        child, self._child = self._child, None
        if child is None:
            return
        if child.stdin is not None:
            child.stdin.close()
        try:
            child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def _is_starting(self) -> bool:
        """Whether our own child may still come to listen; raises `ReceiverFailed` if it ended instead."""
        child, started_at = self._child, self._started_at
        if child is None:
            return False
        code = child.poll()
        if code is None:
            return time.monotonic() - started_at < START_SECONDS
        self._child = None
        if time.monotonic() - started_at < START_SECONDS and not is_locked(_lock_path(self._settings)):
            _refuse_a_strangers_port(self._settings)
            raise ReceiverFailed(last_line(self._log_path).rstrip(".") or f"it ended with exit code {code}")
        return False

    def _start(self) -> None:
        self.end()  # an earlier child that still drains has let go of its port, and may go on for as long
        _refuse_a_strangers_port(self._settings)
        self._log_path.parent.mkdir(parents=True, exist_ok=True)
        with self._log_path.open("ab") as log:
            self._child = spawn_bound(
                [sys.executable, "-m", "dicom_scp", "--bound"],
                env=child_environment(self._settings),
                stdout=log,
                stderr=log,
            )
        self._started_at = time.monotonic()


def _lock_path(settings: Settings) -> Path:
    return settings.home / "scp.lock"


def _facts_path(settings: Settings) -> Path:
    return settings.home / "scp.json"


def _refuse_a_strangers_port(settings: Settings) -> None:
    ports = [] if settings.scp_tls_only else [settings.scp_port]
    ports += [] if settings.scp_tls_port is None else [settings.scp_tls_port]
    for port in ports:
        try:
            listen(settings.scp_bind, port).close()
        except PortInUse:
            if not is_locked(_lock_path(settings)):
                raise


def child_environment(settings: Settings) -> dict[str, str]:
    """The environment of a child of ours: it reads the very settings we have, wherever they came from, and finds the
    same program.
    """
    ours = {
        f"BACKUPDR_{name.upper()}": str(value)
        for name, value in settings.model_dump().items()
        if value is not None
    }
    path = os.pathsep.join(filter(None, (str(Path(vna.__file__).parents[1]), os.environ.get("PYTHONPATH"))))
    return {**os.environ, **ours, "PYTHONPATH": path}


def last_line(log_path: Path) -> str:
    """What a service said last, to tell why it ended; empty if nothing can be read."""
    try:
        lines = log_path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1] if lines else ""
