"""plan: what of each study is missing here."""

from collections.abc import Sequence

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.retrying import if_transient
from vna.jobs.run import BackupRun
from vna.jobs.steps import plan_batch


@task(
    name="plan",
    task_run_name="plan {label}",
    retries=3,
    retry_delay_seconds=[1, 5, 15],
    retry_condition_fn=if_transient,
    cache_policy=NO_CACHE,
    persist_result=False,
    tags=["query"],
)
def plan(run: BackupRun, studies: Sequence[str], label: str) -> None:
    """Plan every study of the batch; the plans stay with the run."""
    plan_batch(run, studies)
