"""What C-FIND answers (PS3.4 C.4.1): which studies, series or instances match, and their attributes as text.

The faults that change what is matched or told are applied here; how answers are sent is in `querying`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pydicom.datadict import tag_for_keyword

from vna.simulated_pacs.attributes import (
    AVAILABLE_SYNTAX,
    COMPUTED,
    COUNTS,
    LEVELS,
    MODALITIES_IN_STUDY,
    MODALITY,
    PATIENT_ID,
    SERIES_UID,
    SOP_CLASSES_IN_STUDY,
    STORED,
    STUDY_DATE,
    STUDY_UID,
    UNIQUE_KEYS,
    VRS,
    tag_of,
)
from vna.simulated_pacs.faults import Faults
from vna.simulated_pacs.folder import Folder, Stored, Study
from vna.simulated_pacs.matching import Matcher, matcher

_PATIENT_STUDIES, _PATIENT_SERIES, _PATIENT_INSTANCES = (
    tag_of(f"NumberOfPatientRelated{what}") for what in ("Studies", "Series", "Instances")
)
_STUDY_SERIES, _STUDY_INSTANCES = (tag_of(f"NumberOfStudyRelated{what}") for what in ("Series", "Instances"))
_SERIES_INSTANCES = tag_of("NumberOfSeriesRelatedInstances")


class QueryRefused(Exception):
    """The identifier cannot be answered: a DIMSE status and its comment."""

    def __init__(self, status: int, comment: str) -> None:
        self.status, self.comment = status, comment
        super().__init__(comment)


@dataclass(frozen=True, slots=True)
class Query:
    """A request's identifier: its level and its keys as text by tag, in one of the two models."""

    level: str
    keys: Mapping[int, str]
    patient_root: bool

    def uids(self, level: str) -> list[str]:
        """The values of the unique key of a level."""
        text = self.keys.get(UNIQUE_KEYS[level], "")
        return text.split("\\") if text else []


@dataclass(frozen=True, slots=True)
class Answer:
    """One match: its attributes, and the character set of the files they come from."""

    values: Mapping[int, str]
    charset: str


@dataclass(slots=True)
class _Row:
    """One entity at some level with its attributes, and the instances that lie below it."""

    values: dict[int, str]
    charset: str
    below: Sequence[Stored] = field(default_factory=tuple[Stored, ...])


def check_hierarchy(query: Query, faults: Faults, *, retrieve: bool = False) -> None:
    """The hierarchical method wants one unique key for each level above the query's (PS3.4 C.4.1.2.1, C.4.2.2.1).

    Raises `QueryRefused`.
    """
    if query.level not in LEVELS or (query.level == "PATIENT" and not query.patient_root):
        raise QueryRefused(0xA900, "QueryRetrieveLevel is not one of this model")
    above = LEVELS[(0 if query.patient_root else 1) : LEVELS.index(query.level)]
    for level in above:
        values = query.uids(level)
        if len(values) != 1 or (level == "PATIENT" and set(values[0]) & {"*", "?"}):
            raise QueryRefused(0xA900, f"one value is needed of the unique key at {level} level")
    own = query.uids(query.level)
    if retrieve and not own:
        raise QueryRefused(0xA900, f"the unique key is needed at {query.level} level")
    if "one-uid-per-request" in faults and len(own) > 1:
        raise QueryRefused(0xA900, "only one UID at a time")


