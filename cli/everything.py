"""What `backupdr up` and `backupdr worker` do: start the parts, keep them running, end them in order."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cli.console import say, warn
from cli.stopping import until_told
from deployments.environment import process_environment, use_home
from deployments.server import (
    PrefectServer,
    log_file,
    own_group,
    running_server,
    server_file,
    start_server,
    wait_until_healthy,
    write_server_file,
)
from vna.errors import PrefectUnavailable, SettingsError
from vna.platform import spawn_bound, take_lock
from vna.settings import Settings, load_settings

LONGEST_PAUSE = 60.0
STOP_SECONDS = 30.0


@dataclass
class Part:
    """One part of the whole: a child that is started again, later and later, when it ends by itself."""

    name: str
    arguments: list[str]
    log: Path
    environment: dict[str, str]
    process: "subprocess.Popen[bytes] | None" = None
    started: float = 0.0
    pause: float = 1.0
    again_at: float = field(default=0.0)

    def start(self) -> None:
        with self.log.open("ab") as output:
            self.process = spawn_bound(
                [sys.executable, "-m", "cli.child", *self.arguments],
                env=self.environment,
                stdout=output,
                stderr=output,
                **own_group(),
            )
        self.started = time.monotonic()

    def mind(self) -> None:
        """Start it again if it ended; wait longer each time it ended soon."""
        now = time.monotonic()
        if self.process is None:
            if now >= self.again_at:
                self.start()
            return
        code = self.process.poll()
        if code is None:
            return
        if now - self.started > LONGEST_PAUSE:
            self.pause = 1.0
        from vna.dimse.service import last_line

        warn(
            f"The {self.name} ended ({last_line(self.log)[:200] or f'code {code}'}); "
            f"it is started again in {self.pause:.0f} s."
        )
        self.process = None
        self.again_at = now + self.pause
        self.pause = min(self.pause * 2, LONGEST_PAUSE)

    def ask_to_stop(self) -> None:
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()

    def wait(self, seconds: float) -> None:
        if self.process is None:
            return
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Everything:
    """Prefect's server, the DICOM server with its indexer, and a worker, of one home, in running order."""

    def __init__(self, settings: Settings, server: PrefectServer) -> None:
        self.settings = settings
        self.server = server
        home = settings.home
        environment = process_environment(home, server.api_url)
        self._parts = [
            Part("DICOM server", ["scp", "--index"], log_file(home, "scp"), environment),
            Part("worker", ["worker"], log_file(home, "worker"), environment),
        ]

    def start_parts(self) -> None:
        for part in self._parts:
            part.start()

    def mind(self) -> None:
        """Start again what ended by itself."""
        self.server = _mind_server(self.settings.home, self.server)
        for part in self._parts:
            part.mind()

    def stop(self) -> None:
        """End the parts, then the server they talk to."""
        deadline = time.monotonic() + STOP_SECONDS
        for part in self._parts:
            part.ask_to_stop()
        for part in self._parts:
            part.wait(max(0.5, deadline - time.monotonic()))
        server_file(self.settings.home).unlink(missing_ok=True)
        self.server.stop()


@contextlib.contextmanager
def running(settings: Settings, port: int) -> Iterator[Everything]:
    """Everything of a home, started and deployed; ended when the block is left, however it is left."""
    home = settings.home
    everything = Everything(settings, start_server(home, port=port))
    try:
        use_home(home, everything.server.api_url)
        wait_until_healthy(home, everything.server)
        write_server_file(home, everything.server)
        _prepare(settings, everything.server)
        everything.start_parts()
        yield everything
    finally:
        everything.stop()


def up(port: int) -> int:
    """Everything of this home in the foreground until told to stop."""
    settings = load_settings()
    settings.home.mkdir(parents=True, exist_ok=True)
    lock = take_lock(settings.home / "up.lock", 0.5)
    if lock is None:
        raise SettingsError(f"backupdr up is already running in {settings.home}; stop that one first.")
    with lock, until_told() as stop:
        _refuse_a_taken_port(settings)
        say("Starting…")
        with running(settings, port) as everything:
            _tell_addresses(settings, everything.server)
            while not stop.wait(0.5):
                everything.mind()
            say("Stopping…")
    say("Everything is stopped.")
    return 0


def _prepare(settings: Settings, server: PrefectServer) -> None:
    from deployments.definitions import deploy
    from deployments.site import offer_server, publish
    from deployments.stale import mark_crashed

    mark_crashed(settings.home, ours=0, workers=False)
    deploy(settings.home, server.api_url)
    offer_server()
    for problem in publish(settings):
        warn(problem)


def _mind_server(home: Path, server: PrefectServer) -> PrefectServer:
    """The server itself, or a new one at the same address if it ended."""
    if server.process.poll() is None:
        return server
    warn("The Prefect server ended; it is started again.")
    wanted = int(server.url.rpartition(":")[2])
    again = start_server(home, port=wanted)
    wait_until_healthy(home, again)
    if again.url != server.url:
        again.stop()
        raise PrefectUnavailable(f"port {wanted}, which it had, is taken by another program")
    write_server_file(home, again)
    return again


def worker() -> int:
    """A worker for the running server of this home, in the foreground until told to stop."""
    settings = load_settings()
    api_url = running_server(settings.home)
    if api_url is None:
        raise PrefectUnavailable(
            f"no server of {settings.home} is running; `backupdr up` starts one, and a worker with it"
        )
    with until_told() as stop:
        use_home(settings.home, api_url)
        from deployments.worker import work

        say(f"The worker takes runs from {api_url.removesuffix('/api')}. Ctrl-C ends it.")
        work(settings.home, stop, warn)
    return 0


def _refuse_a_taken_port(settings: Settings) -> None:
    from cli.findings import port_is_free
    from vna.dimse.service import running_scp
    from vna.errors import PortInUse

    if running_scp(settings) is None and not port_is_free(settings.scp_bind, settings.scp_port):
        raise PortInUse(settings.scp_bind, settings.scp_port)


def _tell_addresses(settings: Settings, server: PrefectServer) -> None:
    say(f"Prefect pages  {server.url}")
    say(f"DICOM server   AE title {settings.scp_aet}, port {settings.scp_port} ({settings.scp_bind})")
    say(f"Home           {settings.home} (logs in {settings.home / 'logs'})")
    say("Everything is up. Ctrl-C stops it.")
