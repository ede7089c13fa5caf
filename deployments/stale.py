"""Flow runs that say `Running` though nothing runs them: killed, and nobody told Prefect."""

import datetime
import time
from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.states import Crashed

from deployments.environment import database_is_ours
from deployments.server import other_commands
from vna.platform import is_locked

GONE = "The process of this run is gone (killed, stopped, or the machine went down); run it again to go on."
SECOND_LOOK_SECONDS = 3.0
"""A run lets go of its lock some moments before it says that it ended; only who is dead twice is dead."""

YOUNG = datetime.timedelta(seconds=60)
"""A run takes its lock some moments after it says Running."""


def mark_crashed(home: Path, *, ours: int, workers: bool) -> int:
    """Mark the dead runs of this home Crashed and return how many.

    A living run holds `runs/<flow run id>.lock`, so one that left an unheld lock is dead. One without a lock
    file is dead too if the server serves this home alone, unless it began a moment ago and a worker
    (`workers`: one may be alive), or a command of this home besides the `ours` that this process counts for,
    could be behind it.
    """
    running = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING]))
    marked, suspects = 0, list[tuple[FlowRun, bool]]()
    with get_client(sync_client=True) as client:
        commands = other_commands(home, ours)
        for run in client.read_flow_runs(flow_run_filter=FlowRunFilter(state=running), limit=200):
            alive_somewhere = workers if run.deployment_id is not None else commands
            if _is_dead(home, run, alive_somewhere=alive_somewhere):
                suspects.append((run, alive_somewhere))
        if suspects:
            time.sleep(SECOND_LOOK_SECONDS)
        for suspect, alive_somewhere in suspects:
            run = client.read_flow_run(suspect.id)
            running_still = run.state is not None and run.state.is_running()
            if running_still and _is_dead(home, run, alive_somewhere=alive_somewhere):
                client.set_flow_run_state(run.id, Crashed(message=GONE), force=True)
                marked += 1
    return marked


def _is_dead(home: Path, run: FlowRun, *, alive_somewhere: bool) -> bool:
    lock = home / "runs" / f"{run.id}.lock"
    if lock.exists():
        return not is_locked(lock)
    return database_is_ours() and not (alive_somewhere and _is_young(run))


def _is_young(run: FlowRun) -> bool:
    began = run.start_time
    return began is not None and datetime.datetime.now(datetime.UTC) - began < YOUNG
