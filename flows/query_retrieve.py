"""Back up a remote DICOM server by query and retrieve.

Find the studies that are wanted, and of each one pull only what is missing here, place it, read it back and
compare it with what the source lists. A study is `complete` when the two sets are equal; a run is `Completed`
when all its studies are. What a killed run left is found and used by the next.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner

from tasks.filter import filter_wanted
from tasks.find import find
from tasks.index import index
from tasks.move import move
from tasks.plan import plan
from tasks.report import live_progress, progress_told_to
from tasks.verify import verify
from vna.catalog import Catalog
from vna.dimse import receiving
from vna.errors import BackupError, RunFailed
from vna.jobs.filters import Filter, make_filter, parse_filter
from vna.jobs.ledger import Ledger
from vna.jobs.outcome import RetrievalOutcome, read_outcome
from vna.jobs.run import BackupRun, Order, Request, open_run
from vna.jobs.steps import batches, close_batch
from vna.settings import Settings, load_settings

GROWTH_ROUNDS = 3
WORKERS = 8
"""Batches in work at once; how many talk to the source is the source's own limit."""


class Stopped(KeyboardInterrupt):
    """Ctrl-C, once the studies in work were left in order; `outcome` tells how far the run had come."""

    def __init__(self, outcome: RetrievalOutcome) -> None:
        self.outcome = outcome
        super().__init__(outcome.sentence)


def _run_name() -> str:
    parameters = flow_run.get_parameters()
    keywords = sorted({text.partition("=")[0] for text in parameters.get("filters") or ()})
    if parameters.get("study_instance_uids"):
        keywords.append("StudyInstanceUID")
    wanted = f"studies by {', '.join(keywords)}" if keywords else "all studies"
    return f"{wanted} of {parameters.get('source')} to {parameters.get('unit')}"


@flow(
    name="query-retrieve",
    flow_run_name=_run_name,
    description=__doc__,
    task_runner=cast(
        Any, ThreadPoolTaskRunner(max_workers=WORKERS)
    ),  # flow() is typed for other runners only
    persist_result=False,
    validate_parameters=True,
)
def query_retrieve(
    source: str,
    unit: str = "default",
    filters: list[str] | None = None,
    study_instance_uids: list[str] | None = None,
    order: Order = Order.ascending,
    recheck: bool = False,
) -> "State[RetrievalOutcome]":
    """Back up studies of a remote DICOM server.

    Args:
        source: Name of the remote server to back up (a "Remote server" block).
        unit: Name of the storage unit that gets the copies (a "Storage unit" block).
        filters: Conditions, each Keyword=value: StudyDate=20240101-20240131, Modality=CT, 0008,0080=North*.
            All must be met. Without any, everything the source has is taken.
        study_instance_uids: Only these studies.
        order: Oldest studies first (ascending) or newest first (descending).
        recheck: Pull held studies again to find contents that changed without any sign.
    """
    settings = load_settings()
    request = Request(source, unit, conditions(filters or [], study_instance_uids or []), order, recheck)
    outcome = back_up(settings, flow_run.get_id() or "unnamed", request)
    if outcome.ok:
        return Completed(message=outcome.sentence, data=outcome)
    return Failed(message=outcome.sentence, data=RunFailed(outcome.sentence))


def back_up(settings: Settings, run_id: str, request: Request) -> RetrievalOutcome:
    """The run itself: find, filter, then plan, move, index and verify batch by batch."""
    with open_run(settings, run_id, request) as run:
        error = ""
        try:
            with receiving(settings, by_move=not run.by_get), live_progress(run):
                find(run)
                wanted = filter_wanted(run)
                _in_parallel(run, batches(run, wanted))
        except BackupError as raised:
            error = str(raised)
        except Exception as raised:
            sentence = f"The run failed unexpectedly ({type(raised).__name__}); its log has the details."
            run.ledger.end(run_id, "failed", sentence, sentence)
            raise
        except KeyboardInterrupt as raised:
            raise Stopped(_stopped(run)) from raised
        except BaseException:  # the worker's order to end
            _stopped(run)
            raise
        outcome = read_outcome(run.catalog, run.ledger, run_id, error)
        run.ledger.end(run_id, "completed" if outcome.ok else "failed", outcome.sentence, error)
        return outcome


