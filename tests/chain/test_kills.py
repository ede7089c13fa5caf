"""kill -9 of whatever process at whatever step: the next run completes, and the counts say at what price."""

import os
import random
import re
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.chain.arranging import ROOT
from tests.chain.killing import (
    Kill,
    Moment,
    backup_killed_after,
    backup_killed_at,
    backup_with_killed_worker,
    random_moment,
)

pytestmark = [
    pytest.mark.prefect,
    pytest.mark.skipif(sys.platform != "linux", reason="kill -9, and /proc to find whom"),
]

IN_RUN = ("plan.leased", "plan.planned", "move.expected", "move.moved", "index.indexed")
IN_PROOF = ("verify.listed", "verify.remembered", "verify.complete")
IN_SPOOL = ("spool.opened", "spool.part_synced", "spool.renamed", "spool.folder_synced")
IN_PLACING = (
    "place.linked",
    "place.file_synced",
    "place.manifest_synced",
    "place.catalogued",
    "place.unlinked",
    "place.folder_removed",
)
# no source of ours sends what cannot be placed: killed there by tests/indexing/test_interruptions.py
IN_SETTING_ASIDE = ("aside.described", "aside.linked", "aside.unlinked")

KILLS = [
    *(Kill("flow", boundary) for boundary in (*IN_RUN, *IN_PROOF)),
    *(Kill("flow", boundary, by="get", indexed_by="flow") for boundary in (*IN_SPOOL, *IN_PLACING)),
    *(Kill("scp", boundary) for boundary in IN_SPOOL),
    *(Kill("indexer", boundary) for boundary in IN_PLACING),
]

SEED = int(os.environ.get("BACKUPDR_TEST_SEED") or random.SystemRandom().randrange(10**6))
_CHANCE = random.Random(SEED)
MOMENTS = [(random_moment(_CHANCE, by, 8.0), by) for by in ("move", "get", "move", "get", "move")]


def test_every_boundary_in_the_code_is_one_at_which_we_kill() -> None:
    found: set[str] = set()
    for room in ("vna", "dicom_scp", "tasks", "flows"):
        for path in (ROOT / room).rglob("*.py"):
            found |= set(re.findall(r'\bcheckpoint\("([^"]+)"\)', path.read_text(encoding="utf-8")))
    assert found == {kill.boundary for kill in KILLS} | set(IN_SETTING_ASIDE)


@pytest.fixture(scope="module")
def killed(
    request: pytest.FixtureRequest, prefect_api: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[Kill, "Future[None]"]]:
    """All selected kills, two at a time, because one waits while the other works; each test takes its own."""
    with ThreadPoolExecutor(2) as pool:
        yield {
            kill: pool.submit(backup_killed_at, kill, tmp_path_factory.mktemp("kill"), prefect_api)
            for item in request.session.items
            if (kill := getattr(getattr(item, "callspec", None), "params", {}).get("kill"))
        }
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("kill", KILLS, ids=str)
def test_the_run_after_a_kill_completes_and_pulls_nothing_twice(
    killed: dict[Kill, "Future[None]"], kill: Kill
) -> None:
    killed[kill].result()


@pytest.mark.parametrize(("moment", "by"), MOMENTS, ids=lambda value: str(value).replace(" ", "-"))
def test_the_run_after_a_kill_at_a_random_moment_completes(
    moment: Moment, by: str, prefect_api: str, tmp_path: Path
) -> None:
    print(f"seed {SEED}: {moment}, by C-{by.upper()}")
    backup_killed_after(moment, tmp_path, prefect_api, by)


def test_a_killed_worker_costs_its_run_and_nothing_else(
    prefect_home: Path, prefect_api: str, tmp_path: Path
) -> None:
    backup_with_killed_worker(prefect_home, tmp_path, prefect_api, seed=77)
