"""What the tests of the server process arrange: a home, the server as a child, who may send to it."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from vna.dimse.service import running_scp
from vna.settings import Settings
from vna.site import DicomServer, RemoteServer, Site, publish_site
from vna.spool import Spool

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def settings_in(folder: Path, **more: object) -> Settings:
    values = {"home": folder / "home", "scp_port": free_port(), "scp_bind": "127.0.0.1", "reserve_bytes": 0}
    return Settings.model_validate(values | more)


def know_the_sender(settings: Settings, server: DicomServer | None = None, **more: object) -> None:
    """Publish the tests' sender as a remote server, without which only `--open` takes from it."""
    facts = {"name": "sender", "aet": "SENDER", "host": "127.0.0.1", "port": 104, **more}
    sender = RemoteServer.model_validate(facts)
    publish_site(settings, Site(remotes={"sender": sender}, server=server or DicomServer()))


def environment(settings: Settings, **more: str) -> dict[str, str]:
    ours = {
        f"BACKUPDR_{name.upper()}": str(value)
        for name, value in settings.model_dump().items()
        if value is not None
    }
    return {**os.environ, **ours, "PYTHONPATH": str(ROOT), **more}


def until(claim: Callable[[], object], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


@contextlib.contextmanager
def server(
    settings: Settings, *options: str, known_only: bool = False, **more: str
) -> Iterator["subprocess.Popen[bytes]"]:
    """The server as a child, listening; open to this machine unless it is to take from known senders only."""
    command = [sys.executable, "-m", "dicom_scp", *([] if known_only else ["--open"]), *options]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(settings, **more), stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        until(lambda: running_scp(settings) is not None or process.poll() is not None)
        yield process
    finally:
        process.kill()
        process.communicate()


def spool_of(settings: Settings) -> Spool:
    return Spool(settings.spool_path, 0)
