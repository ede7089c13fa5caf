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
# no backup asks for storage commitment: killed there by tests/dimse/test_commitment_kills.py
IN_COMMITMENT = (
    "commitment.requested",
    "commitment.judged",
    "commitment.reported",
    "commitment.forgotten",
)

KILLS = [
    *(Kill("flow", boundary) for boundary in (*IN_RUN, *IN_PROOF)),
    *(Kill("flow", boundary, by="get", indexed_by="flow") for boundary in IN_SPOOL),
    # what is placed together passes these boundaries together: they are reached a few times in a run
    *(Kill("flow", boundary, by="get", indexed_by="flow", nth=2) for boundary in IN_PLACING),
    *(Kill("scp", boundary) for boundary in IN_SPOOL),
    *(Kill("indexer", boundary, nth=2) for boundary in IN_PLACING),
]

SEED = int(os.environ.get("BACKUPDR_TEST_SEED") or random.SystemRandom().randrange(10**6))
_CHANCE = random.Random(SEED)
MOMENTS = [(random_moment(_CHANCE, by), by) for by in ("move", "get", "move", "get", "move")]


def test_every_boundary_in_the_code_is_one_at_which_we_kill() -> None:
    found: set[str] = set()
    for room in ("vna", "dicom_scp", "tasks", "flows"):
        for path in (ROOT / room).rglob("*.py"):
            found |= set(re.findall(r'\bcheckpoint\("([^"]+)"\)', path.read_text(encoding="utf-8")))
    assert found == {kill.boundary for kill in KILLS} | {*IN_SETTING_ASIDE, *IN_COMMITMENT}


@pytest.fixture(scope="module")
def killed(
    request: pytest.FixtureRequest, prefect_api: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, "Future[None]"]]:
    """All selected kills, two at a time, because one waits while the other works; each test takes its own."""
    futures: dict[str, Future[None]] = {}
    with ThreadPoolExecutor(2) as pool:
        for item in request.session.items:
            wanted = getattr(getattr(item, "callspec", None), "params", {})
            if "kill" in wanted:
                call = (backup_killed_at, wanted["kill"], tmp_path_factory.mktemp("kill"), prefect_api)
                futures[str(wanted["kill"])] = pool.submit(*call)
            elif "moment" in wanted:
                folder = tmp_path_factory.mktemp("moment")
                call = (backup_killed_after, wanted["moment"], folder, prefect_api, wanted["by"])
                futures[str(wanted["moment"])] = pool.submit(*call)
        yield futures
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("kill", KILLS, ids=str)
def test_the_run_after_a_kill_completes_and_pulls_nothing_twice(
    killed: dict[str, "Future[None]"], kill: Kill
) -> None:
    killed[str(kill)].result()


@pytest.mark.parametrize(("moment", "by"), MOMENTS, ids=lambda value: str(value).replace(" ", "-"))
def test_the_run_after_a_kill_at_a_random_moment_completes(
    killed: dict[str, "Future[None]"], moment: Moment, by: str
) -> None:
    print(f"seed {SEED} (BACKUPDR_TEST_SEED={SEED} for the same again): {moment}, by C-{by.upper()}")
    killed[str(moment)].result()


def test_a_killed_worker_costs_its_run_and_nothing_else(
    prefect_home: Path, prefect_api: str, tmp_path: Path
) -> None:
    backup_with_killed_worker(prefect_home, tmp_path, prefect_api, seed=77)
