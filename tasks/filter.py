"""filter: keep the wanted studies, asking deeper where the source did not tell."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.retrying import if_transient
from vna.jobs.finding import choose
from vna.jobs.run import BackupRun


@task(
    name="filter",
    task_run_name="filter studies of {run.remote.name}",
    retries=3,
    retry_delay_seconds=[1, 5, 15],
    retry_condition_fn=if_transient,
    cache_policy=NO_CACHE,
    persist_result=False,
    tags=["query"],
)
def filter_wanted(run: BackupRun) -> int:
    """How many studies are wanted."""
    return choose(run)