def _stopped(run: BackupRun) -> RetrievalOutcome:
    """Write down that a run was stopped, and how far it had come."""
    counts = run.ledger.counts(run.run_id)
    done = f"{counts.complete} of {counts.found} studies complete"
    sentence = f"Stopped: {done}; run it again, it pulls only what is missing."
    run.ledger.end(run.run_id, "failed", sentence, sentence)
    return read_outcome(run.catalog, run.ledger, run.run_id)


def _in_parallel(run: BackupRun, work: Iterator[list[str]]) -> None:
    """Submit batches, never many more than are being worked on, so that memory stays flat in a long run.

    Told to end, the run begins no further study, and ends when those in work are left in order.
    """
    futures: list[PrefectFuture[None]] = []
    try:
        for number, studies in enumerate(work, start=1):
            futures.append(back_up_batch.submit(run, studies, f"batch {number}"))
            if len(futures) >= 2 * WORKERS:
                futures.pop(0).wait()
        for future in futures:
            future.wait()
    except BaseException:
        run.stopping.set()
        for future in futures:
            future.wait()
        raise


@task(
    name="back up",
    task_run_name="back up {label}",
    cache_policy=NO_CACHE,
    persist_result=False,
)
def back_up_batch(run: BackupRun, studies: Sequence[str], label: str) -> None:
    """Plan, move, index and verify a batch; a study that grew meanwhile goes round again."""
    reason = "stopped before it could be verified"
    todo = list(studies)
    try:
        for _ in range(GROWTH_ROUNDS):
            if run.stopping.is_set():
                return
            for step in (plan, move, index):
                step(run, todo, label, return_state=True)
            proven = verify(run, todo, label, return_state=True)
            todo = proven.result(raise_on_failure=False) if proven.is_completed() else []
            if not todo:
                return
        reason = f"still growing at {run.remote.name}; the next run takes what came after"
    finally:
        close_batch(run, studies, reason)


def conditions(filters: Sequence[str], study_instance_uids: Sequence[str]) -> list[Filter]:
    """The filters of a run; raises `FilterInvalid` for the first that cannot be used."""
    wanted = [parse_filter(text) for text in filters]
    if study_instance_uids:
        wanted.append(make_filter("StudyInstanceUID", "\\".join(study_instance_uids)))
    return wanted


def run_retrieval(
    settings: Settings,
    remote: str,
    filters: Mapping[str, str] | Sequence[str] = (),
    study_uids: Sequence[str] = (),
    order: str = "ascending",
    unit: str = "default",
    recheck: bool = False,
    on_progress: Callable[[str], None] | None = None,
) -> RetrievalOutcome:
    """Run the flow in this process and wait for its outcome; a run that could not begin is an outcome too."""
    texts = (
        [f"{key}={value}" for key, value in filters.items()]
        if isinstance(filters, Mapping)
        else list(filters)
    )
    with progress_told_to(on_progress):
        state = query_retrieve(
            source=remote,
            unit=unit,
            filters=texts,
            study_instance_uids=list(study_uids),
            order=Order(order),
            recheck=recheck,
            return_state=True,
        )
    with Catalog(settings.catalog_database_url) as catalog:
        ledger = Ledger(catalog.engine, settings.home)
        run_id = str(state.state_details.flow_run_id)
        if catalog.is_migrated() and ledger.seconds_and_error(run_id) is not None:
            outcome = read_outcome(catalog, ledger, run_id)
            if state.is_completed() or not outcome.ok:
                return outcome
    return RetrievalOutcome(error=_why(state))


def _why(state: "State[Any]") -> str:
    """What stopped a run before it could begin."""
    try:
        state.result()
    except BackupError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - shown to the operator, whatever it is
        return state.message or f"{type(error).__name__}: {error}"
    return state.message or "The run did not begin."
