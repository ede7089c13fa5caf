"""C-FIND over the catalog (PS3.4 C.4.1.3, hierarchical and relational alike): pages of candidates that the database
finds by its indexes, of which those are answered whose attributes match.

From the top down: the studies that match the keys of their level, of these the series, of these the instances.
Every page is a short transaction; it begins where the last one ended.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from sqlalchemy import select, tuple_
from sqlalchemy.engine import Connection, Engine

from vna.catalog.attributes import INSTANCE_KEYWORDS, SERIES_KEYWORDS, STUDY_KEYWORDS
from vna.catalog.holding import LEVELS
from vna.catalog.lists import is_one_of
from vna.catalog.matching import Matcher, matcher, plain_key
from vna.catalog.narrowing import Candidates, candidates
from vna.catalog.recording import table_of
from vna.catalog.sums import (
    PATIENT_COUNTS,
    STUDY_SUMS,
    Unreachable,
    Values,
    counts_of_patients,
    instances_of_series,
    patient,
    patients_of,
    sums_of_studies,
)
from vna.catalog.tables import Instance, Series, Study, Version
from vna.dimse import Query
from vna.site import UnitDefinition

_STUDY, _SERIES, _INSTANCE, _VERSION = (table_of(model) for model in (Study, Series, Instance, Version))

UNIQUE = {
    "PATIENT": "PatientID",
    "STUDY": "StudyInstanceUID",
    "SERIES": "SeriesInstanceUID",
    "IMAGE": "SOPInstanceUID",
}
_COLUMN_OF = {
    "STUDY": _INSTANCE.c.study_instance_uid,
    "SERIES": _INSTANCE.c.series_instance_uid,
    "IMAGE": _INSTANCE.c.sop_instance_uid,
}
_PATIENT_KEYWORDS = ("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex")
_AVAILABILITY = "InstanceAvailability"
_NOT_MATCHED = frozenset({*PATIENT_COUNTS, *STUDY_SUMS[2:], "NumberOfSeriesRelatedInstances", _AVAILABILITY})
"""Returned only: nobody looks for a number of images."""
_OF_LEVEL: Mapping[str, frozenset[str]] = {
    "PATIENT": frozenset({*_PATIENT_KEYWORDS, *PATIENT_COUNTS}),
    "STUDY": frozenset({"StudyInstanceUID", *STUDY_KEYWORDS, *STUDY_SUMS, _AVAILABILITY}),
    "SERIES": frozenset({"SeriesInstanceUID", *SERIES_KEYWORDS, "NumberOfSeriesRelatedInstances"}),
    "IMAGE": frozenset(
        {
            *("SOPInstanceUID", "SOPClassUID", "AvailableTransferSyntaxUID"),
            *(keyword for keyword in INSTANCE_KEYWORDS if keyword != "SpecificCharacterSet"),
        }
    ),
}
_STUDY_ATTRIBUTES = frozenset({*STUDY_KEYWORDS})


def _supported(level: str) -> frozenset[str]:
    above = LEVELS[: LEVELS.index(level) + 1]
    return frozenset(keyword for one in above for keyword in _OF_LEVEL[one])


SUPPORTED: Mapping[str, frozenset[str]] = MappingProxyType({level: _supported(level) for level in LEVELS})
"""Level to the keywords that are matched and returned there, those of the levels above with them."""

_FIRST_STUDIES, _MOST_STUDIES = (
    {"STUDY": 32, "SERIES": 16, "IMAGE": 8},
    {"STUDY": 512, "SERIES": 64, "IMAGE": 16},
)
_FIRST_INSTANCES, _MOST_INSTANCES = 64, 1000
_FIRST_PATIENTS, _MOST_PATIENTS = 16, 256


def search(
    engine: Engine, query: Query, units: Callable[[], Mapping[str, UnitDefinition]]
) -> Iterator[Mapping[str, str]]:
    """The answers to a query as they are found; raises `CatalogUnavailable`, `CatalogRefused`.

    `units` gives the storage units by name; only Instance Availability asks for them.

    Each has the keys that were asked for and are supported, and the unique keys of its level and above.
    """
    found = _Search(engine, query, units)
    above = LEVELS[0 if query.patient_root else 1 : LEVELS.index(query.level) + 1]
    told = sorted({*(UNIQUE[level] for level in above), *(query.keys.keys() & SUPPORTED[query.level])})
    for values in found.answers():
        yield {keyword: values.get(keyword, "") for keyword in told}


class _Search:
    """One query. `_asked` are its supported keys, of this level and those above."""

    def __init__(
        self, engine: Engine, query: Query, units: Callable[[], Mapping[str, UnitDefinition]]
    ) -> None:
        self._engine, self._dialect, self._level = engine, engine.dialect.name, query.level
        self._asked = {
            keyword: plain_key(keyword, key)
            for keyword, key in query.keys.items()
            if keyword in SUPPORTED[query.level]
        }
        self._units = units

    def answers(self) -> Iterator[Values]:
        if self._level == "PATIENT":
            yield from self._patients()
            return
        for studies in self._studies():
            if self._level == "STUDY":
                yield from studies.values()
                continue
            series = self._series(studies)
            if self._level == "SERIES":
                yield from series.values()
            elif series:
                yield from self._instances(series)

    def _matchers(self, level: str, *without: str) -> list[tuple[str, Matcher]]:
        """The keys of one level that not everything matches."""
        keywords = sorted(self._asked.keys() & _OF_LEVEL[level] - _NOT_MATCHED - {*without})
        found = [(keyword, matcher(keyword, self._asked[keyword])) for keyword in keywords]
        return [(keyword, matches) for keyword, matches in found if matches is not None]

    # -- studies

    def _studies(self) -> Iterator[dict[str, Values]]:
        """The matching studies by UID, page by page."""
        for part in candidates(self._dialect, self._asked, _STUDY_ATTRIBUTES):
            yield from self._studies_of(part)

    def _studies_of(self, part: Candidates) -> Iterator[dict[str, Values]]:
        order = [*([] if part.order is None else [part.order]), _STUDY.c.study_instance_uid]
        statement = (
            select(_STUDY.c.study_instance_uid, _STUDY.c.attributes, *order)
            .where(*part.conditions)
            .order_by(*order)
        )
        own = [*self._matchers("PATIENT"), *self._matchers("STUDY", *STUDY_SUMS)]
        size, last = _FIRST_STUDIES[self._level], None
        while True:
            page = statement if last is None else statement.where(_after(order, last))
            with self._engine.connect() as connection:
                rows = connection.execute(page.limit(size)).all()
                found = {row[0]: {**row[1], "StudyInstanceUID": row[0]} for row in rows}
                found = {uid: values for uid, values in found.items() if _all_match(own, values)}
                found = self._summed_up(connection, found)
            if found:
                yield found
            if len(rows) < size:
                return
            last = tuple(rows[-1][2:])
            size = min(4 * size, _MOST_STUDIES[self._level])

    def _summed_up(self, connection: Connection, found: dict[str, Values]) -> dict[str, Values]:
        """With what lies below each study, where that is asked for."""
        if not found:
            return found
        if not self._asked.keys().isdisjoint(STUDY_SUMS):
            for uid, sums in sums_of_studies(connection, self._dialect, list(found)).items():
                found[uid].update(sums)
            matchers = [one for one in self._matchers("STUDY") if one[0] in STUDY_SUMS]
            found = {uid: values for uid, values in found.items() if _all_match(matchers, values)}
        if not self._asked.keys().isdisjoint(PATIENT_COUNTS):
            counts = counts_of_patients(
                connection, self._dialect, {patient(values)[0] for values in found.values()}
            )
            for values in found.values():
                values.update(counts[patient(values)])
        self._tell_availability(connection, "STUDY", found)
        return found

    def _tell_availability(self, connection: Connection, level: str, found: Mapping[Any, Values]) -> None:
        """ONLINE where every instance below can be retrieved now, else OFFLINE (PS3.3 C.4.23.1.1), at one level."""
        if level != self._level or _AVAILABILITY not in self._asked or not found:
            return
        studies, names = ({values[UNIQUE[each]] for values in found.values()} for each in ("STUDY", level))
        away = Unreachable(self._units()).of(connection, studies, _COLUMN_OF[level], names)
        for values in found.values():
            values[_AVAILABILITY] = "OFFLINE" if values[UNIQUE[level]] in away else "ONLINE"

    # -- series and instances

    def _series(self, studies: Mapping[str, Values]) -> dict[tuple[str, str], Values]:
        """The matching series of some studies, by the UIDs of both; one without any instance is none."""
        own = self._matchers("SERIES")
        found: dict[tuple[str, str], Values] = {}
        with self._engine.connect() as connection:
            counts = instances_of_series(connection, self._dialect, studies)
            rows = connection.execute(
                select(_SERIES.c.study_instance_uid, _SERIES.c.series_instance_uid, _SERIES.c.attributes)
                .where(is_one_of(self._dialect, _SERIES.c.study_instance_uid, studies))
                .order_by(_SERIES.c.study_instance_uid, _SERIES.c.series_instance_uid)
            )
            for study, series, attributes in rows:
                values = {**studies[study], **attributes, "SeriesInstanceUID": series}
                if (study, series) in counts and _all_match(own, values):
                    values["NumberOfSeriesRelatedInstances"] = str(counts[study, series])
                    found[study, series] = values
            self._tell_availability(connection, "SERIES", found)
        return found

    def _instances(self, series: Mapping[tuple[str, str], Values]) -> Iterator[Values]:
        """The matching instances of some series, page by page."""
        own = self._matchers("IMAGE")
        order = [_INSTANCE.c.study_instance_uid, _INSTANCE.c.sop_instance_uid]
        columns = ("series_instance_uid", "sop_class_uid", "attributes")
        statement = (
            select(*order, *(_INSTANCE.c[name] for name in columns), _VERSION.c.transfer_syntax_uid)
            .join(_VERSION, _VERSION.c.version_id == _INSTANCE.c.told_by)
            .where(is_one_of(self._dialect, _INSTANCE.c.study_instance_uid, {study for study, _ in series}))
            .where(is_one_of(self._dialect, _INSTANCE.c.series_instance_uid, {uid for _, uid in series}))
            .order_by(*order)
        )
        if uids := self._asked.get("SOPInstanceUID"):
            statement = statement.where(
                is_one_of(self._dialect, _INSTANCE.c.sop_instance_uid, uids.split("\\"))
            )
        size, last = _FIRST_INSTANCES, None
        while True:
            page = statement if last is None else statement.where(_after(order, last))
            with self._engine.connect() as connection:
                rows = connection.execute(page.limit(size)).all()
                found = {
                    (row[0], row[1]): {
                        **series[row[0], row[2]],
                        **row[4],
                        "SOPInstanceUID": row[1],
                        "SOPClassUID": row[3],
                        "AvailableTransferSyntaxUID": row[5],
                    }
                    for row in rows
                    if (row[0], row[2]) in series
                }
                found = {uids: values for uids, values in found.items() if _all_match(own, values)}
                self._tell_availability(connection, "IMAGE", found)
            yield from found.values()
            if len(rows) < size:
                return
            last = tuple(rows[-1][:2])
            size = min(4 * size, _MOST_INSTANCES)

    # -- patients

    def _patients(self) -> Iterator[Values]:
        """Patients, as `vna.catalog.sums.patient` tells them apart, with the attributes of the study told last."""
        (narrow,) = candidates(self._dialect, self._asked, frozenset(_PATIENT_KEYWORDS), in_parts=False)
        column = _STUDY.c.patient_id
        statement = select(column).where(*narrow.conditions).distinct().order_by(column)
        own = self._matchers("PATIENT")
        with_counts = not self._asked.keys().isdisjoint(PATIENT_COUNTS)
        size, last = _FIRST_PATIENTS, None
        while True:
            page = statement if last is None else statement.where(column > last)
            with self._engine.connect() as connection:
                patient_ids = connection.execute(page.limit(size)).scalars().all()
                found = patients_of(connection, self._dialect, patient_ids)
                if with_counts:
                    counts = counts_of_patients(connection, self._dialect, patient_ids)
                    for whose, values in found.items():
                        values.update(counts[whose])
            yield from (values for values in found.values() if _all_match(own, values))
            if len(patient_ids) < size:
                return
            last = patient_ids[-1]
            size = min(4 * size, _MOST_PATIENTS)


def _after(order: Sequence[Any], last: Sequence[Any]) -> Any:
    if len(order) == 1:
        return order[0] > last[0]
    return tuple_(*order) > tuple_(*last)


def _all_match(matchers: Sequence[tuple[str, Matcher]], values: Mapping[str, str]) -> bool:
    return all(matches(values.get(keyword, "")) for keyword, matches in matchers)
