"""The programs we are compared with, started on loopback and ended by their process.

Debian's DCMTK 3.6.7 waits 40 ms a message unless `TCP_NODELAY=1` is in its environment; here it always is.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

QUICK = {**os.environ, "TCP_NODELAY": "1"}
LONGEST_SECONDS = 240.0


class Missing(Exception):
    """A program that is not installed here; the message names it."""


def program(name: str) -> str:
    """The path of a program; raises `Missing`."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise Missing(name)
    return found


def run(name: str, *arguments: str) -> "subprocess.CompletedProcess[bytes]":
    """Run one of the tools to its end; raises if it says that it failed."""
    return subprocess.run(
        [program(name), *arguments], env=QUICK, capture_output=True, check=True, timeout=LONGEST_SECONDS
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int, process: "subprocess.Popen[bytes]", seconds: float = 20.0) -> None:
    """Return when something listens there; raises if the process ended or the time is up."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with code {process.returncode}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise RuntimeError(f"nothing listens on port {port} after {seconds:.0f} s")


@contextlib.contextmanager
def serving(
    command: Sequence[str], port: int, log: Path, env: Mapping[str, str] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """A server from listening until the block is left."""
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=env or QUICK)
    try:
        wait_for_port(port, process)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def dcmqrscp(folder: Path, files: Sequence[Path], destinations: Mapping[str, int]) -> Iterator[int]:
    """DCMTK's archive over these files as AE title PEER; yields its port. `destinations`: AE title to port."""
    area = folder / "area"
    area.mkdir(parents=True)
    port = free_port()
    hosts = [f"h{n} = ({aet}, 127.0.0.1, {to})" for n, (aet, to) in enumerate(destinations.items())]
    configuration = folder / "dcmqrscp.cfg"
    configuration.write_text(
        "\n".join(
            [
                f"NetworkTCPPort = {port}",
                "MaxPDUSize = 131072",
                "MaxAssociations = 32",
                "HostTable BEGIN",
                *hosts,
                "HostTable END",
                "VendorTable BEGIN",
                "VendorTable END",
                "AETable BEGIN",
                f"PEER  {area}  RW (5000, 4096mb)  ANY",
                "AETable END",
                "",
            ]
        )
    )
    for start in range(0, len(files), 200):
        run("dcmqridx", "-n", str(area), *map(str, files[start : start + 200]))
    with serving([program("dcmqrscp"), "-c", str(configuration)], port, folder / "dcmqrscp.log"):
        yield port


@contextlib.contextmanager
def orthanc(folder: Path, files: Sequence[Path], destinations: Mapping[str, int]) -> Iterator[int]:
    """Orthanc holding these files as AE title PEER; yields its DICOM port."""
    folder.mkdir(parents=True)
    port, http = free_port(), free_port()
    configuration = folder / "orthanc.json"
    configuration.write_text(
        json.dumps(
            {
                "Name": "PEER",
                "HttpPort": http,
                "DicomPort": port,
                "DicomAet": "PEER",
                "StorageDirectory": str(folder / "storage"),
                "IndexDirectory": str(folder / "index"),
                "RemoteAccessAllowed": False,
                "AuthenticationEnabled": False,
                "DicomCheckCalledAet": False,
                "DicomAlwaysAllowStore": True,
                "DicomAlwaysAllowFind": True,
                "DicomAlwaysAllowGet": True,
                "DicomAlwaysAllowMove": True,
                "UnknownSopClassAccepted": True,
                "SynchronousCMove": True,
                "DicomModalities": {
                    f"to{n}": [aet, "127.0.0.1", to] for n, (aet, to) in enumerate(destinations.items())
                },
            }
        )
    )
    with serving([program("Orthanc"), str(configuration)], port, folder / "orthanc.log") as process:
        wait_for_port(http, process)
        for path in files:
            request = urllib.request.Request(f"http://127.0.0.1:{http}/instances", data=path.read_bytes())
            with urllib.request.urlopen(request, timeout=30) as answer:
                answer.read()
        yield port


@contextlib.contextmanager
def storescp(folder: Path, port: int = 0) -> Iterator[int]:
    """DCMTK's receiver in bit-preserving mode, one process a sender; yields its port."""
    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    command = [program("storescp"), "--fork", "--bit-preserving", "-pdu", "131072", "+uf"]
    log = folder.with_suffix(".log")
    with serving([*command, "-od", str(folder), "-aet", "PEER", str(port)], port, log):
        yield port
