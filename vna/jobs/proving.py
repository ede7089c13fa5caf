"""verify: ask the source again, compare, and only then say `complete`."""

from collections.abc import Collection

from vna.checkpoints import checkpoint
from vna.dimse import find_instances
from vna.errors import SourceCannotList, StudyIncomplete
from vna.identity import FoundInstance
from vna.jobs.moving import arrived_instances, received_now
from vna.jobs.planning import StudyPlan, proven_instances
from vna.jobs.run import BackupRun
from vna.verification import VerifiedStudy, verify_study


def prove_study(run: BackupRun, plan: StudyPlan, said: str = "") -> bool:
    """Write the study's outcome to the ledger; returns False if it grew meanwhile and must be planned again.

    `said` is what the source answered when it did not send everything; it explains a missing instance.
    """
    uid = plan.study_instance_uid
    if not plan.listable:
        run.ledger.mark(run.run_id, uid, state="incomplete", last_error=plan.reason)
        return True
    run.ledger.mark(run.run_id, uid, state="verifying")
    source = plan.source
    if not plan.nothing_to_move:
        with run.gate:
            source = tuple(find_instances(run.remote, run.node, uid))
        if {i.sop_instance_uid for i in source} - {i.sop_instance_uid for i in plan.source}:
            return False
    checkpoint("verify.listed")
    arrived = arrived_instances(run, plan) if plan.whole else set[str]()
    if unlisted := received_now(run, uid) - {i.sop_instance_uid for i in source}:
        reason = f"it sent {len(unlisted)} instances that its list of {len(source)} lacks"
        unproven = SourceCannotList(uid, run.remote.name, reason)
        run.ledger.mark(run.run_id, uid, state="incomplete", last_error=str(unproven))
        return True
    new = sum(1 for row in run.catalog.receipts_of(run.run_id, uid) if row.is_new_version)
    try:
        verified = _compare(run, plan, source, arrived, said)
    except StudyIncomplete as error:
        if plan.held_uids <= arrived:
            _remember(run, plan)
        run.ledger.mark(run.run_id, uid, state="incomplete", last_error=str(error), changed=new > 0)
        return True
    _remember(run, plan)
    checkpoint("verify.remembered")
    note = _note(plan, new, verified.gone_at_source)
    run.ledger.mark(
        run.run_id,
        uid,
        state="complete",
        last_error="",
        expected=verified.instances,
        changed=new > 0,
        **({"note": note} if note else {}),
    )
    for expectation in run.spool.expectations(uid):
        if expectation.run == run.run_id or run.ledger.is_over(expectation.run):
            run.spool.forget(uid, expectation.run)
    run.ledger.release(run.run_id, run.remote.name, [uid])
    checkpoint("verify.complete")
    return True


def _compare(
    run: BackupRun,
    plan: StudyPlan,
    source: Collection[FoundInstance],
    arrived: Collection[str],
    said: str,
) -> VerifiedStudy:
    """Raises `StudyIncomplete`, with what is known of why."""
    wanted = {instance.sop_instance_uid for instance in plan.wanted}
    reasons = dict.fromkeys(wanted, said) if said else {}
    proven = proven_instances(run, plan.study_instance_uid)
    missing = wanted - set(proven) | (wanted - set(arrived) if plan.whole else set[str]())
    if missing:  # thousands may lie aside, so they are looked at only where one is missing
        aside = {entry.sop_instance_uid: f"set aside: {entry.reason}" for entry in run.spool.aside()}
        elsewhere = run.catalog.found_elsewhere(plan.study_instance_uid, missing)
        reasons |= {uid: f"they are held as part of study {study}" for uid, study in elsewhere.items()}
        reasons |= {uid: aside[uid] for uid in missing & set(aside)}
    return verify_study(
        plan.study_instance_uid,
        tuple(source),
        proven,
        must_arrive=wanted if plan.whole else (),
        arrived=arrived,
        known_reasons=reasons,
    )


def _remember(run: BackupRun, plan: StudyPlan) -> None:
    """Keep the source's answers, to know a change by them: only once all that changed has come."""
    run.ledger.remember(run.remote.name, plan.study_instance_uid, plan.fingerprint, pulled_whole=plan.whole)


def _note(plan: StudyPlan, new: int, gone: int) -> str:
    parts = list(plan.doubts)
    if new:
        parts.append(f"{new} instances changed at the source, both versions kept")
    if gone:
        parts.append(f"{gone} instances are held that the source lists no more")
    return f"study {plan.study_instance_uid}: {'; '.join(parts)}." if parts else ""
