"""Whether an attribute matches a query key (PS3.4 C.2.2.2), and the forms of values that the database is asked by.

Names are compared without regard to case and to empty trailing components, group by group (PS3.4 C.2.2.2.1). Dates
and times are separate keys (field note 2). A time that is given to the minute stands for the whole minute, so that
two ranges whose borders meet leave no fraction of a second out (field note 3).
"""

import re
import unicodedata
from collections.abc import Callable, Mapping
from functools import lru_cache

Matcher = Callable[[str], bool]

EMPTY = '""'
"""Empty value matching (PS3.4 C.2.2.2.4)."""
LONGEST = 200
"""Characters of a value that the database is searched by: PostgreSQL's indexes take no more than 2.7 KB."""

_WILDCARD_VRS = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
_NUMBER_VRS = frozenset({"DS", "IS", "US", "SS", "UL", "SL"})
_SEVERAL_VALUES = frozenset({"ModalitiesInStudy", "SOPClassesInStudy"})
"""Attributes that match when one of their values does; all others that are kept have one."""
_DIGITS = re.compile(r"[^0-9]+")
_DATE_DIGITS, _TIME_DIGITS = 8, 12


@lru_cache(maxsize=256)
def vr_of(keyword: str) -> str:
    """The value representation of a keyword."""
    from pydicom.datadict import dictionary_VR  # whoever only writes the catalog needs no dictionary

    return dictionary_VR(keyword)


# -- forms of values


def search_key(text: str) -> str:
    """A text as the database is searched by: without padding, the beginning of what is too long."""
    return text.strip(" ")[:LONGEST]


def plain_name(text: str) -> str:
    """A person name in the form that names are compared in: its groups, folded, without empty ends."""
    folded = unicodedata.normalize("NFC", text.casefold())
    groups = ["^".join(part.strip(" ") for part in group.split("^")) for group in folded.split("=")]
    return "=".join(group.rstrip("^") for group in groups).rstrip("=")


def name_key(text: str) -> str:
    """The same as the database is searched by."""
    return plain_name(text)[:LONGEST]


def first_group(text: str) -> str:
    """Of the same, the first group: the alphabetic one (PS3.5 6.2.1)."""
    return plain_name(text).partition("=")[0][:LONGEST]


def further_groups(text: str) -> str:
    """Of the same, the others, each after its `=`; empty for most names."""
    _, dash, further = plain_name(text).partition("=")
    return f"{dash}{further}"[:LONGEST]


def date_key(text: str) -> str:
    """YYYYMMDD, also of the old form with dots; empty where there is no date."""
    return _padded(text, _DATE_DIGITS, "0")


def time_key(text: str) -> str:
    """HHMMSSffffff, also of the old form with colons; empty where there is no time."""
    return _padded(text, _TIME_DIGITS, "0")


SEARCHED: Mapping[str, Mapping[str, tuple[str, Callable[[str], str]]]] = {
    "study": {
        "patient_id": ("PatientID", search_key),
        "patient_name": ("PatientName", first_group),
        "further_names": ("PatientName", further_groups),
        "patient_birth_date": ("PatientBirthDate", date_key),
        "study_date": ("StudyDate", date_key),
        "study_time": ("StudyTime", time_key),
        "accession_number": ("AccessionNumber", search_key),
        "referring_physician_name": ("ReferringPhysicianName", name_key),
    },
    "series": {"modality": ("Modality", search_key)},
}


def search_columns(table: str, attributes: Mapping[str, str]) -> dict[str, str]:
    """The columns of `study` or `series` that queries are narrowed by, made of its attributes."""
    return {column: form(attributes.get(keyword, "")) for column, (keyword, form) in SEARCHED[table].items()}


def _padded(text: str, digits: int, padding: str) -> str:
    found = _DIGITS.sub("", text)[:digits]
    return found.ljust(digits, padding) if found else ""


# -- what a key stands for


