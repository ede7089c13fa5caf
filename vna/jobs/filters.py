"""Which studies are wanted: a filter is a DICOM keyword or tag and a value with the standard's matching rules.

Filters go to the source as query keys where its level knows them, and are applied again on our side,
because servers ignore keys they do not support (field note 5). What the source did not return is unknown,
not unequal.
"""

import datetime
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword

from vna.errors import FilterInvalid
from vna.identity import is_valid_uid

STUDY_KEYWORDS = frozenset(
    {
        "StudyInstanceUID",
        "StudyDate",
        "StudyTime",
        "StudyID",
        "StudyDescription",
        "AccessionNumber",
        "ReferringPhysicianName",
        "PatientID",
        "PatientName",
        "PatientBirthDate",
        "PatientSex",
        "IssuerOfPatientID",
        "ModalitiesInStudy",
    }
)
"""Keys a source can be asked at study level (PS3.4 table C.6-5, with the patient's attributes)."""

REQUIRED_KEYWORDS = frozenset(
    {"StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "PatientID", "PatientName"}
)
"""Those every source must answer: empty is an answer. An optional key it does not support comes empty too."""

_TAG = re.compile(r"\(?([0-9A-Fa-f]{4}),?([0-9A-Fa-f]{4})\)?\Z")
_DATE = re.compile(r"\d{8}\Z")
_TIME = re.compile(r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?\Z")
_WILDCARD_VRS = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})


class Match(Enum):
    """What is known about a study and a filter."""

    yes = "yes"
    no = "no"
    unknown = "unknown"


@dataclass(frozen=True, slots=True)
class Filter:
    """One condition on one attribute; `keyword` is a dictionary keyword, or eight hex digits of a tag without one."""

    keyword: str
    value: str
    vr: str

    @property
    def at_study_level(self) -> bool:
        return self.keyword in STUDY_KEYWORDS

    def matches(self, text: str) -> bool:
        """Whether an attribute's text fulfils the condition (PS3.4 C.2.2.2); one of several values is enough."""
        values = [part.strip(" \0") for part in text.split("\\")]
        wanted = (
            [part.strip() for part in self.value.split("\\")] if self.vr in {"UI", "CS"} else [self.value]
        )
        return any(self._matches_one(want, value) for want in wanted for value in values)

    def _matches_one(self, want: str, value: str) -> bool:
        if self.vr in {"DA", "TM", "DT"}:
            return _in_range(self.vr, want, value)
        if self.vr == "PN":
            return _matches_name(want, value)
        if self.vr in _WILDCARD_VRS and ("*" in want or "?" in want):
            return _wildcard(want, value)
        if self.vr in {"IS", "DS", "US", "SS", "UL", "SL", "FL", "FD"}:
            return _same_number(want, value)
        return want == value


def parse_filter(text: str) -> Filter:
    """A filter from `Keyword=value`, also `0008,0060=CT`; raises `FilterInvalid` with what is wrong."""
    name, sign, value = text.partition("=")
    if not sign:
        raise FilterInvalid(text, "write it as Keyword=value, for example Modality=CT")
    return make_filter(name.strip(), value.strip())


def make_filter(name: str, value: str) -> Filter:
    """A filter on a keyword or tag; raises `FilterInvalid` for an unknown keyword or an impossible value."""
    text = f"{name}={value}"
    tag = tag_for_keyword(name)
    if tag is None and (found := _TAG.match(name)):
        tag = int(found[1] + found[2], 16)
    if tag is None:
        raise FilterInvalid(text, f"{name!r} is neither a DICOM keyword nor a tag like 0008,0060")
    keyword = keyword_for_tag(tag) or f"{tag:08X}"
    if not value:
        raise FilterInvalid(text, "it has no value")
    try:
        vr = dictionary_VR(tag)
    except KeyError:
        vr = "LO"  # private tags are compared as text
    if vr == "SQ" or vr.startswith("O"):
        raise FilterInvalid(text, f"{keyword} is no attribute that can be compared")
    if keyword == "Modality":  # a study is asked by the modalities of its series
        keyword = "ModalitiesInStudy"
    condition = Filter(keyword, value, vr)
    _check_value(text, condition)
    return condition


