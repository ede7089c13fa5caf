"""The receivers that are compared, each in a fresh folder, ready and warm: ours, DCMTK's, Orthanc, pynetdicom's."""

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers import QUICK, free_port, orthanc, program, serving

MAX_PDU = 131072


@dataclass(frozen=True, slots=True)
class Receiving:
    """A receiver that listens; `pid` = its process, 0 where it does not matter."""

    port: int
    aet: str
    pid: int = 0

    def cpu_seconds(self) -> float:
        """CPU it and its children have used so far, those that ended included; 0 where it cannot be told."""
        ticks = 0
        for pid in self._family():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += sum(map(int, fields[11:15]))
        return ticks / os.sysconf("SC_CLK_TCK") if ticks else 0.0

    def peak_bytes(self) -> int:
        """Most memory one of its processes has had (VmHWM); 0 where it cannot be told."""
        return max((_peak_of(pid) for pid in self._family()), default=0)

    def _family(self) -> list[int]:
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
            return [self.pid, *map(int, children)]
        return []


def _peak_of(pid: int) -> int:
    with contextlib.suppress(OSError):
        found = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
        if found is not None:
            return int(found[1]) * 1024
    return 0


Receiver = Callable[[Path], AbstractContextManager[Receiving]]
"""Makes its folder and receives into it until the block is left."""


def ours(processes: int) -> Receiver:
    """Our DICOM server in so many processes, taking from any caller on this machine."""

    @contextlib.contextmanager
    def receive(folder: Path) -> Iterator[Receiving]:
        folder.mkdir()
        port = free_port()
        settings = {
            "BACKUPDR_HOME": str(folder),
            "BACKUPDR_SCP_PORT": str(port),
            "BACKUPDR_SCP_BIND": "127.0.0.1",
            "BACKUPDR_SCP_PROCESSES": str(processes),
        }
        command = [sys.executable, "-m", "dicom_scp", "--open"]
        with serving(command, port, folder / "scp.log", {**QUICK, **settings}) as process:
            yield Receiving(port, "BACKUPDR", process.pid)

    return receive


@contextlib.contextmanager
def dcmtk(folder: Path) -> Iterator[Receiving]:
    """DCMTK's storescp, one process a sender; neither digest nor sync."""
    folder.mkdir()
    port = free_port()
    command = [program("storescp"), "--fork", "--bit-preserving", "-pdu", str(MAX_PDU), "+uf"]
    with serving([*command, "-od", str(folder), "-aet", "PEER", str(port)], port, folder / "log") as process:
        yield Receiving(port, "PEER", process.pid)


@contextlib.contextmanager
def pynetdicom_application(folder: Path) -> Iterator[Receiving]:
    """pynetdicom's own storescp application, which decodes what it receives and saves it."""
    folder.mkdir()
    port = free_port()
    command = [sys.executable, "-m", "pynetdicom", "storescp", str(port), "-aet", "PEER", "-od", str(folder)]
    with serving([*command, "-q", "-pdu", str(MAX_PDU)], port, folder / "log") as process:
        yield Receiving(port, "PEER", process.pid)


@contextlib.contextmanager
def orthanc_server(folder: Path) -> Iterator[Receiving]:
    """Orthanc as it is installed, with its SQLite index."""
    with orthanc(folder, [], {}) as port:
        yield Receiving(port, "PEER")