class Answers:
    """Answers queries over a folder, with the faults in force."""

    def __init__(self, folder: Folder, faults: Faults) -> None:
        self._folder, self._faults = folder, faults
        self._ignored = {tag_for_keyword(keyword) for keyword in faults.values.get("ignore-key", ())}
        if "missing-modalities" in faults:
            self._ignored.add(MODALITIES_IN_STUDY)
        self._dateless: set[str] = set()

    def matches(self, query: Query) -> list[Answer]:
        """All matches in a stable order; raises `QueryRefused`."""
        check_hierarchy(query, self._faults)
        depth = LEVELS.index(query.level)
        known = {tag: _level(tag) for tag in (*query.keys, UNIQUE_KEYS[query.level])}
        asked = [tag for tag, level in known.items() if level is not None and level <= depth]
        matchers = self._matchers(query, asked)
        told = [tag for tag in sorted(asked) if not self._keeps_quiet_about(tag)]
        with self._folder.lock:
            return [
                Answer({tag: self._told(tag, row.values.get(tag, "")) for tag in told}, row.charset)
                for row in self._rows(query)
                if all(matches(row.values.get(tag, "")) for tag, matches in matchers)
            ]

    def wanted(self, query: Query) -> list[Stored]:
        """The instances a retrieve asks for, study by study in order; raises `QueryRefused`."""
        check_hierarchy(query, self._faults, retrieve=True)
        levels = LEVELS[: LEVELS.index(query.level) + 1]
        unique = {UNIQUE_KEYS[level]: frozenset(query.uids(level)) for level in levels if query.uids(level)}
        with self._folder.lock:
            studies = self._folder.studies()
            uids = sorted(studies) if query.level == "PATIENT" else dict.fromkeys(query.uids("STUDY"))
            return [
                stored
                for uid in uids
                if uid in studies
                for stored in studies[uid].in_order()
                if all(stored.values.get(tag, "") in values for tag, values in unique.items())
            ]

    def of_study(self, study_instance_uid: str) -> list[Stored]:
        """All instances of one study in order, none if it is not there."""
        with self._folder.lock:
            study = self._folder.studies().get(study_instance_uid)
            return study.in_order() if study else []

    def _matchers(self, query: Query, asked: Sequence[int]) -> list[tuple[int, Matcher]]:
        found: list[tuple[int, Matcher]] = []
        for tag in asked:
            if tag in self._ignored or tag in COUNTS:
                continue
            matches = self._matcher(tag, query.keys.get(tag, ""))
            if matches is not None:
                found.append((tag, matches))
        return found

    def _matcher(self, tag: int, key: str) -> Matcher | None:
        if tag == MODALITIES_IN_STUDY and key and "single-modality" in self._faults:
            return lambda text: text == key
        return matcher(
            VRS[tag],
            key,
            knows_empty="no-empty-match" not in self._faults,
            case_sensitive_names="case-sensitive-names" in self._faults,
        )

    def _keeps_quiet_about(self, tag: int) -> bool:
        if tag == MODALITIES_IN_STUDY:
            return "missing-modalities" in self._faults
        return tag in COUNTS and "missing-counts" in self._faults

    def _told(self, tag: int, text: str) -> str:
        if tag in COUNTS and "wrong-counts" in self._faults:
            text = str(int(text) * 2 + 1)
        return illegal(tag, text) if "illegal-values" in self._faults else text

    def _rows(self, query: Query) -> Iterator[_Row]:
        studies = self._chosen_studies(query)
        if query.level == "PATIENT":
            yield from self._patients(studies)
            return
        for study in studies:
            if query.level == "STUDY":
                yield self._study(study)
            elif query.level == "SERIES":
                yield from self._series(study)
            else:
                yield from self._images(study)

    def _chosen_studies(self, query: Query) -> list[Study]:
        studies = self._folder.studies()
        if "null-dates" in self._faults:
            self._forget_dates(studies)
        uids = query.uids("STUDY")
        if query.level != "PATIENT" and uids and STUDY_UID not in self._ignored:
            return [studies[uid] for uid in sorted(set(uids)) if uid in studies]
        return [studies[uid] for uid in sorted(studies)]

    def _forget_dates(self, studies: Mapping[str, Study]) -> None:
        """The first N studies by UID that have a date, the same for good; all without N."""
        most = self._faults.number("null-dates", len(studies))
        if len(self._dateless) >= most:
            return
        for uid in sorted(studies.keys() - self._dateless):
            if studies[uid].in_order()[0].values.get(STUDY_DATE) and len(self._dateless) < most:
                self._dateless.add(uid)
                studies[uid].row = None

    def _patients(self, studies: Sequence[Study]) -> Iterator[_Row]:
        by_patient: dict[str, list[_Row]] = {}
        for study in studies:
            row = self._study(study)
            by_patient.setdefault(row.values.get(PATIENT_ID, ""), []).append(row)
        for patient_id in sorted(by_patient):
            rows = by_patient[patient_id]
            values = {tag: text for tag, text in rows[0].values.items() if STORED.get(tag) == 0}
            values[_PATIENT_STUDIES] = str(len(rows))
            values[_PATIENT_SERIES] = str(sum(int(row.values[_STUDY_SERIES]) for row in rows))
            values[_PATIENT_INSTANCES] = str(sum(len(row.below) for row in rows))
            yield _Row(values, rows[0].charset)

    def _study(self, study: Study) -> _Row:
        row = study.row
        if not isinstance(row, _Row):
            row = study.row = self._new_study_row(study)
        return row

    def _new_study_row(self, study: Study) -> _Row:
        below = study.in_order()
        values = {tag: text for tag, text in below[0].values.items() if STORED[tag] <= 1}
        if study.study_instance_uid in self._dateless:
            values[STUDY_DATE] = ""
        values[MODALITIES_IN_STUDY] = _distinct(stored.values.get(MODALITY, "") for stored in below)
        values[SOP_CLASSES_IN_STUDY] = _distinct(stored.sop_class_uid for stored in below)
        values[_STUDY_SERIES] = str(len({stored.values[SERIES_UID] for stored in below}))
        values[_STUDY_INSTANCES] = str(len(below))
        return _Row(values, below[0].charset, below)

    def _series(self, study: Study) -> Iterator[_Row]:
        above = self._study(study)
        series: dict[str, list[Stored]] = {}
        for stored in above.below:
            series.setdefault(stored.values[SERIES_UID], []).append(stored)
        for below in series.values():
            own = {tag: text for tag, text in below[0].values.items() if STORED[tag] == 2}
            count = {_SERIES_INSTANCES: str(len(below))}
            yield _Row({**above.values, **own, **count}, below[0].charset, below)

    def _images(self, study: Study) -> Iterator[_Row]:
        for series in self._series(study):
            for stored in series.below:
                own = {tag: text for tag, text in stored.values.items() if STORED[tag] == 3}
                own[AVAILABLE_SYNTAX] = stored.transfer_syntax_uid
                yield _Row({**series.values, **own}, stored.charset)


def _level(tag: int) -> int | None:
    return STORED.get(tag, COMPUTED.get(tag))


def _distinct(texts: Iterable[str]) -> str:
    return "\\".join(sorted(set(filter(None, texts))))


def illegal(tag: int, text: str) -> str:
    """A value as careless systems answer it: too long, in an old form, or not what its VR allows (field note 9).

    UIDs, patient IDs and modalities stay as they are, so that the study can still be asked for.
    """
    vr = VRS[tag]
    if tag in UNIQUE_KEYS.values() or tag in {MODALITY, MODALITIES_IN_STUDY} or vr == "UI":
        return text
    if vr in {"LO", "SH"}:
        return text + " over-long" * 20
    if vr == "PN":
        return text + "^" * 6 + "over-long" * 10
    if vr == "DA" and text:
        return f"{text[:4]}.{text[4:6]}.{text[6:]}"
    if vr == "TM" and text:
        return f"{text[:2]}:{text[2:4]}:{text[4:]}"
    if vr == "CS":
        return f"not one of the codes, {text.lower()}"
    return f"{text} or so" if vr in {"IS", "DS"} else text
