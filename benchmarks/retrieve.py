"""The same studies by C-MOVE and C-GET: our whole data path beside DCMTK writing files."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import chain
from benchmarks.measuring import Comparison, Work, by_turns
from benchmarks.peers import Missing, dcmqrscp, free_port, orthanc, run, storescp
from benchmarks.studies import CT, SMALL, Size, files_of

CONTROL_AET = "CONTROL"

COMPARED = (
    "{amount} CT instances of {size} in {studies} studies from the same {peer}. Ours: found, listed, pulled into "
    "the spool with digests, synced, placed in a unit, read back from disk, catalogued and compared with the "
    "source's list, in process without Prefect's start-up; DCMTK: written to files, no digest, no sync."
)


Peer = Callable[[Path, Sequence[Path], dict[str, int]], AbstractContextManager[int]]


def compare(rounds: int) -> Iterator[Comparison]:
    """Yields one comparison after the other; what is not installed is left out with a note."""
    for size in (CT, SMALL):
        yield from _from_peer("dcmqrscp", dcmqrscp, size, rounds, with_prefect=size is CT)
    try:
        yield from _from_peer("Orthanc", orthanc, CT, rounds, with_prefect=False)
    except Missing as missing:
        print(f"retrieve from Orthanc: left out, {missing} is not installed", flush=True)


def _from_peer(
    peer: str, start: Peer, size: Size, rounds: int, *, with_prefect: bool
) -> Iterator[Comparison]:
    with tempfile.TemporaryDirectory(prefix="bench-retrieve-") as text:
        folder = Path(text)
        written = size.write(folder / "studies")
        files = files_of(written)
        uids = [study.study_instance_uid for study in written]
        ports = {"BACKUPDR": free_port(), CONTROL_AET: free_port()}
        sentence = COMPARED.format(amount=size.amount, size=size.text, studies=size.studies, peer=peer)
        with start(folder / "peer", files, ports) as port:
            for method in ("move", "get"):
                bench = _Retrieving(folder, uids, size.amount, port, ports, method)
                reference = "getscu +B" if method == "get" else "movescu to storescp +B"
                seconds = by_turns(bench.ways(reference), rounds)
                notes = [bench.with_prefect()] if with_prefect and method == "move" else []
                yield Comparison(
                    f"retrieve {size.name} from {peer} by C-{method.upper()}",
                    sentence,
                    size.amount,
                    "instances",
                    seconds,
                    reference,
                    notes,
                )


@dataclass(slots=True)
class _Retrieving:
    folder: Path
    uids: Sequence[str]
    amount: int
    port: int
    ports: dict[str, int]
    method: str
    turn: int = 0

    def ways(self, reference: str) -> dict[str, Work]:
        return {
            reference: self._dcmtk,
            "ours, 1 association": lambda: self._ours(1),
            "ours, 2 associations (as set by default)": lambda: self._ours(2),
        }

    def _dcmtk(self) -> float:
        with self._fresh("dcmtk") as out, self._destination(out) as options:
            began = time.perf_counter()
            for uid in self.uids:
                run(
                    f"{self.method}scu",
                    *("-S", "-aet", CONTROL_AET, "-aec", "PEER", *options),
                    *("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={uid}"),
                    *("127.0.0.1", str(self.port)),
                )
            seconds = time.perf_counter() - began
            written = sum(1 for path in out.iterdir() if path.is_file())
            if written != self.amount:
                raise RuntimeError(f"{self.method}scu brought {written} of {self.amount} instances")
            return seconds

    @contextmanager
    def _destination(self, out: Path) -> Iterator[list[str]]:
        """Where DCMTK writes. movescu that receives itself waits a second in each study: storescp does not."""
        if self.method == "get":
            yield ["+B", "-pdu", "131072", "-od", str(out)]
            return
        with storescp(out, self.ports[CONTROL_AET]):
            yield ["-aem", CONTROL_AET]

    def _ours(self, associations: int) -> float:
        with (
            self._fresh("ours") as own,
            chain.home(own / "home", self.ports["BACKUPDR"]) as settings,
        ):
            chain.source(settings, self.port, self.method, associations)
            return chain.back_up(settings)

    def with_prefect(self) -> str:
        """The same once as a flow: what Prefect adds does not grow with the images."""
        with (
            self._fresh("prefect") as own,
            chain.home(own / "home", self.ports["BACKUPDR"]) as settings,
        ):
            chain.source(settings, self.port, self.method, 2)
            total, flow = chain.back_up_with_prefect(settings)
        return (
            f"once as a Prefect flow in a new home: {flow:.1f} s for the flow, {total:.1f} s with Prefect's "
            f"embedded server started and ended."
        )

    @contextmanager
    def _fresh(self, name: str) -> Iterator[Path]:
        self.turn += 1
        folder = self.folder / f"{self.method}-{name}-{self.turn}"
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder)
