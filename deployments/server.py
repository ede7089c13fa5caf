"""The Prefect server of a home: the running one, else one of our own while a command needs it.

Nothing here imports Prefect before the environment of the home is set (`deployments.environment`).
"""

import contextlib
import datetime
import http.client
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from deployments.environment import process_environment, use_home
from vna.durable import write_durably
from vna.errors import PrefectUnavailable
from vna.platform import IS_WINDOWS, HeldLock, is_locked, spawn_bound, try_lock

START_SECONDS = 120.0
SETTLE_SECONDS = 1.5
"""How long the server needs to write the last events of a run (its flush interval and a bit)."""


@dataclass(frozen=True, slots=True)
class PrefectServer:
    """A server process that we started and that ends with us."""

    url: str
    process: "subprocess.Popen[bytes]"

    @property
    def api_url(self) -> str:
        return f"{self.url}/api"

    def stop(self, seconds: float = 12.0) -> None:
        """End it: its standard input closes, it finishes what it writes, and is killed only after that."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start_server(home: Path, *, port: int = 0, embedded: bool = False) -> PrefectServer:
    """Start a server on loopback and return once it listens; `wait_until_healthy` tells when it answers."""
    folder = home / "prefect"
    folder.mkdir(parents=True, exist_ok=True)
    log = log_file(home, "prefect-server")
    with tempfile.TemporaryDirectory(prefix="starting-", dir=folder) as told_in, log.open("ab") as output:
        told = Path(told_in) / "server"
        command = [sys.executable, "-m", "deployments.serve", "--told-in", str(told), "--port", str(port)]
        process = spawn_bound(
            [*command, "--embedded"] if embedded else [*command, "--lock", str(server_lock(home))],
            env=process_environment(home, None),
            stdout=output,
            stderr=output,
            **own_group(),
        )
        deadline = time.monotonic() + START_SECONDS
        while not told.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                process.wait()
                raise PrefectUnavailable(f"its server could not be started, see {log}")
            time.sleep(0.02)
        url = f"http://127.0.0.1:{json.loads(told.read_text(encoding='utf-8'))['port']}"
    return PrefectServer(url, process)


def wait_until_healthy(home: Path, server: PrefectServer) -> None:
    """Wait until it answers; the first start in a home makes its database and takes some 10 s."""
    deadline = time.monotonic() + START_SECONDS
    while not answers(server.api_url, 1.0):
        if server.process.poll() is not None:
            raise PrefectUnavailable(f"its server ended at once, see {log_file(home, 'prefect-server')}")
        if time.monotonic() > deadline:
            server.stop(0)
            raise PrefectUnavailable(f"its server did not answer for {START_SECONDS:.0f} s")
        time.sleep(0.05)


def answers(api_url: str, seconds: float) -> bool:
    """Whether a Prefect server says at this address that it is healthy."""
    parts = urlsplit(api_url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=seconds)
    try:
        connection.request("GET", f"{parts.path}/health")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def server_file(home: Path) -> Path:
    """Where a long-living server says that it runs (mode 0600)."""
    return home / "prefect" / "server.json"


def server_lock(home: Path) -> Path:
    """Held by the long-living server of this home: an address in an old file may be another's by now."""
    return home / "prefect" / "server.lock"


def write_server_file(home: Path, server: PrefectServer) -> None:
    """Tell the other commands of this home which server to use."""
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    told = {"url": server.url, "pid": server.process.pid, "started": started}
    write_durably(server_file(home), json.dumps(told).encode(), mode=0o600)


def running_server(home: Path) -> str | None:
    """The API address of this home's running server, or None if none answers."""
    if not is_locked(server_lock(home)):
        return None
    try:
        told = json.loads(server_file(home).read_text(encoding="utf-8"))
        api_url = f"{told['url']}/api"
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return api_url if answers(api_url, 5.0) else None


@contextlib.contextmanager
def embedded_server(home: Path) -> Iterator[str]:
    """The API address of a server for this command: the home's running one, else our own, ended afterwards.

    Sets the Prefect environment of this process. Flow runs that say `Running` though their process is gone
    are marked Crashed first.
    """
    home.joinpath("prefect").mkdir(parents=True, exist_ok=True)
    api_url = running_server(home)
    if api_url is not None:
        use_home(home, api_url)
        with _command_lock(home):
            yield api_url
        return
    with _one_start_at_a_time(home):
        server = start_server(home, embedded=True)
        try:
            use_home(home, server.api_url)
            import prefect.client.orchestration  # noqa: F401 - takes a second, as does the server meanwhile

            wait_until_healthy(home, server)
        except BaseException:
            server.stop(0)
            raise
        command = _command_lock(home)
    try:
        with command:
            from deployments.stale import mark_crashed

            mark_crashed(home, ours=1, workers=False)
            try:
                yield server.api_url
            finally:
                _settle()
    finally:
        server.stop()


def _settle() -> None:
    """Let the last events of a flow run reach the database before the server goes."""
    if "prefect.events.worker" not in sys.modules:
        return
    from prefect.events.worker import EventsWorker

    drained = EventsWorker.drain_all(timeout=5)
    if isinstance(drained, tuple) and any(drained):
        time.sleep(SETTLE_SECONDS)


@contextlib.contextmanager
def _one_start_at_a_time(home: Path) -> Iterator[None]:
    """Two first starts at once would both make the database."""
    lock = FileLock(home / "prefect" / "starting.lock", timeout=START_SECONDS)
    try:
        lock.acquire()
    except Timeout:
        raise PrefectUnavailable("another command has been starting its server for too long") from None
    try:
        yield
    finally:
        lock.release()


def _command_lock(home: Path) -> HeldLock:
    """A lock held while a command of this home lives, so that others can tell dead runs from young ones."""
    folder = home / "prefect" / "commands"
    folder.mkdir(exist_ok=True)
    number = 0
    while True:
        lock = try_lock(folder / f"{number}.lock")
        if lock is not None:
            return lock
        number += 1


def other_commands(home: Path, ours: int) -> bool:
    """Whether more than `ours` commands of this home are alive."""
    held = sum(is_locked(path) for path in (home / "prefect" / "commands").glob("*.lock"))
    return held > ours


def own_group() -> dict[str, object]:
    """Options of a child that must not get the Ctrl-C meant for us: we end it in our own order."""
    if IS_WINDOWS:
        return {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}
    return {"start_new_session": True}


def log_file(home: Path, name: str) -> Path:
    """`logs/<name>.log`, in a folder that exists."""
    folder = home / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.log"
