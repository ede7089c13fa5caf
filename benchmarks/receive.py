"""Receiving from 1, 4 and 8 senders at once: ours beside DCMTK's storescp, and what the disk allows."""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.measuring import Comparison, Work, by_turns
from benchmarks.peers import LONGEST_SECONDS, QUICK, free_port, program, serving, storescp
from benchmarks.studies import CT, SMALL, files_of

SENDERS = (1, 4, 8)
REFERENCE = "storescp --bit-preserving"
COMPARED = (
    "{amount} CT instances of {size} sent by {senders} storescu at once. Ours: two digests, file and folder synced "
    "before success is said; storescp --bit-preserving: neither. Disk: the same bytes written, synced and "
    "renamed by as many threads, no network."
)


def compare(rounds: int) -> Iterator[Comparison]:
    """One comparison for each size and number of senders."""
    with tempfile.TemporaryDirectory(prefix="bench-receive-") as text:
        folder = Path(text)
        for size in (CT, SMALL):
            files = files_of(size.write(folder / size.name))
            for senders in SENDERS:
                place = folder / f"{size.name}-{senders}"
                place.mkdir()
                shares = [list(files[number::senders]) for number in range(senders)]
                seconds = _measured(place, shares, rounds)
                shutil.rmtree(place)
                yield Comparison(
                    f"receive {size.name} from {senders}",
                    COMPARED.format(amount=size.amount, size=size.text, senders=senders),
                    size.amount,
                    "instances",
                    seconds,
                    REFERENCE,
                )


def _measured(folder: Path, shares: Sequence[Sequence[Path]], rounds: int) -> dict[str, list[float]]:
    with _ours(folder / "ours") as ours, storescp(folder / "storescp") as theirs:
        ways: dict[str, Work] = {
            REFERENCE: lambda: _send(theirs, "PEER", shares),
            "ours": lambda: _send(ours, "BACKUPDR", shares),
            "disk": lambda: _write(folder / "disk", shares),
        }
        return by_turns(ways, rounds)


@contextmanager
def _ours(home: Path) -> Iterator[int]:
    port = free_port()
    settings = {
        "BACKUPDR_HOME": str(home),
        "BACKUPDR_SCP_PORT": str(port),
        "BACKUPDR_SCP_BIND": "127.0.0.1",
    }
    home.mkdir()
    with serving([sys.executable, "-m", "dicom_scp"], port, home / "scp.log", {**QUICK, **settings}):
        yield port


def _send(port: int, aet: str, shares: Sequence[Sequence[Path]]) -> None:
    """All senders at once; raises if one of them was not told success for everything."""
    senders = [
        subprocess.Popen(
            [program("storescu"), "-aec", aet, "-R", "127.0.0.1", str(port), *map(str, share)],
            env=QUICK,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for share in shares
    ]
    for sender in senders:
        _, complaint = sender.communicate(timeout=LONGEST_SECONDS)
        if sender.returncode != 0:
            raise RuntimeError(f"storescu to {aet} failed: {complaint.decode(errors='replace')[-300:]}")


def _write(folder: Path, shares: Sequence[Sequence[Path]]) -> None:
    folder.mkdir()
    try:
        _at_once(
            [lambda n=n, share=share: _write_synced(folder / str(n), share) for n, share in enumerate(shares)]
        )
    finally:
        shutil.rmtree(folder)


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
            with part.open("wb", buffering=0) as file:
                file.write(path.read_bytes())
                os.fsync(file.fileno())
            part.rename(folder / path.name)
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