def _check_value(text: str, condition: Filter) -> None:
    if condition.vr in {"DA", "TM"}:
        first, dash, last = condition.value.partition("-")
        ends = [part.strip() for part in ((first, last) if dash else (first,))]
        if not any(ends):
            raise FilterInvalid(text, "the range has neither a first nor a last value")
        for end in filter(None, ends):
            _check_moment(text, condition.vr, end)
        if dash and all(ends) and ends[0] > ends[1]:
            raise FilterInvalid(text, f"the range ends ({ends[1]}) before it begins ({ends[0]})")
    if condition.vr == "UI":
        for uid in condition.value.split("\\"):
            if not is_valid_uid(uid):
                raise FilterInvalid(text, f"{uid!r} is not a UID")


def _check_moment(text: str, vr: str, moment: str) -> None:
    if vr == "TM":
        if not _TIME.match(moment):
            raise FilterInvalid(text, f"{moment!r} is not a time like 130000")
        return
    try:
        if not _DATE.match(moment):
            raise ValueError(moment)
        datetime.date(int(moment[:4]), int(moment[4:6]), int(moment[6:8]))
    except ValueError:
        raise FilterInvalid(text, f"{moment!r} is not a date like 20240131") from None


def _in_range(vr: str, want: str, value: str) -> bool:
    if not value:
        return False
    if vr == "DA":
        value = value.replace(".", "").replace("-", "")  # ACR-NEMA dates are still answered
    elif vr == "TM":
        value = value.replace(":", "")
    first, dash, last = want.partition("-")
    first, last = first.strip(), last.strip()
    if not dash:
        return value == first or (vr != "DA" and value.startswith(first))
    # a time of less precision covers its whole span: …-1159 includes 115959.999
    return (not first or value >= first) and (not last or value[: len(last)] <= last)


def _matches_name(want: str, value: str) -> bool:
    """Case is ignored, and so are empty trailing components; any component group may match (PS3.5 6.2.1)."""
    pattern = want.rstrip("^ ").casefold()
    groups = [group.rstrip("^ ").casefold() for group in value.split("=")]
    if "*" in pattern or "?" in pattern:
        return any(_wildcard(pattern, group) for group in groups)
    return pattern in groups or pattern == value.rstrip("^ =").casefold()


def _wildcard(want: str, value: str) -> bool:
    pattern = "".join(".*" if c == "*" else "." if c == "?" else re.escape(c) for c in want)
    return re.fullmatch(pattern, value, re.DOTALL) is not None


def _same_number(want: str, value: str) -> bool:
    try:
        return float(want) == float(value)
    except ValueError:
        return want == value


def query_keys(filters: Sequence[Filter]) -> dict[str, str]:
    """The filters a source can be asked at study level, as query keys. Two on one keyword: the first is asked."""
    keys: dict[str, str] = {}
    for condition in filters:
        if condition.at_study_level:
            keys.setdefault(condition.keyword, condition.value)
    return keys


def judge(
    filters: Sequence[Filter], attributes: Mapping[str, str], answered: Collection[str] = REQUIRED_KEYWORDS
) -> tuple[Match, tuple[Filter, ...]]:
    """Whether a study is wanted by what the source answered at study level, and what is still to be asked.

    `answered` = keywords the source is known to tell: an empty value of these is an answer, of any other it is
    not, because servers echo keys they do not know.
    """
    open_questions: list[Filter] = []
    for condition in filters:
        text = attributes.get(condition.keyword, "")
        if not text and condition.keyword not in answered:
            open_questions.append(condition)
        elif not condition.matches(text):
            return Match.no, ()
    return (Match.unknown if open_questions else Match.yes), tuple(open_questions)


def judge_deeper(filters: Iterable[Filter], values: Mapping[str, Sequence[str]]) -> Match:
    """The same with the values found at series and image level, several for one study; one match is enough.

    An empty text among them: a part of the study stayed unknown, and may hold what is sought.
    """
    known = Match.yes
    for condition in filters:
        texts = values.get(condition.keyword, ())
        if any(text and condition.matches(text) for text in texts):
            continue
        if texts and all(texts):
            return Match.no
        known = Match.unknown
    return known
