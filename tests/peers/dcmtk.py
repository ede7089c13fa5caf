"""DCMTK: dcmqrscp as a PACS, storescp as a plain receiver."""

import contextlib
import itertools
import subprocess
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from peers.programs import QUICK, free_port, program, running


@dataclass
class DicomPeer:
    """A DICOM server of somebody else; `folder` holds what it has, `log` what it says."""

    aet: str
    port: int
    folder: Path
    log: Path
    process: "subprocess.Popen[bytes]" = field(repr=False)
    host: str = "127.0.0.1"

    def files(self) -> list[Path]:
        """The instances in its folder."""
        return sorted(path for path in self.folder.rglob("*") if path.is_file() and path.name != "index.dat")


@pytest.fixture
def dcmqrscp(tmp_path: Path) -> Generator[Callable[..., DicomPeer]]:
    """`dcmqrscp(files=(), destinations={AET: (host, port)}, aet="DCMQRSCP", options=[])` starts one that holds
    copies of the files and moves to these destinations; several may run in one test.
    """
    numbers = itertools.count(1)
    with contextlib.ExitStack() as leaving:

        def start(
            files: Iterable[Path] = (),
            destinations: Mapping[str, tuple[str, int]] | None = None,
            aet: str = "DCMQRSCP",
            options: Sequence[str] = (),
        ) -> DicomPeer:
            base = tmp_path / f"dcmqrscp-{next(numbers)}"
            area = base / "area"
            area.mkdir(parents=True)
            _fill(area, files)
            port = free_port()
            hosts = "\n".join(
                f"h{i} = ({a}, {h}, {p})" for i, (a, (h, p)) in enumerate((destinations or {}).items())
            )
            (base / "dcmqrscp.cfg").write_text(
                f"NetworkTCPPort = {port}\nMaxPDUSize = 131072\nMaxAssociations = 32\n"
                f"HostTable BEGIN\n{hosts}\nHostTable END\nVendorTable BEGIN\nVendorTable END\n"
                f"AETable BEGIN\n{aet} {area} RW (100000, 4096mb) ANY\nAETable END\n"
            )
            command = ["dcmqrscp", *options, "-c", str(base / "dcmqrscp.cfg")]
            log = base / "log"
            process = leaving.enter_context(running(command, port, log))
            return DicomPeer(aet, port, area, log, process)

        yield start


def _fill(area: Path, files: Iterable[Path]) -> None:
    copies = []
    for number, path in enumerate(files):
        copy = area / f"{number:06d}.dcm"
        copy.write_bytes(path.read_bytes())
        copies.append(str(copy))
    for start in range(0, len(copies), 500):
        command = [program("dcmqridx") or "dcmqridx", "-n", str(area), *copies[start : start + 500]]
        subprocess.run(command, check=True, env=QUICK, capture_output=True)


@pytest.fixture
def storescp(tmp_path: Path) -> Generator[Callable[..., DicomPeer]]:
    """`storescp("--fork", aet="STORESCP")` starts one that writes exactly what comes, in any transfer syntax."""
    numbers = itertools.count(1)
    with contextlib.ExitStack() as leaving:

        def start(*options: str, aet: str = "STORESCP") -> DicomPeer:
            base = tmp_path / f"storescp-{next(numbers)}"
            (base / "received").mkdir(parents=True)
            port = free_port()
            command = [
                *("storescp", "--bit-preserving", "+uf", "+xa", "--max-pdu", "131072", *options),
                *("-od", str(base / "received"), "-aet", aet, str(port)),
            ]
            process = leaving.enter_context(running(command, port, base / "log"))
            return DicomPeer(aet, port, base / "received", base / "log", process)

        yield start
