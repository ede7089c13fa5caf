"""A whole site for a test: a home, simulated PACS in this process, our DICOM server and the flow as children."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deployments.environment import process_environment
from vna.catalog import Catalog
from vna.platform import spawn_bound
from vna.settings import Settings
from vna.simulated_pacs import GeneratedStudy, SimulatedPacs, dataset_sha256, parse_faults
from vna.site import RemoteServer, RetrieveMethod, Site, UnitDefinition, publish_site
from vna.spool import Spool
from vna.storage import create_unit, open_unit
from vna.verification.units import verify_unit

ROOT = Path(__file__).resolve().parents[2]
LONGEST_RUN = 150.0
ASSOCIATIONS = 2
"""How many the source lets us hold at once: as many instances can be in flight when something is killed."""

_STORED_NAME = re.compile(r"(?P<uid>.+)\.[0-9a-f]{16}(\.\d+)?\.dcm\Z")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(what: Callable[[], object], seconds: float) -> Any:
    deadline = time.monotonic() + seconds
    while True:
        value = what()
        if value or time.monotonic() > deadline:
            return value
        time.sleep(0.05)


@dataclass
class Place:
    """One site: its home folder, its ports, its remote servers and storage units."""

    home: Path
    api_url: str
    scp_port: int = field(default_factory=free_port)
    more: dict[str, str] = field(default_factory=dict)
    remotes: dict[str, RemoteServer] = field(default_factory=dict)
    units: dict[str, UnitDefinition] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)

    @property
    def settings(self) -> Settings:
        return Settings(home=self.home, scp_port=self.scp_port, scp_bind="127.0.0.1")

    def environment(self, **more: str) -> dict[str, str]:
        inherited = process_environment(self.home, self.api_url)
        own = {
            "BACKUPDR_SCP_PORT": str(self.scp_port),
            "BACKUPDR_SCP_BIND": "127.0.0.1",
            "BACKUPDR_RESERVE_BYTES": str(64 * 2**20),
            "PYTHONPATH": str(ROOT),
        }
        clean = {name: value for name, value in inherited.items() if not name.startswith("BACKUPDR_KILL")}
        return {**clean, **own, **self.more, **more}

    # -- who is there

    def unit(self, name: str = "default") -> Path:
        """The folder of a storage unit, made and published at the first use."""
        if name == "default":
            return self.settings.default_unit_path
        if name not in self.units:
            definition = UnitDefinition(name=name, path=self.home / "units" / name)
            create_unit(definition)
            self.units[name] = definition
            self._publish()
        return self.units[name].path

    def know(self, name: str, port: int, *, by: str = "move", aet: str = "SIMULATED", **more: Any) -> None:
        """Publish a remote server."""
        self.remotes[name] = RemoteServer(
            name=name,
            aet=aet,
            host="127.0.0.1",
            port=port,
            retrieve=RetrieveMethod(by),
            **{"associations": ASSOCIATIONS, **more},
        )
        self._publish()

    def _publish(self) -> None:
        publish_site(self.settings, Site(remotes=self.remotes, units=self.units))

    def pacs(self, data: Path, *faults: str, port: int = 0) -> SimulatedPacs:
        """A simulated PACS that knows our DICOM server as a move destination."""
        destinations = {"BACKUPDR": ("127.0.0.1", self.scp_port)}
        return SimulatedPacs(data, port=port, faults=parse_faults(faults), destinations=destinations)

    # -- processes

    def log(self, name: str) -> Path:
        folder = self.home / "logs"
        folder.mkdir(exist_ok=True)
        return folder / f"{name}.log"

    def start_scp(self, *, index: bool = True, **environment: str) -> "subprocess.Popen[bytes]":
        """Our DICOM server as a child, answering; `index` = with an indexer beside it."""
        with self.log("scp").open("ab") as log:
            child = spawn_bound(
                [sys.executable, "-m", "dicom_scp", "--bound", *(["--index"] if index else [])],
                env=self.environment(**environment),
                stdout=log,
                stderr=log,
                cwd=ROOT,
            )
        eventually(lambda: child.poll() is not None or accepts(self.scp_port), 30)
        assert accepts(self.scp_port), self.log("scp").read_text(encoding="utf-8")[-2000:]
        return child

    @contextlib.contextmanager
    def scp(self, *, index: bool = True, **environment: str) -> "Iterator[subprocess.Popen[bytes]]":
        child = self.start_scp(index=index, **environment)
        try:
            yield child
        finally:
            stop(child)

    def start_flow(self, **environment: str) -> "Flow":
        return Flow(self, environment)

    @contextlib.contextmanager
    def flow(self, **environment: str) -> "Iterator[Flow]":
        flow = self.start_flow(**environment)
        try:
            yield flow
        finally:
            flow.close()

    def retrieve(self, remote: str, **request: Any) -> dict[str, Any]:
        """One run in a process of its own."""
        with self.flow() as flow:
            return flow.retrieve(remote, **request)

    # -- what is on the disk

    def stored(self, unit: str = "default") -> dict[str, set[str]]:
        """SOP Instance UID → digests of the data sets that lie in a storage unit, read from the files."""
        found: dict[str, set[str]] = {}
        for path in self.unit(unit).rglob("*.dcm"):
            match = _STORED_NAME.match(path.name)
            assert match, f"{path.name} is no name of a stored instance"
            found.setdefault(match["uid"], set()).add(dataset_sha256(path))
        return found

    def assert_sound(self, unit: str = "default") -> None:
        """Every copy has the digest its record says, every file has a record, and nothing waits in the spool."""
        definition = self.units.get(unit) or UnitDefinition(name="default", path=self.unit())
        with Catalog(self.settings.catalog_database_url) as catalog:
            report = verify_unit(open_unit(definition), catalog, "checksum")
        assert report.ok == report.checked, report
        assert (report.missing, report.differing_checksum, report.orphaned) == (0, 0, 0), report
        assert self.waiting() == [], "left in the spool"

    def waiting(self) -> list[str]:
        """Complete files that are still in the spool."""
        spool = Spool(self.settings.spool_path, 0)
        return [file.path.name for folder in spool.folders() for file in spool.received(folder)]

    def rubbish(self) -> list[str]:
        """Half-written files in spool and units that nobody removes soon.

        An expectation's goes at a later start, an hour on; a manifest's after a day, as another machine may be
        writing it (both proven in tests/spool and tests/verification).
        """
        folders = (self.settings.spool_path, self.home / "units")
        return [
            str(path.relative_to(self.home))
            for folder in folders
            for path in folder.rglob("*")
            if path.name.endswith((".part", ".tmp")) and path.parent.name not in {"expect", "manifest"}
        ]


class Flow:
    """A child that makes runs; `ask` and `answer` apart, so that things can happen in between."""

    def __init__(self, place: Place, environment: dict[str, str]) -> None:
        self._log = place.log("flow")
        with self._log.open("ab") as log:
            self.process = spawn_bound(
                [sys.executable, "-m", "tests.chain.running"],
                env=place.environment(**environment),
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
            )

    def wait_until_ready(self) -> None:
        assert self._line() == {"ready": True}

    def ask(self, remote: str, **request: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"remote": remote, **request}).encode() + b"\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """The outcome of what was asked."""
        line = self._line()
        return self._line() if line == {"ready": True} else line

    def retrieve(self, remote: str, **request: Any) -> dict[str, Any]:
        self.ask(remote, **request)
        return self.answer()

    def _line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the flow ended: {self._log.read_text(encoding='utf-8')[-3000:]}"
        return json.loads(line)

    def close(self) -> None:
        stop(self.process)


def accepts(port: int) -> bool:
    with socket.socket() as caller:
        caller.settimeout(2)
        return caller.connect_ex(("127.0.0.1", port)) == 0


def stop(process: "subprocess.Popen[bytes]", seconds: float = 20) -> None:
    """End a bound child by closing its standard input; killed only if that does not help."""
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def children(pid: int) -> list[int]:
    """Process ids of the direct children of a process, by /proc."""
    with contextlib.suppress(OSError):
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    return []


def command_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not yet taken leave of does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def peak_memory(pid: int) -> int:
    """The most a process ever had in memory, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)[1]) * 1024  # type: ignore[index]


def indexer_of(scp: "subprocess.Popen[bytes]") -> int | None:
    """The process id of the indexer that a DICOM server keeps beside it."""
    return next((pid for pid in children(scp.pid) if "vna.indexing" in command_of(pid)), None)


def kill_hard(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def digests_of(studies: Sequence[GeneratedStudy]) -> dict[str, set[str]]:
    """What has to lie in the unit: SOP Instance UID → its one digest."""
    return {
        instance.sop_instance_uid: {instance.dataset_sha256}
        for study in studies
        for instance in study.instances
    }
