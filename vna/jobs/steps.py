"""The steps of a batch of studies: plan, move, index, verify.

Each takes study UIDs, does what it can for every one and writes what it learnt to the ledger: one bad study
never stops its batch. A transient error is raised after the last study, so that the step is tried again as a
whole; what is done is not done twice, because the run remembers it.
"""

from collections.abc import Callable, Iterator, Sequence

from vna.errors import BackupError, is_transient
from vna.jobs.moving import index_study, move_study
from vna.jobs.planning import StudyPlan, plan_study
from vna.jobs.proving import prove_study
from vna.jobs.run import BackupRun, Order

BATCHES = 16
BATCH_STUDIES = 25


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
        if uid in run.plans:
            return
        (study,) = run.ledger.studies(run.run_id, [uid])
        run.plans[uid] = plan_study(run, study)

    _each(run, study_instance_uids, plan)


def move_batch(run: BackupRun, study_instance_uids: Sequence[str]) -> None:
    """Pull what the plans want."""

    def pull(uid: str, plan: StudyPlan) -> None:
        if plan.nothing_to_move:
            return
        try:
            run.said[uid] = move_study(run, plan)
        except BackupError as error:
            run.said[uid] = str(error)
            raise

    _each_planned(run, study_instance_uids, pull)


def index_batch(run: BackupRun, study_instance_uids: Sequence[str]) -> None:
    """Wait until what arrived is placed and catalogued."""

    def index(_: str, plan: StudyPlan) -> None:
        if not plan.nothing_to_move:
            index_study(run, plan)

    _each_planned(run, study_instance_uids, index)


def verify_batch(run: BackupRun, study_instance_uids: Sequence[str]) -> list[str]:
    """Prove the planned studies; returns those that grew meanwhile and must be planned again."""

    def prove(uid: str, plan: StudyPlan) -> None:
        if not prove_study(run, plan, run.said.get(uid, "")):
            run.grown.add(uid)
        del run.plans[uid]
        run.said.pop(uid, None)

    _each_planned(run, study_instance_uids, prove)
    grown = [uid for uid in study_instance_uids if uid in run.grown]
    run.grown.difference_update(grown)
    return grown


def close_batch(run: BackupRun, study_instance_uids: Sequence[str], reason: str) -> None:
    """Nothing of a batch stays without an outcome: what no step decided is failed, with the reason."""
    for study in run.ledger.studies(run.run_id, study_instance_uids):
        uid = study.study_instance_uid
        run.plans.pop(uid, None)
        run.said.pop(uid, None)
        run.grown.discard(uid)
        if study.state not in {"complete", "incomplete", "failed", "excluded"}:
            run.ledger.mark(run.run_id, uid, state="failed", last_error=f"study {uid}: {reason}")
    run.ledger.release(run.run_id, run.remote.name, study_instance_uids)


def _each_planned(
    run: BackupRun, study_instance_uids: Sequence[str], step: Callable[[str, StudyPlan], None]
) -> None:
    planned = [uid for uid in study_instance_uids if uid in run.plans]
    _each(run, planned, lambda uid: step(uid, run.plans[uid]))


def _each(run: BackupRun, study_instance_uids: Sequence[str], step: Callable[[str], None]) -> None:
    try_again: BackupError | None = None
    for uid in study_instance_uids:
        try:
            step(uid)
        except BackupError as error:
            run.ledger.mark(run.run_id, uid, state="failed", last_error=_named(uid, error))
            if is_transient(error) and try_again is None:
                try_again = error
    if try_again is not None:
        raise try_again


def _named(uid: str, error: BackupError) -> str:
    text = str(error)
    return text if uid in text else f"study {uid}: {text}"
