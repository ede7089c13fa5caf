"""move: pull what is missing."""

from collections.abc import Sequence

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.retrying import if_transient
from vna.jobs.run import BackupRun
from vna.jobs.steps import move_batch


@task(
    name="move",
    task_run_name="move {label}",
    retries=3,
    retry_delay_seconds=[1, 5, 15],
    retry_condition_fn=if_transient,
    cache_policy=NO_CACHE,
    persist_result=False,
    tags=["retrieve"],
)
def move(run: BackupRun, studies: Sequence[str], label: str) -> None:
    """Pull what the plans of the batch want."""
    move_batch(run, studies)
