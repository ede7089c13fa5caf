"""Our whole chain on a home of its own, as the flow runs it, with or without Prefect around it."""

import contextlib
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vna.dimse import receiving
from vna.jobs.finding import choose, find
from vna.jobs.outcome import RetrievalOutcome, read_outcome
from vna.jobs.run import BackupRun, Request, open_run
from vna.jobs.steps import batches, close_batch, index_batch, move_batch, plan_batch, verify_batch
from vna.settings import Settings, load_settings
from vna.site import RemoteServer, RetrieveMethod, Site, publish_site

SOURCE, UNIT = "peer", "default"
WORKERS, GROWTH_ROUNDS = 8, 3
"""As in the flow, whose module is not imported here: it would start Prefect's client."""


@contextlib.contextmanager
def home(folder: Path, port: int) -> Iterator[Settings]:
    """Settings of a fresh home in `folder`, for this process and its children."""
    own = {
        "BACKUPDR_HOME": str(folder),
        "BACKUPDR_SCP_PORT": str(port),
        "BACKUPDR_SCP_BIND": "127.0.0.1",
    }
    before = dict(os.environ)
    os.environ.update(own)
    try:
        yield load_settings()
    finally:
        os.environ.clear()
        os.environ.update(before)


def source(settings: Settings, port: int, method: str, associations: int) -> None:
    """Make the peer at `port` the one remote server of this home."""
    remote = RemoteServer(
        name=SOURCE,
        aet="PEER",
        host="127.0.0.1",
        port=port,
        retrieve=RetrieveMethod(method),
        associations=associations,
    )
    publish_site(settings, Site(remotes={SOURCE: remote}))


def back_up(settings: Settings) -> float:
    """Seconds from the first query to the last study proven; raises if not all is complete.

    The DICOM server runs already, as it does at a site, and the catalog has its tables.
    """
    run_id = str(uuid.uuid4())
    with (
        open_run(settings, run_id, Request(SOURCE, UNIT)) as run,
        receiving(settings, by_move=not run.by_get),
    ):
        began = time.perf_counter()
        find(run)
        work = batches(run, choose(run))
        with ThreadPoolExecutor(WORKERS) as pool:
            for done in [pool.submit(_back_up_batch, run, studies) for studies in work]:
                done.result()
        seconds = time.perf_counter() - began
        require_complete(read_outcome(run.catalog, run.ledger, run_id))
    return seconds


def _back_up_batch(run: BackupRun, studies: Sequence[str]) -> None:
    todo = list(studies)
    try:
        for _ in range(GROWTH_ROUNDS):
            plan_batch(run, todo)
            move_batch(run, todo)
            index_batch(run, todo)
            if not (todo := verify_batch(run, todo)):
                return
    finally:
        close_batch(run, studies, "stopped before it could be verified")


def back_up_with_prefect(settings: Settings) -> tuple[float, float]:
    """(all seconds, those of the flow alone) of the same as a flow on an embedded Prefect server."""
    from deployments.server import embedded_server

    began = time.perf_counter()
    with embedded_server(settings.home):
        from flows.query_retrieve import run_retrieval

        outcome = run_retrieval(settings, SOURCE, unit=UNIT)
        require_complete(outcome)
    return time.perf_counter() - began, outcome.seconds


def require_complete(outcome: RetrievalOutcome) -> None:
    if not outcome.ok or outcome.found == 0:
        raise RuntimeError(f"our backup is not complete, so its time means nothing: {outcome.sentence}")
