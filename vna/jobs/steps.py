"""The steps of a batch of studies: plan, move, index, verify.

Each takes study UIDs, does what it can for every one and writes what it learnt to the ledger: one bad study
never stops its batch. A transient error is raised after the last study, so that the step is tried again as a
whole; what is done is not done twice, because the run remembers it.
"""

import logging
from collections.abc import Callable, Iterator, Sequence

from vna.errors import BackupError, RunStopped, is_transient, where_it_happened
from vna.jobs.moving import index_study, move_study
from vna.jobs.planning import plan_study
from vna.jobs.proving import prove_study
from vna.jobs.run import BackupRun, Order, StudyWork

BATCHES = 16
BATCH_STUDIES = 25

_log = logging.getLogger(__name__)


def batches(run: BackupRun, wanted: int) -> Iterator[list[str]]:
    """Study UIDs in the run's order: one by one in a small run, else so that some 16 batches are there to be worked
    on at once, and at most 25 in each. A step of a batch costs the workflow server as much as one of a study.
    """
    size = min(max(1, -(-wanted // BATCHES)), BATCH_STUDIES)
    batch: list[str] = []
    for study in run.ledger.to_do(run.run_id, descending=run.request.order is Order.descending):
        batch.append(study.study_instance_uid)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def plan_batch(run: BackupRun, study_instance_uids: Sequence[str]) -> None:
    """Plan every study that is not planned yet."""

    def plan(uid: str) -> None:
        if uid in run.work:
            return
        (study,) = run.ledger.studies(run.run_id, [uid])
        run.work[uid] = StudyWork(plan_study(run, study))

    _each(run, study_instance_uids, plan)


def move_batch(run: BackupRun, study_instance_uids: Sequence[str]) -> None:
    """Pull what the plans want."""

    def pull(work: StudyWork) -> None:
        if work.plan.nothing_to_move:
            return
        try:
            work.said = move_study(run, work.plan)
        except BackupError as error:
            work.said = str(error)
            raise

    _each_planned(run, study_instance_uids, pull)


def index_batch(run: BackupRun, study_instance_uids: Sequence[str]) -> None:
    """Wait until what arrived is placed and catalogued."""

    def index(work: StudyWork) -> None:
        if not work.plan.nothing_to_move:
            index_study(run, work.plan)

    _each_planned(run, study_instance_uids, index)


def verify_batch(run: BackupRun, study_instance_uids: Sequence[str]) -> list[str]:
    """Prove the planned studies; returns those that grew meanwhile and must be planned again."""

    def prove(work: StudyWork) -> None:
        if not work.grown:
            work.grown = not prove_study(run, work.plan, work.said)
            if not work.grown:
                del run.work[work.plan.study_instance_uid]

    _each_planned(run, study_instance_uids, prove)
    grown = [uid for uid in study_instance_uids if uid in run.work and run.work[uid].grown]
    for uid in grown:
        del run.work[uid]
    return grown


def close_batch(run: BackupRun, study_instance_uids: Sequence[str], reason: str) -> None:
    """Nothing of a batch stays without an outcome: what no step decided is failed, with the reason.

    In a run that was told to end, what is undecided stays so; the run as a whole says why.
    """
    for study in run.ledger.studies(run.run_id, study_instance_uids):
        uid = study.study_instance_uid
        run.work.pop(uid, None)
        if study.state not in {"complete", "incomplete", "failed", "excluded"} and not run.stopping.is_set():
            run.ledger.mark(run.run_id, uid, state="failed", last_error=f"study {uid}: {reason}.")
    run.ledger.release(run.run_id, run.remote.name, study_instance_uids)


def _each_planned(
    run: BackupRun, study_instance_uids: Sequence[str], step: Callable[[StudyWork], None]
) -> None:
    planned = [uid for uid in study_instance_uids if uid in run.work]
    _each(run, planned, lambda uid: step(run.work[uid]))


def _each(run: BackupRun, study_instance_uids: Sequence[str], step: Callable[[str], None]) -> None:
    try_again: BackupError | None = None
    for uid in study_instance_uids:
        if run.stopping.is_set():
            return
        try:
            step(uid)
        except RunStopped:
            return
        except BackupError as error:
            run.ledger.mark(run.run_id, uid, state="failed", last_error=_named(uid, error))
            if is_transient(error) and try_again is None:
                try_again = error
        except Exception as error:  # noqa: BLE001 - one study must not stop the others, whatever it is
            _log.error("study %s failed unexpectedly\n%s", uid, where_it_happened(error))
            sentence = f"study {uid}: failed unexpectedly ({type(error).__name__}); the log has the details."
            run.ledger.mark(run.run_id, uid, state="failed", last_error=sentence)
    if try_again is not None:
        raise try_again


def _named(uid: str, error: BackupError) -> str:
    text = str(error)
    return text if uid in text else f"study {uid}: {text}"
