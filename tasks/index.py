"""index: wait until what arrived is placed, read back and catalogued."""

from collections.abc import Sequence

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.retrying import if_transient
from vna.jobs.run import BackupRun
from vna.jobs.steps import index_batch


@task(
    name="index",
    task_run_name="index {label}",
    retries=3,
    retry_delay_seconds=[1, 5, 15],
    retry_condition_fn=if_transient,
    cache_policy=NO_CACHE,
    persist_result=False,
    tags=["storage"],
)
def index(run: BackupRun, studies: Sequence[str], label: str) -> None:
    """Return when nothing of the batch waits in the spool."""
    index_batch(run, studies)