def alternatives(vr: str, key: str) -> tuple[str, ...]:
    """The values of a key, each in the form that is compared; none where everything matches.

    Wildcards are left in; a lone `*` is universal matching for every kind of value. A name whose last components
    are empty or `*`, one of them `*`, stands for the name without them and with any.
    """
    if not key.strip("* ^=" if vr == "PN" else "* "):
        return ()
    values = [value.strip(" ") for value in key.split("\\") if value.strip(" ")]
    if vr != "PN":
        return tuple(values)
    names: list[str] = []
    for value in values:
        name = EMPTY if value == EMPTY else plain_name(value)
        shorter = re.sub(r"(\^\**)+$", "", name)
        names += [shorter, f"{shorter}^*"] if shorter != name and "=" not in name else [name]
    return tuple(names)


def plain_key(keyword: str, key: str) -> str:
    """A key without what says nothing: empty where everything matches, UIDs each without their padding."""
    vr = vr_of(keyword)
    if not alternatives(vr, key):
        return ""
    if vr != "UI":
        return key
    return "\\".join(uid for one in key.split("\\") if (uid := one.strip(" \0")))


def has_wildcards(vr: str, value: str) -> bool:
    return vr in _WILDCARD_VRS and ("*" in value or "?" in value)


def interval(vr: str, value: str) -> tuple[str, str] | None:
    """First and last moment of a date or time key, either empty where the range is open; None: it is none."""
    digits = _DATE_DIGITS if vr == "DA" else _TIME_DIGITS
    first, dash, last = value.partition("-")
    if not dash:
        last = first
    low, high = _padded(first, digits, "0"), _padded(last, digits, "9")
    if (first.strip(" ") and not low) or (last.strip(" ") and not high) or not (dash or low):
        return None
    return low, high


# -- matching


def matcher(keyword: str, key: str) -> Matcher | None:
    """What tells whether an attribute's text matches a key; None where everything does (universal matching)."""
    vr = vr_of(keyword)
    values = alternatives(vr, key)
    if not values:
        return None
    singles = [_single(vr, value) for value in values]
    if keyword in _SEVERAL_VALUES:
        return lambda text: any(single(one) for one in text.split("\\") for single in singles)
    if len(singles) == 1:
        return singles[0]
    return lambda text: any(single(text) for single in singles)


def _single(vr: str, value: str) -> Matcher:
    if value == EMPTY:
        return lambda text: not text.strip(" ")
    if vr == "UI":
        return lambda text: text == value
    if vr in {"DA", "TM"}:
        return _range(vr, value)
    if vr == "PN":
        return _name(value)
    if vr in _NUMBER_VRS:
        return lambda text: _number(text) == _number(value)
    if has_wildcards(vr, value):
        matches = _wildcard(value)
        return lambda text: matches(text.strip(" "))
    return lambda text: text.strip(" ") == value


@lru_cache(maxsize=256)
def _wildcard(value: str) -> Matcher:
    """Piece after piece, each where it is found first: a regular expression of many stars could take for ever."""
    pieces = [
        re.compile("".join("." if c == "?" else re.escape(c) for c in piece), re.DOTALL)
        for piece in value.split("*")
    ]
    first, *middle, last = pieces if len(pieces) > 1 else (pieces[0], pieces[0])
    last_length = len(value.rsplit("*", 1)[-1])
    if len(pieces) == 1:
        return lambda text: first.fullmatch(text) is not None

    def matches(text: str) -> bool:
        found = first.match(text)
        for piece in middle:
            if found is None:
                return False
            found = piece.search(text, found.end())
        start = len(text) - last_length
        return found is not None and start >= found.end() and last.fullmatch(text, start) is not None

    return matches


def _name(value: str) -> Matcher:
    """One group matches any group of a name; several match each its own, an empty one any."""
    wanted = [_wildcard(group) if group.strip("*") else None for group in value.split("=")]
    if len(wanted) == 1:
        matches_group = _wildcard(value)
        return lambda text: any(matches_group(group) for group in plain_name(text).split("="))

    def matches(text: str) -> bool:
        groups = plain_name(text).split("=")
        groups += [""] * (len(wanted) - len(groups))
        return all(
            matches_one is None or matches_one(group)
            for matches_one, group in zip(wanted, groups, strict=False)
        )

    return matches


def _range(vr: str, value: str) -> Matcher:
    moments = interval(vr, value)
    if moments is None:
        return lambda text: False
    low, high = moments
    key = date_key if vr == "DA" else time_key

    def matches(text: str) -> bool:
        moment = key(text)
        return bool(moment) and low <= moment and (not high or moment <= high)

    return matches


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text.strip(" ")
