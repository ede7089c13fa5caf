"""Receiving from 1, 4 and 8 senders at once, an object of 1 GB, and senders with Nagle's algorithm.

Every turn starts its receiver in a folder of its own and nothing is removed before the end, so that all of them make
new files: to write over old ones is quicker, and to make files where others were just removed can be many times slower.
"""

import contextlib
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.large import write_large
from benchmarks.measuring import Comparison, Work, by_turns
from benchmarks.peers import LONGEST_SECONDS, QUICK, Missing, program
from benchmarks.receivers import Receiver, Receiving, dcmtk, orthanc_server, ours, pynetdicom_application
from benchmarks.studies import CT, Size, files_of

SMALL = Size("small", studies=4, instances=500, bytes=10 * 1024)
LARGE_BYTES = 10**9
SENDERS = (1, 4, 8)
NAGLE_AMOUNT = 100

STORESCP, OURS, ORTHANC, PYNETDICOM = "storescp --bit-preserving", "ours", "Orthanc", "pynetdicom storescp"
TWO, DISK = "ours, two processes", "disk"
COMPARED = (
    "{amount} CT instances of {size} sent by {senders} storescu at once. Ours: two digests, file and folder synced "
    "before success is said; storescp --bit-preserving: neither. Disk: the same bytes written, synced and "
    "renamed by as many threads, no network."
)
COMPARED_LARGE = (
    "one object of 1 GB sent by one storescu. Ours: two digests, file and folder synced before success is said. "
    "Disk: as many bytes written, synced and renamed, no network."
)
COMPARED_NAGLE = (
    "{amount} CT instances of {size} sent by one storescu with Nagle's algorithm, as modalities often have it: the "
    "tail of each message waits until what was sent before it is acknowledged."
)


@dataclass(slots=True)
class _Bench:
    """The folder of one run, and what was seen of the receivers beside their time."""

    folder: Path
    turn: int = 0
    cpu: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    peak: int = 0

    def receive(
        self, way: str, receiver: Receiver, shares: Sequence[Sequence[Path]], env: Mapping[str, str] = QUICK
    ) -> float:
        """Seconds from the start of the senders to the end of the last."""
        self.turn += 1
        with receiver(self.folder / f"received-{self.turn}") as receiving:
            _send(receiving, [shares[0][:1]], env)  # what is loaded at the first association is loaded
            os.sync()  # what the turn before left to be written is no part of this one
            before, began = receiving.cpu_seconds(), time.perf_counter()
            _send(receiving, shares, env)
            seconds = time.perf_counter() - began
            if receiving.pid:
                time.sleep(0.2)  # the children have ended
                self.cpu.setdefault(way, []).append(receiving.cpu_seconds() - before)
            if way in {OURS, TWO}:
                self.peak = max(self.peak, receiving.peak_bytes())
        return seconds

    def write(self, shares: Sequence[Sequence[Path]]) -> float:
        """Seconds in which this disk takes the same files, synced."""
        self.turn += 1
        folder = self.folder / f"written-{self.turn}"
        folder.mkdir()
        os.sync()
        began = time.perf_counter()
        _at_once(
            [lambda n=n, share=share: _write_synced(folder / str(n), share) for n, share in enumerate(shares)]
        )
        return time.perf_counter() - began


def compare(rounds: int) -> Iterator[Comparison]:
    """One comparison for each size and number of senders, one for the large object, one for the Nagle sender."""
    with _spread_folder() as folder:
        bench = _Bench(folder)
        files: list[Path] = []
        for size in (CT, SMALL):
            files = files_of(size.write(folder / size.name))
            for senders in SENDERS:
                shares = [list(files[number::senders]) for number in range(senders)]
                yield _compare_size(bench, size, shares, rounds)
        yield _compare_nagle(bench, files[:NAGLE_AMOUNT], rounds)
        large = write_large(folder / "large.dcm", files[0], LARGE_BYTES)
        yield _compare_large(bench, [[large]], rounds)


def _compare_size(bench: _Bench, size: Size, shares: Sequence[Sequence[Path]], rounds: int) -> Comparison:
    receivers = _receivers({STORESCP: dcmtk, OURS: ours(1), TWO: ours(2)})
    seconds = _by_turns(bench, receivers, shares, rounds)
    return Comparison(
        f"receive {size.name} from {len(shares)}",
        COMPARED.format(amount=size.amount, size=size.text, senders=len(shares)),
        size.amount,
        "instances",
        seconds,
        STORESCP,
        [_ratios(seconds), _cpu(bench, size.amount), _memory(bench)],
    )


