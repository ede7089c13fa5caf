"""A disk that becomes full in the middle of a run: nothing half-written, and it goes on once there is room."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.chain.arranging import ASSOCIATIONS, Place, digests_of, eventually
from tests.chain.killing import check
from tests.prove.proof import Impossible, Site
from vna.simulated_pacs import write_studies

STUDIES, INSTANCES, SIZE = 8, 3, 4 * 2**20
SMALL, LARGE = "60m", "400m"
RESERVE = 4 * 2**20


def backup_on_a_full_disk(site: Site, *, reserve: bool) -> str:
    """`reserve`: we stop above our reserve; without, the disk itself says that it is full."""
    studies = write_studies(site.folder / "source", STUDIES, instances=INSTANCES, size_bytes=SIZE)
    with small_disk(site.folder / "disk") as disk:
        more = {"BACKUPDR_RESERVE_BYTES": str(RESERVE if reserve else 0)}
        place = Place(disk / "home", site.api_url, more=more)
        with place.pacs(site.folder / "source") as pacs, place.scp():
            place.know("source", pacs.port)
            first = place.retrieve("source")
            assert first["state"] == "failed", first
            assert first["complete"] < STUDIES, first
            if reserve:  # without one the disk refuses an instance, and the source tells only that it failed
                assert "make room" in " ".join([*first["problems"], first["sentence"]]), first
            expected = digests_of(studies)
            stored = place.stored()
            assert all(digests == expected[uid] for uid, digests in stored.items()), "half-written"
            resize(disk, LARGE)
            second = place.retrieve("source")
            assert second["state"] == "completed", second
            refused = sum(pacs.sent.values()) - sum(pacs.acknowledged.values())
            check(place, pacs, studies, in_flight=ASSOCIATIONS + refused)
            assert eventually(lambda: place.waiting() == [], 30)
    kind = "our reserve" if reserve else "the last byte"
    return (
        f"full at {kind}: {first['complete']} of {STUDIES} studies complete, nothing half-written; "
        f"with room again all {second['complete']}"
    )


@contextlib.contextmanager
def small_disk(folder: Path, size: str = SMALL) -> Iterator[Path]:
    """A small file system of its own, which only root may make."""
    if sys.platform != "linux" or os.geteuid() != 0:
        raise Impossible("a small file system can only be made by root on Linux")
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "backupdr-proof", str(folder)],
        capture_output=True,
        text=True,
    )
    if made.returncode:
        raise Impossible(f"a small file system could not be mounted ({made.stderr.strip()})")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def resize(folder: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)
