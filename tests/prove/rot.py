"""Bit rot: bytes of stored copies change without anybody's doing; `verify` finds all and blames no other."""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from tests.chain.arranging import ROOT, Place, digests_of
from tests.prove.proof import Site
from vna.simulated_pacs import write_studies

STUDIES, INSTANCES, ROTTEN = 60, 5, 25


def bit_rot_is_found(site: Site, seed: int) -> str:
    chance = random.Random(f"{seed}-rot")
    studies = write_studies(site.folder / "source", STUDIES, instances=INSTANCES, size_bytes=4096)
    place = Place(site.folder / "home", site.api_url)
    with place.pacs(site.folder / "source") as pacs, place.scp():
        place.know("source", pacs.port)
        with place.flow() as flow:
            assert flow.retrieve("source")["state"] == "completed"
            copies = sorted(place.unit().rglob("*.dcm"))
            before, exit_code = verify(place)
            assert exit_code == 0, before
            assert before["ok"] == before["checked"] == len(copies)
            rotten = chance.sample(copies, ROTTEN)
            for path in rotten:
                rot(path, chance)
            sent_before = Counter(pacs.sent)

            report, exit_code = verify(place)
            assert exit_code != 0
            assert report["differing_checksum"] == ROTTEN, report
            assert report["ok"] == len(copies) - ROTTEN, report
            told = " ".join(report["problems"])
            assert all(path.name in told for path in rotten), told
            assert not any(path.name in told for path in copies if path not in rotten), told

            again = flow.retrieve("source")
            assert again["state"] == "completed", again
            uids = {path.name.split(".dcm")[0].rpartition(".")[0] for path in rotten}
            assert pacs.sent - sent_before == Counter(uids), "pulled more or less than what rotted"
        stored = place.stored()
        for uid, digests in digests_of(studies).items():
            assert digests <= stored[uid], f"no good copy of {uid}"
        assert all(path.exists() for path in rotten), "a damaged copy was overwritten or removed"
        after, exit_code = verify(place)
        assert exit_code == 0, after
    return (
        f"{ROTTEN} of {len(copies)} copies rotted: {ROTTEN} found, none blamed wrongly, {ROTTEN} pulled again"
    )


def rot(path: Path, chance: random.Random) -> None:
    """Flip one bit somewhere in the file, as a failing disk does: without a trace in size or time."""
    stat = path.stat()
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    with path.open("r+b") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def verify(place: Place) -> tuple[dict[str, Any], int]:
    """What `backupdr verify` says, by checksum, and its exit code."""
    done = subprocess.run(
        [sys.executable, "-m", "cli", "verify", "--level", "checksum", "--json"],
        env=place.environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.returncode