def _compare_large(bench: _Bench, shares: Sequence[Sequence[Path]], rounds: int) -> Comparison:
    seconds = _by_turns(bench, _receivers({STORESCP: dcmtk, OURS: ours(1)}), shares, rounds)
    return Comparison(
        "receive one of 1 GB",
        COMPARED_LARGE,
        LARGE_BYTES // 10**6,
        "MB",
        seconds,
        STORESCP,
        [_ratios(seconds), _memory(bench)],
    )


def _compare_nagle(bench: _Bench, files: Sequence[Path], rounds: int) -> Comparison:
    env = {name: value for name, value in QUICK.items() if name != "TCP_NODELAY"}
    receivers: dict[str, Receiver] = {PYNETDICOM: pynetdicom_application, OURS: ours(1), STORESCP: dcmtk}
    ways: dict[str, Work] = {
        way: lambda way=way, receiver=receiver: bench.receive(way, receiver, [files], env)
        for way, receiver in receivers.items()
    }
    return Comparison(
        "receive small from 1 with Nagle's algorithm",
        COMPARED_NAGLE.format(amount=len(files), size=SMALL.text),
        len(files),
        "instances",
        by_turns(ways, rounds),
        PYNETDICOM,
    )


def _receivers(first: dict[str, Receiver]) -> dict[str, Receiver]:
    """With Orthanc, where it is installed, and pynetdicom's application."""
    with contextlib.suppress(Missing):
        program("Orthanc")
        first = {**first, ORTHANC: orthanc_server}
    return {**first, PYNETDICOM: pynetdicom_application}


def _by_turns(
    bench: _Bench, receivers: Mapping[str, Receiver], shares: Sequence[Sequence[Path]], rounds: int
) -> dict[str, list[float]]:
    bench.cpu.clear()
    bench.peak = 0
    ways: dict[str, Work] = {
        way: lambda way=way, receiver=receiver: bench.receive(way, receiver, shares)
        for way, receiver in receivers.items()
    }
    ways[DISK] = lambda: bench.write(shares)
    return by_turns(ways, rounds)


def _ratios(seconds: Mapping[str, Sequence[float]]) -> str:
    """Ours as a multiple of each of the others."""
    of = Comparison("", "", 1, "", seconds, OURS)
    others = [way for way in (STORESCP, ORTHANC, PYNETDICOM, DISK) if way in seconds]
    return "ours is " + ", ".join(f"{1 / of.ratio(way):.2f} times {way}" for way in others)


def _cpu(bench: _Bench, amount: int) -> str:
    used = [f"{way} {1e6 * min(bench.cpu[way]) / amount:,.0f} µs" for way in (STORESCP, OURS, PYNETDICOM)]
    return f"CPU of the receiver an instance: {', '.join(used)}"


def _memory(bench: _Bench) -> str:
    return f"peak memory of one of our processes: {bench.peak / 2**20:.0f} MiB"


@contextlib.contextmanager
def _spread_folder() -> Iterator[Path]:
    """A folder on the disk whose folders lie far from each other, where the file system can be told so (ext4)."""
    with tempfile.TemporaryDirectory(prefix="bench-receive-") as text:
        if (chattr := shutil.which("chattr")) is not None:
            subprocess.run([chattr, "+T", text], capture_output=True, check=False)
        yield Path(text)


def _send(receiving: Receiving, shares: Sequence[Sequence[Path]], env: Mapping[str, str]) -> None:
    """All senders at once; raises if one of them was not told success for everything."""
    to = ["-aec", receiving.aet, "-R", "127.0.0.1", str(receiving.port)]
    senders = [
        subprocess.Popen(
            [program("storescu"), *to, *map(str, share)],
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for share in shares
    ]
    for sender in senders:
        _, complaint = sender.communicate(timeout=LONGEST_SECONDS)
        if sender.returncode != 0:
            raise RuntimeError(
                f"storescu to {receiving.aet} failed: {complaint.decode(errors='replace')[-300:]}"
            )


def _at_once(works: Sequence[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _write_synced(folder: Path, files: Sequence[Path]) -> None:
    """As the contract of the spool asks: file synced, renamed, folder synced, one by one."""
    folder.mkdir()
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        for path in files:
            part = folder / f"{path.name}.part"
            with path.open("rb") as source, part.open("wb", buffering=0) as file:
                shutil.copyfileobj(source, file, 2**20)
                os.fsync(file.fileno())
            part.rename(folder / path.name)
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
