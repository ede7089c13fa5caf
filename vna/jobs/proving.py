"""verify: ask the source again, compare, and only then say `complete`."""

from vna.checkpoints import checkpoint
from vna.dimse import find_instances
from vna.errors import StudyIncomplete
from vna.jobs.moving import arrived_instances
from vna.jobs.planning import StudyPlan, proven_instances
from vna.jobs.run import BackupRun
from vna.verification import verify_study


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
    proven = proven_instances(run, uid)
    wanted = {instance.sop_instance_uid for instance in plan.wanted}
    reasons = {entry.sop_instance_uid: f"set aside: {entry.reason}" for entry in run.spool.aside()}
    try:
        verified = verify_study(
            uid,
            source,
            proven,
            must_arrive=wanted if plan.whole else (),
            arrived=arrived_instances(run, plan) if plan.whole else (),
            known_reasons={sop: reasons.get(sop, said) for sop in wanted if reasons.get(sop, said)},
        )
    except StudyIncomplete as error:
        run.ledger.mark(run.run_id, uid, state="incomplete", last_error=str(error))
        return True
    run.ledger.remember(run.remote.name, uid, plan.fingerprint, pulled_whole=plan.whole or not plan.held)
    checkpoint("verify.remembered")
    run.ledger.mark(
        run.run_id,
        uid,
        state="complete",
        last_error="",
        expected=verified.instances,
        **({"note": note} if (note := _note(run, plan, verified.gone_at_source)) else {}),
    )
    run.spool.forget(uid, run.run_id)
    run.ledger.release(run.run_id, run.remote.name, [uid])
    checkpoint("verify.complete")
    return True


def _note(run: BackupRun, plan: StudyPlan, gone: int) -> str:
    uid = plan.study_instance_uid
    parts: list[str] = []
    if plan.whole:
        new = sum(1 for row in run.catalog.receipts_of(run.run_id, uid) if row.is_new_version)
        if new:
            parts.append(f"{new} instances changed at the source, both versions kept")
    if gone:
        parts.append(f"{gone} instances are held that the source lists no more")
    return f"study {uid}: {'; '.join(parts)}." if parts else ""
