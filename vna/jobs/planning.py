"""plan: what of a wanted study is missing here, instance by instance."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from vna.checkpoints import checkpoint
from vna.dimse import find_instances
from vna.errors import SourceCannotList
from vna.identity import FoundInstance
from vna.indexing import help_indexing, replay_study
from vna.jobs.fingerprint import describes_a_change, differs_from_ours, fingerprint
from vna.jobs.ledger import LedgerStudy
from vna.jobs.run import BackupRun
from vna.jobs.waiting import wait_until_quiet
from vna.storage import study_folder_of
from vna.verification import recheck_copies


@dataclass(frozen=True, slots=True)
class StudyPlan:
    """What has to come of one study.

    `wanted` = instances to ask for; `whole` = all of them although some are held (changed, or recheck), and then
    `held_uids` names those; `listable` False: the source cannot list instances, so the whole study is asked for
    and stays unproven; `doubts` = what speaks against the list although nothing proves it cut. The instances
    carry no attributes any more: a large study would fill the memory with them.
    """

    study_instance_uid: str
    attributes: Mapping[str, str]
    source: tuple[FoundInstance, ...]
    wanted: tuple[FoundInstance, ...]
    held: int
    whole: bool
    fingerprint: Mapping[str, Any]
    held_uids: frozenset[str] = frozenset()
    doubts: tuple[str, ...] = ()
    listable: bool = True
    reason: str = ""

    @property
    def nothing_to_move(self) -> bool:
        return self.listable and not self.wanted


def plan_study(run: BackupRun, study: LedgerStudy) -> StudyPlan:
    """Ask the source for the study's instances and subtract what we hold, proven.

    What a killed run left in the spool is placed first, and what the unit holds and the catalog does not know
    is told to it, so that nothing is pulled twice; a sender that is still delivering for a killed run is
    waited for.
    """
    uid = study.study_instance_uid
    run.ledger.lease(run.run_id, run.remote.name, uid)
    checkpoint("plan.leased")
    interrupted = run.ledger.interrupted_runs_of(run.remote.name, uid)
    if interrupted:
        wait_until_quiet(run.spool, run.remote)
    if run.begun_before and uid not in run.received_before:
        receipts = run.catalog.receipts_of(run.run_id, uid)
        run.received_before[uid] = Counter(row.sop_instance_uid for row in receipts)
    doubts: list[str] = []
    try:
        with run.gate:
            source = tuple(find_instances(run.remote, run.node, uid, on_doubt=doubts.append))
    except SourceCannotList as error:
        return StudyPlan(
            uid, study.attributes, (), (), 0, whole=True, fingerprint={}, listable=False, reason=str(error)
        )
    sops = {instance.sop_instance_uid for instance in source}
    if run.spool.pending(sops):
        help_indexing(run.settings, sops, indexer=run.indexer)
    replay_study(run.unit, run.catalog, study_folder_of(uid))
    proven = proven_instances(run, uid)
    held = sops & proven
    print_now = fingerprint(study.as_found(), source)
    whole = bool(held) and (study.recheck or run.request.recheck or _has_changed(run, study, print_now))
    source = tuple(replace(instance, attributes={}) for instance in source)
    wanted = source if whole else tuple(i for i in source if i.sop_instance_uid not in proven)
    if not held:  # what comes now is what is described now, also if we are killed before it is proven
        run.ledger.remember(run.remote.name, uid, print_now, pulled_whole=True)
    run.ledger.mark(run.run_id, uid, state="planned", expected=len(sops), held=len(held))
    checkpoint("plan.planned")
    held_uids = frozenset(held) if whole else frozenset[str]()
    return StudyPlan(
        uid, study.attributes, source, wanted, len(held), whole, print_now, held_uids, tuple(doubts)
    )


def proven_instances(run: BackupRun, study_instance_uid: str) -> set[str]:
    """SOP Instance UIDs of the study with a copy in the run's unit that still is what was read back."""
    held = run.catalog.instances_of(study_instance_uid, run.request.unit)
    status = recheck_copies(run.unit, run.catalog, held)
    return {uid for uid, state in status.items() if state == "ok"}


def _has_changed(run: BackupRun, study: LedgerStudy, now: Mapping[str, Any]) -> bool:
    """By what the source said when we last proved the study, else by comparing its answer with our copy.

    The memory comes first: some servers answer other values than they send, and would be pulled for ever.
    """
    before = run.ledger.remembered(run.remote.name, study.study_instance_uid)
    if before:
        return describes_a_change(before, now)
    return bool(differs_from_ours(study.as_found(), run.catalog.study_attributes(study.study_instance_uid)))
