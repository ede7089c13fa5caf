"""Programs that we did not write: where they are, how they are started and stopped.

They run on ports of the test's own choosing and are ended by their own process only. DCMTK's and Orthanc's
servers listen on every address, so `make test` runs all of this in a network namespace with only a loopback.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

PROGRAMS: Mapping[str, Sequence[str]] = {
    "dcmtk": ("dcmqrscp", "dcmqridx", "storescp", "storescu", "echoscu", "findscu", "movescu", "getscu"),
    "orthanc": ("Orthanc",),
    "postgresql": ("initdb", "pg_ctl", "postgres"),
}
"""What each peer consists of."""

QUICK = {**os.environ, "TCP_NODELAY": "1"}
"""The environment for DCMTK's tools, which otherwise wait 40 ms a message."""

_START_SECONDS, _STOP_SECONDS = 30.0, 10.0


def program(name: str) -> str | None:
    """The path of a program, also where Debian keeps it off the PATH."""
    found = shutil.which(name)
    if found or not os.environ.get("PATH"):
        return found
    debian = [str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    return shutil.which(name, path=os.pathsep.join([*debian, "/usr/sbin"]))


def missing(peer: str) -> list[str]:
    """The programs of a peer that are not installed."""
    return [name for name in PROGRAMS[peer] if program(name) is None]


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(
    command: Sequence[str], port: int, log: Path, environment: Mapping[str, str] = QUICK
) -> Generator["subprocess.Popen[bytes]"]:
    """A server from the moment it accepts connections; what it says is in `log`."""
    executable = program(command[0])
    assert executable is not None, f"{command[0]} is not installed"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [executable, *command[1:]],
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            env=dict(environment),
        )
    try:
        wait_for_port(port, process, log)
        yield process
    finally:
        stop(process)


def wait_for_port(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Return once somebody listens; fails with the program's own words."""
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise AssertionError(f"{process.args} did not start: {log.read_text(errors='replace')[-2000:]}")


def stop(process: "subprocess.Popen[bytes]") -> None:
    """End this process, politely first."""
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
