"""Which studies can match a query, as SQL: never too few, and as few as the columns and indexes allow.

What a condition lets through is looked at again by `vna.catalog.matching`, so that both kinds of database answer the
same and every rule of matching is written once.
"""

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import String, and_, false, func, not_, or_, select, true

from vna.catalog.lists import is_one_of
from vna.catalog.matching import EMPTY, LONGEST, alternatives, has_wildcards, interval, vr_of
from vna.catalog.recording import table_of
from vna.catalog.tables import Instance, Series, Study

_STUDY, _SERIES, _INSTANCE = table_of(Study), table_of(Series), table_of(Instance)
_COLUMNS: Mapping[str, Any] = {
    "PatientID": _STUDY.c.patient_id,
    "PatientName": _STUDY.c.patient_name,
    "PatientBirthDate": _STUDY.c.patient_birth_date,
    "StudyDate": _STUDY.c.study_date,
    "StudyTime": _STUDY.c.study_time,
    "AccessionNumber": _STUDY.c.accession_number,
    "ReferringPhysicianName": _STUDY.c.referring_physician_name,
}
_LAST_CHARACTER = "\U0010ffff"
_MOST_ALTERNATIVES = 50
_LONGEST_PATTERN, _MOST_STARS = 100, 4


@dataclass(frozen=True, slots=True)
class Candidates:
    """Conditions on `study`, and the column to read them in the order of (None: of Study Instance UIDs)."""

    conditions: tuple[Any, ...]
    order: Any = None


def candidates(
    dialect: str, keys: Mapping[str, str], study_keywords: frozenset[str], *, in_parts: bool = True
) -> list[Candidates]:
    """What narrows a query with these keys, of which those in `study_keywords` belong to the study or patient.

    `in_parts`: may be several, to be read one after the other, without a study that is in two of them.
    """
    conditions = [
        condition
        for keyword in sorted(keys.keys() & study_keywords - {"PatientName"})
        if (condition := _condition(dialect, _column(dialect, keyword), vr_of(keyword), keys[keyword]))
        is not None
    ]
    by_uid = [_uids(dialect, keys, *one) for one in _BY_UID if keys.get(one[0])]
    conditions += by_uid
    first, further = _names(dialect, keys.get("PatientName", "") if "PatientName" in study_keywords else "")
    conditions += _of_series_and_instances(dialect, keys, is_alone=not conditions and first is None)
    order = None if by_uid else _order(keys, study_keywords)
    if first is None:
        return [Candidates(tuple(conditions), order)]
    if not in_parts or order is not _STUDY.c.patient_name:
        return [Candidates((*conditions, or_(first, further)), order)]
    return [
        Candidates((*conditions, first), order),
        Candidates((*conditions, further, not_(first)), _STUDY.c.further_names),
    ]


def _column(dialect: str, keyword: str) -> Any:
    """The column of a keyword, or its text in the attributes made like those: cut, and in the order of code points."""
    column = _COLUMNS.get(keyword)
    if column is not None:
        return column
    kept = func.coalesce(_STUDY.c.attributes[keyword].as_string(), "")
    key = func.substr(func.trim(kept, " "), 1, LONGEST, type_=String())
    return key.collate("C") if dialect == "postgresql" else key


def _names(dialect: str, key: str) -> tuple[Any, Any]:
    """Conditions on the first group of the patient's name, and on the others; None where nothing can be said.

    Few names have others, so that each of the two is found by its own index.
    """
    values = alternatives("PN", key)
    if not values or len(values) > _MOST_ALTERNATIVES:
        return None, None
    first: list[Any] = []
    further: list[Any] = []
    for value in values:
        groups = ["", ""] if value == EMPTY else value.split("=")
        if groups[0].strip("*") or value == EMPTY:
            first.append(_like(dialect, _STUDY.c.patient_name, groups[0]))
        if len(groups) == 1:
            further.append(_like(dialect, _STUDY.c.further_names, f"*={value}*"))
        elif not groups[0].strip("*"):
            wanted = next((group for group in groups if group.strip("*")), "")
            further.append(_like(dialect, _STUDY.c.further_names, f"*={wanted}*"))
    return or_(false(), *first), and_(_STUDY.c.further_names > "", or_(false(), *further))


def _of_series_and_instances(dialect: str, keys: Mapping[str, str], *, is_alone: bool) -> list[Any]:
    """Studies with a series of the modality that is asked for, and with an instance of the SOP class."""
    conditions: list[Any] = []
    modality = _condition(dialect, _SERIES.c.modality, "CS", _modality_key(keys))
    if modality is not None:
        of_modality = select(_SERIES.c.study_instance_uid).where(modality)
        own = _SERIES.c.study_instance_uid == _STUDY.c.study_instance_uid
        conditions.append(
            _STUDY.c.study_instance_uid.in_(of_modality) if is_alone else of_modality.where(own).exists()
        )
    if classes := keys.get("SOPClassesInStudy", ""):
        of_class = select(_INSTANCE.c.study_instance_uid).where(
            _INSTANCE.c.study_instance_uid == _STUDY.c.study_instance_uid,
            is_one_of(dialect, _INSTANCE.c.sop_class_uid, classes.split("\\")),
        )
        conditions.append(of_class.exists())
    return conditions


