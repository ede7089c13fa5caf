"""find: list the source's studies into the ledger."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.retrying import if_transient
from vna.jobs.finding import find as find_studies
from vna.jobs.run import BackupRun


@task(
    name="find",
    task_run_name="find studies at {run.remote.name}",
    retries=2,
    retry_delay_seconds=[1, 5],  # somebody may be waiting for the answer that a host name is wrong
    retry_condition_fn=if_transient,
    cache_policy=NO_CACHE,
    persist_result=False,
    tags=["query"],
)
def find(run: BackupRun) -> int:
    """How many studies the source answered; the list is in the ledger."""
    return find_studies(run)
