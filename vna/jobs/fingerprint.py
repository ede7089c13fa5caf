"""Whether a source describes a study differently from before, or from what we hold.

C-FIND has no digest, so a changed content shows only where an answered attribute changed. Answers that sum
up the instances (counts, modalities, SOP classes in study) change when a study merely grows and take no part.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vna.identity import FoundInstance, FoundStudy

_SUMS = frozenset(
    {
        "SpecificCharacterSet",
        "QueryRetrieveLevel",
        "RetrieveAETitle",
        "InstanceAvailability",
        "StorageMediaFileSetID",
        "StorageMediaFileSetUID",
        "TimezoneOffsetFromUTC",
        "ModalitiesInStudy",
        "SOPClassesInStudy",
        "NumberOfStudyRelatedSeries",
        "NumberOfStudyRelatedInstances",
        "NumberOfSeriesRelatedInstances",
        "NumberOfPatientRelatedStudies",
        "NumberOfPatientRelatedSeries",
        "NumberOfPatientRelatedInstances",
    }
)


def fingerprint(study: FoundStudy, instances: Sequence[FoundInstance]) -> dict[str, Any]:
    """The source's answers in a form to be kept and compared: one digest of the study, one of each series."""
    by_series: dict[str, list[FoundInstance]] = defaultdict(list)
    for instance in instances:
        by_series[instance.series_instance_uid].append(instance)
    return {
        "study": _digest(_lines(study.attributes)),
        "series": {
            uid: {
                "instances": _digest(sorted(i.sop_instance_uid for i in members)),
                "answers": _digest(
                    line
                    for i in sorted(members, key=lambda member: member.sop_instance_uid)
                    for line in (i.sop_instance_uid, *_lines(i.attributes))
                ),
            }
            for uid, members in by_series.items()
        },
    }


def describes_a_change(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether anything that was answered before is answered differently now; growth alone is no change."""
    if before.get("study") != now.get("study"):
        return True
    series_before: Mapping[str, Mapping[str, str]] = before.get("series", {})
    return any(
        uid in series_before
        and series_before[uid]["instances"] == answer["instances"]
        and series_before[uid]["answers"] != answer["answers"]
        for uid, answer in now["series"].items()
    )


def differs_from_ours(study: FoundStudy, ours: Mapping[str, str]) -> tuple[str, ...]:
    """The keywords whose answered value is not the one we hold; empty answers say nothing."""
    return tuple(
        keyword
        for keyword, text in sorted(study.attributes.items())
        if keyword not in _SUMS and keyword in ours and text.strip(" \0")
        if _plain(text) != _plain(ours[keyword])
    )


def _plain(text: str) -> str:
    """A value without what servers add or drop: padding, empty name components, fractions of zero."""
    return "\\".join(part.strip(" \0").rstrip("^= ") for part in text.split("\\")).removesuffix(".000000")


def _lines(attributes: Mapping[str, str]) -> list[str]:
    return [f"{key}={_plain(text)}" for key, text in sorted(attributes.items()) if key not in _SUMS]


def _digest(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()[:32]