_BY_UID = (
    ("StudyInstanceUID", None),
    ("SeriesInstanceUID", _SERIES.c.series_instance_uid),
    ("SOPInstanceUID", _INSTANCE.c.sop_instance_uid),
)


def _uids(dialect: str, keys: Mapping[str, str], keyword: str, column: Any) -> Any:
    uids = keys[keyword].split("\\")
    if column is None:
        return is_one_of(dialect, _STUDY.c.study_instance_uid, uids)
    below = select(column.table.c.study_instance_uid).where(is_one_of(dialect, column, uids))
    return _STUDY.c.study_instance_uid.in_(below)


def _modality_key(keys: Mapping[str, str]) -> str:
    return keys.get("ModalitiesInStudy") or keys.get("Modality", "")


# -- one key


def _condition(dialect: str, column: Any, vr: str, key: str) -> Any:
    """What a value must be like to match a key; None where nothing can be said."""
    values = alternatives(vr, key)
    if not values or len(values) > _MOST_ALTERNATIVES or vr in {"IS", "DS", "US"}:
        return None
    return or_(*(_one(dialect, column, vr, value) for value in values))


def _one(dialect: str, column: Any, vr: str, value: str) -> Any:
    if value == EMPTY:
        return column == ""
    if vr in {"DA", "TM"}:
        return _within(column, vr, value)
    if vr != "PN":
        return _like(dialect, column, value)
    groups = value.split("=")
    if len(groups) > 1:
        wanted = next((group for group in groups if group.strip("*")), "")
        return _like(dialect, column, f"*{wanted}*")
    # one group of the key may stand for any group of the name
    return or_(_like(dialect, column, f"{value}*"), _like(dialect, column, f"*={value}*"))


def _within(column: Any, vr: str, value: str) -> Any:
    moments = interval(vr, value)
    if moments is None:
        return false()
    low, high = moments
    return and_(column >= low if low else column != "", *([column <= high] if high else []))


def _like(dialect: str, column: Any, pattern: str) -> Any:
    """A text without wildcards, or one with them; of both the beginning is enough for an index."""
    if not has_wildcards("LO", pattern):
        return column == pattern[:LONGEST]
    literal = pattern.replace("?", "*").split("*")[0][:LONGEST]
    begins = [column >= literal, column < literal + _LAST_CHARACTER] if literal else [true()]
    if pattern == f"{literal}*":
        return and_(*begins)
    if len(pattern) > _LONGEST_PATTERN or pattern.count("*") > _MOST_STARS:
        return and_(*begins)  # too dear to be left to the database
    if dialect == "postgresql":
        escaped = "".join(f"!{c}" if c in "!%_" else {"*": "%", "?": "_"}.get(c, c) for c in pattern)
        matches = column.like(escaped, escape="!")
    else:
        matches = column.op("GLOB", is_comparison=True)(pattern.replace("[", "[[]"))
    return and_(*begins, or_(matches, func.length(column) >= LONGEST))


# -- the order


def _order(keys: Mapping[str, str], study_keywords: frozenset[str]) -> Any:
    """The column whose index leaves the fewest: the one that is probably the most selective."""
    ranks = {
        keyword: rank(keys[keyword])
        for keyword, rank in _RANKS.items()
        if keyword in study_keywords and keys.get(keyword)
    }
    best = min(ranks, key=lambda keyword: ranks[keyword], default="")
    return _COLUMNS[best] if best and ranks[best] < _USELESS else None


_USELESS = 9


def _rank_of_date(key: str) -> int:
    moments = interval("DA", key)
    if moments is None or not all(moments):
        return 6 if moments and any(moments) else _USELESS
    try:
        first, last = (datetime.date(int(m[:4]), int(m[4:6]), int(m[6:])) for m in moments)
    except ValueError:
        return 6
    days = (last - first).days
    return 2 if days <= 7 else 4 if days <= 366 else 6


def _rank_of_text(vr: str, best: int) -> Callable[[str], int]:
    def rank(key: str) -> int:
        values = alternatives(vr, key)
        if not values or EMPTY in values:
            return _USELESS
        shortest = min(len(value.replace("?", "*").split("*")[0]) for value in values)
        return best if shortest >= 3 else best + 2 if shortest else _USELESS

    return rank


_RANKS: Mapping[str, Callable[[str], int]] = {
    "AccessionNumber": _rank_of_text("SH", 0),
    "PatientID": _rank_of_text("LO", 1),
    "PatientBirthDate": _rank_of_date,
    "StudyDate": _rank_of_date,
    "PatientName": _rank_of_text("PN", 3),
}
