"""A burst of small images while database and storage are away: a backlog, and nothing else."""

import contextlib
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.chain.arranging import ROOT, eventually, peak_memory, stop
from tests.chain.receiving import Modality, Server, assert_all_placed, told
from vna.platform import spawn_bound

MIB = 2**20
ALLOWED_MIB = 30.0
SENDERS = 4


@dataclass(frozen=True)
class Burst:
    """What a burst of `images` cost: seconds until all were acknowledged, and until all were placed once database
    and storage were back, and how much more memory (MiB) each process needed than for a handful.
    """

    images: int
    received_in: float
    placed_in: float
    grown: dict[str, float]

    def __str__(self) -> str:
        grown = ", ".join(f"{name} {mib:+.0f} MiB" for name, mib in self.grown.items())
        return (
            f"{self.images} images while database and storage were away: acknowledged at "
            f"{self.images / self.received_in:.0f}/s, then placed at {self.images / self.placed_in:.0f}/s; {grown}"
        )


def burst(home: Path, images: int, *, size: int = 2000, indexers: int = 2) -> Burst:
    """Send it, look at the backlog, bring back the database, then the unit, and wait until all is placed.

    `indexers` more than the server's own help then. Raises if anything is lost, or if a process needs over 30 MiB
    more than for a handful of images.
    """
    database = home / "mount" / "catalog.sqlite"
    server = Server(home, BACKUPDR_CATALOG_URL=f"sqlite:///{database}")
    server.settings = server.settings.model_copy(update={"catalog_url": f"sqlite:///{database}"})
    first, before = a_handful(server, size)
    modalities = [
        Modality(n + 1, server.port, size=size, pause=0, per_association=2000, images=images // SENDERS)
        for n in range(SENDERS)
    ]
    count = images // SENDERS * SENDERS
    with Away(server, database.parent) as away, server.running():
        began = time.monotonic()
        for modality in modalities:
            modality.start()
        for modality in modalities:
            modality.join(1200)
        received_in = time.monotonic() - began
        indexer = server.indexer()
        assert len(told(modalities)) == count
        assert server.spool.waiting().files == count, "the backlog is not all of it"
        away.bring_back_the_database()
        looked = eventually(lambda: "is it mounted?" in server.log.read_text(encoding="utf-8"), 40)
        assert looked, "the indexer found the database and did not say that the unit is away"
        assert server.spool.waiting().files == count
        assert away.is_untouched(), "something was written to the bare mount point"
        away.bring_back_the_unit()
        began = time.monotonic()
        with contextlib.ExitStack() as helpers:
            for _ in range(indexers):
                helpers.callback(stop, another_indexer(server))
            assert eventually(lambda: server.spool.waiting().files == 0, 1800), server.spool.waiting()
        placed_in = time.monotonic() - began
        assert server.indexer() == indexer, "the indexer ended meanwhile"
        after = peaks(server)
        assert_all_placed(server, [first, *modalities])
    grown = {name: (after[name] - before[name]) / MIB for name in after}
    assert all(mib < ALLOWED_MIB for mib in grown.values()), grown
    return Burst(count, received_in, placed_in, grown)


def a_handful(server: Server, size: int) -> tuple[Modality, dict[str, int]]:
    """Some images placed by processes of their own, and the most memory these had."""
    first = Modality(99, server.port, size=size, pause=0, per_association=50, images=200)
    with server.running():
        server.indexer()
        first.start()
        first.join(60)
        assert eventually(lambda: server.stored() and not server.waiting(), 60)
        return first, peaks(server)


def peaks(server: Server) -> dict[str, int]:
    assert server.process is not None
    return {"server": peak_memory(server.process.pid), "indexer": peak_memory(server.indexer())}


class Away:
    """The database and the storage unit are away: what can be seen in their place is a bare mount point."""

    def __init__(self, server: Server, database: Path) -> None:
        self._folders = (database, server.unit().path)
        self._elsewhere = tuple(path.with_name(f"{path.name}.elsewhere") for path in self._folders)

    def __enter__(self) -> "Away":
        for folder, elsewhere in zip(self._folders, self._elsewhere, strict=True):
            folder.rename(elsewhere)
        self._folders[0].write_text("no folder, so that nothing can be made in it")
        self._folders[1].mkdir()
        return self

    def bring_back_the_database(self) -> None:
        self._folders[0].unlink()
        self._elsewhere[0].rename(self._folders[0])

    def is_untouched(self) -> bool:
        return list(self._folders[1].iterdir()) == []

    def bring_back_the_unit(self) -> None:
        self._folders[1].rmdir()
        self._elsewhere[1].rename(self._folders[1])

    def __exit__(self, *_: object) -> None:
        return None


def another_indexer(server: Server) -> "subprocess.Popen[bytes]":
    with server.log.open("ab") as log:
        return spawn_bound(
            [sys.executable, "-m", "vna.indexing", "--bound"],
            env={**os.environ, **server.environment},
            stdout=log,
            stderr=log,
            cwd=ROOT,
        )
