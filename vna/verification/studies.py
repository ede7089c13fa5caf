"""The comparison that `Complete` rests on: the source's list of a study against what we hold of it.

Set equality of SOP Instance UIDs, each with a copy that was read back and whose digest was checked; the
source's counts take no part (field note 6).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from vna.errors import StudyIncomplete
from vna.identity import FoundInstance


@dataclass(frozen=True, slots=True)
class VerifiedStudy:
    """A study whose every instance at the source has a proven copy here.

    `gone_at_source` = instances we hold and the source lists no more: kept, and told.
    """

    study_instance_uid: str
    instances: int
    gone_at_source: int = 0


def verify_study(
    study_instance_uid: str,
    source: Sequence[FoundInstance],
    proven: Collection[str],
    *,
    must_arrive: Collection[str] = (),
    arrived: Collection[str] = (),
    known_reasons: Mapping[str, str] | None = None,
) -> VerifiedStudy:
    """Compare; raises `StudyIncomplete` naming how many of how many are missing and why.

    `proven` = SOP Instance UIDs with a checked copy; `must_arrive` = those that had to come again in this run
    (recheck, changed study) although we hold them; `known_reasons` = why single instances are not there.
    """
    listed = {instance.sop_instance_uid for instance in source}
    missing = (listed - set(proven)) | (listed & set(must_arrive)) - set(arrived)
    if missing:
        reasons = known_reasons or {}
        told = sorted({reasons[uid] for uid in missing if uid in reasons})
        raise StudyIncomplete(
            study_instance_uid,
            len(missing),
            len(listed),
            "; ".join(told[:3]) if told else "the source did not send them",
        )
    return VerifiedStudy(study_instance_uid, len(listed), len(set(proven) - listed))
