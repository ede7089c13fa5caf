"""verify: compare with the source and say `complete` only of what is."""

from collections.abc import Sequence

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.retrying import if_transient
from vna.jobs.run import BackupRun
from vna.jobs.steps import verify_batch


@task(
    name="verify",
    task_run_name="verify {label}",
    retries=3,
    retry_delay_seconds=[1, 5, 15],
    retry_condition_fn=if_transient,
    cache_policy=NO_CACHE,
    persist_result=False,
    tags=["query"],
)
def verify(run: BackupRun, studies: Sequence[str], label: str) -> list[str]:
    """The studies that grew meanwhile and must be planned again."""
    return verify_batch(run, studies)
