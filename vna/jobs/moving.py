"""move: ask the source for what is missing until it is here or no more comes; index: wait until it is placed."""

import contextlib
import datetime
import time
from collections import Counter
from collections.abc import Callable, Collection

from vna.checkpoints import checkpoint
from vna.dimse import GetOutcome, MoveOutcome, get, move, unknown_callers_since
from vna.errors import MoveDestinationUnknown, PeerError, RunStopped, SpoolUnusable
from vna.indexing import help_indexing
from vna.jobs.planning import StudyPlan
from vna.jobs.run import BackupRun
from vna.jobs.waiting import SignsOfLife
from vna.spool import Expectation

EXPECTATION_HOURS = 24
SETTLE_SECONDS = 3.0
"""How long after a C-MOVE ended its last instances may still be on their way (field note 11)."""


def move_study(run: BackupRun, plan: StudyPlan) -> str:
    """Pull what the plan wants; returns what the source said of it when not all came, else an empty text.

    Only what has not arrived is asked for again. As long as an attempt brings something the next follows at
    once, whatever error ended it; an attempt that brings nothing ends the matter: a transient error is raised
    for the task to try later, anything else is for the verification to judge. A destination the source does
    not know stays unknown for the rest of the run. Raises `RunStopped` when the run has to end.
    """
    uid = plan.study_instance_uid
    if run.hopeless is not None:
        raise run.hopeless
    run.spool.may_pull()
    if not plan.listable:
        return _attempt(run, plan, None)
    missing = _missing(run, plan)
    said = ""
    while missing and not run.stopping.is_set():
        run.ledger.count_attempt(run.run_id, uid)
        began = time.time()
        error: PeerError | None = None
        try:
            said = _attempt(run, plan, missing)
        except MoveDestinationUnknown as raised:
            run.hopeless = raised
            raise
        except PeerError as raised:
            error, said = raised, str(raised)
        checkpoint("move.moved")
        left = missing & _settle(run, plan, missing)
        if left == missing:
            if refused := _refused_meanwhile(run, began):
                return f"{said.rstrip('.')}; {refused}" if said else refused
            if error is not None:
                raise error
            break
        missing = left
    return said if missing else ""


def _refused_meanwhile(run: BackupRun, since: float) -> str:
    """Whom of the source's our DICOM server turned away while it was to send: then nothing can come, and trying
    again changes nothing. Many archives send with another AE title than the one they answer to.
    """
    if run.by_get:
        return ""
    for refusal in unknown_callers_since(run.settings, since, run.remote.host):
        return (
            f"our DICOM server refused {refusal.calling_aet} at {refusal.address} meanwhile: "
            f"{refusal.sentence.rstrip('.')}"
        )
    return ""


def _attempt(run: BackupRun, plan: StudyPlan, uids: Collection[str] | None) -> str:
    """One C-MOVE or C-GET of these instances (None: of the study, unlisted); returns the source's complaint."""
    run.spool.expect(
        Expectation(
            study_instance_uid=plan.study_instance_uid,
            run=run.run_id,
            unit=run.request.unit,
            expires=datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=EXPECTATION_HOURS),
        )
    )
    checkpoint("move.expected")
    instances = [i for i in plan.source if uids is None or i.sop_instance_uid in uids]
    outcome: MoveOutcome | GetOutcome
    with run.gate:
        if run.by_get:
            outcome = get(
                run.remote,
                run.node,
                plan.study_instance_uid,
                instances,
                run.spool,
                whole=plan.source,
                study_attributes=plan.attributes,
            )
        else:
            outcome = move(
                run.remote,
                run.node,
                plan.study_instance_uid,
                instances,
                run.settings.scp_aet,
                whole=plan.source,
                is_alive=_signs_of_life(run, plan),
            )
    return outcome.sentence


def _signs_of_life(run: BackupRun, plan: StudyPlan) -> Callable[[], bool]:
    signs = SignsOfLife(run.spool, run.remote, lambda: len(_missing(run, plan)))

    def sends() -> bool:
        if run.stopping.is_set():
            raise RunStopped
        return signs()

    return sends


def _missing(run: BackupRun, plan: StudyPlan) -> set[str]:
    """What the plan wants and neither the spool nor the catalog has received."""
    wanted = {instance.sop_instance_uid for instance in plan.wanted}
    waiting = run.spool.pending(wanted)  # before the catalog: the indexer goes the same way
    return wanted - waiting - arrived_instances(run, plan)


def received_now(run: BackupRun, study_instance_uid: str) -> set[str]:
    """SOP Instance UIDs of the study that this attempt of the run received."""
    receipts = run.catalog.receipts_of(run.run_id, study_instance_uid)
    counted = Counter(row.sop_instance_uid for row in receipts)
    return set(counted - run.received_before.get(study_instance_uid, Counter()))


def arrived_instances(run: BackupRun, plan: StudyPlan) -> set[str]:
    """SOP Instance UIDs of the study that need not be asked for again: what this attempt of the run received.

    For a plan of missing ones also those that came by another way, as a held instance is no less held. A copy
    known to be gone or damaged is not held.
    """
    uid = plan.study_instance_uid
    received = received_now(run, uid)
    if plan.whole:
        return received
    held = run.catalog.instances_of(uid, run.request.unit)
    return received | {sop for sop, copies in held.items() if any(copy.status == "ok" for copy in copies)}


def _settle(run: BackupRun, plan: StudyPlan, before: Collection[str]) -> set[str]:
    """What is still missing once nothing more comes: some sources say "done" before the last store is answered."""
    deadline = time.monotonic() + SETTLE_SECONDS
    left = _missing(run, plan)
    while left and time.monotonic() < deadline:
        time.sleep(0.1)
        now = _missing(run, plan)
        if len(now) < len(left):
            deadline = time.monotonic() + SETTLE_SECONDS
        left = now
    return left


def index_study(run: BackupRun, plan: StudyPlan) -> None:
    """Wait until all that arrived of the study is placed, verified and catalogued; help where no indexer does.

    Of a study that nobody could list, whatever waits in the spool may be a part.
    """
    sops = {instance.sop_instance_uid for instance in plan.wanted}
    if not plan.listable:
        for folder in run.spool.folders():
            with contextlib.suppress(SpoolUnusable):  # one folder that cannot be read; `check` names it
                sops |= {file.sop_instance_uid for file in run.spool.received(folder)}
    help_indexing(run.settings, sops, indexer=run.indexer)
    checkpoint("index.indexed")
