"""What a query is answered with that lies below the patients, studies and series it found: numbers, modalities, and
whether the images can be had now. Computed when it is asked for, a page of answers at a time.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import and_, case, func, select
from sqlalchemy.engine import Connection

from vna.catalog.holding import mounted
from vna.catalog.lists import is_one_of
from vna.catalog.matching import date_key, first_group, further_groups, search_key
from vna.catalog.recording import table_of
from vna.catalog.tables import Copy, Instance, Series, Study
from vna.site import UnitDefinition

_STUDY, _SERIES, _INSTANCE, _COPY = (table_of(model) for model in (Study, Series, Instance, Copy))

Values = dict[str, str]
"""Keyword to text of one patient, study, series or instance, with those above it."""
Whose = tuple[str, str, str, str, str]
"""What tells patients apart, see `patient`."""

PATIENT_COUNTS = (
    "NumberOfPatientRelatedStudies",
    "NumberOfPatientRelatedSeries",
    "NumberOfPatientRelatedInstances",
)
STUDY_SUMS = (
    "ModalitiesInStudy",
    "SOPClassesInStudy",
    "NumberOfStudyRelatedSeries",
    "NumberOfStudyRelatedInstances",
)


class Unreachable:
    """Which instances have no good copy on a unit that is mounted now."""

    def __init__(self, units: Mapping[str, UnitDefinition]) -> None:
        self._units = sorted(mounted(units))

    def of(
        self, connection: Connection, studies: Collection[str], column: Any, uids: Collection[str]
    ) -> set[str]:
        """Those of the UIDs, in a column of `instance` and in these studies, under which there is one."""
        dialect = connection.dialect.name
        is_good = and_(
            _COPY.c.version_id == _INSTANCE.c.told_by,
            _COPY.c.status == "ok",
            _COPY.c.replaced_by == "",
            _COPY.c.unit.in_(self._units),
        )
        statement = (
            select(column)
            .where(is_one_of(dialect, _INSTANCE.c.study_instance_uid, studies))
            .where(is_one_of(dialect, column, uids))
            .where(~select(_COPY.c.path).where(is_good).exists())
            .distinct()
        )
        return set(connection.execute(statement).scalars())


def sums_of_studies(connection: Connection, dialect: str, uids: Sequence[str]) -> dict[str, Values]:
    """The sums of each study, by its UID."""
    instance = _INSTANCE.c
    rows = connection.execute(
        select(
            instance.study_instance_uid, instance.series_instance_uid, instance.sop_class_uid, func.count()
        )
        .where(is_one_of(dialect, instance.study_instance_uid, uids))
        .group_by(instance.study_instance_uid, instance.series_instance_uid, instance.sop_class_uid)
    )
    series: defaultdict[str, set[str]] = defaultdict(set)
    classes: defaultdict[str, set[str]] = defaultdict(set)
    counts: defaultdict[str, int] = defaultdict(int)
    for study, of_series, sop_class, count in rows:
        series[study].add(of_series)
        classes[study].add(sop_class)
        counts[study] += count
    modalities: defaultdict[str, set[str]] = defaultdict(set)
    told = connection.execute(
        select(_SERIES.c.study_instance_uid, _SERIES.c.series_instance_uid, _SERIES.c.modality).where(
            is_one_of(dialect, _SERIES.c.study_instance_uid, uids)
        )
    )
    for study, of_series, modality in told:
        if of_series in series[study]:
            modalities[study].add(modality)
    return {
        uid: {
            "ModalitiesInStudy": "\\".join(sorted(filter(None, modalities[uid]))),
            "SOPClassesInStudy": "\\".join(sorted(filter(None, classes[uid]))),
            "NumberOfStudyRelatedSeries": str(len(series[uid])),
            "NumberOfStudyRelatedInstances": str(counts[uid]),
        }
        for uid in uids
    }


def instances_of_series(
    connection: Connection, dialect: str, studies: Mapping[str, Values]
) -> dict[tuple[str, str], int]:
    """How many instances each series has, by the UIDs of study and series; one without any is not there."""
    instance = _INSTANCE.c
    rows = connection.execute(
        select(instance.study_instance_uid, instance.series_instance_uid, func.count())
        .where(is_one_of(dialect, instance.study_instance_uid, studies))
        .group_by(instance.study_instance_uid, instance.series_instance_uid)
    )
    return {(study, series): count for study, series, count in rows}


def patient(values: Mapping[str, str]) -> Whose:
    """Who it is: Patient ID, as the database is searched by it, and the ID's issuer; without a Patient ID, also
    name (two forms) and birth date, lest strangers are taken for one.
    """
    patient_id, issuer = search_key(values.get("PatientID", "")), values.get("IssuerOfPatientID", "")
    if patient_id:
        return patient_id, issuer, "", "", ""
    name, born = values.get("PatientName", ""), values.get("PatientBirthDate", "")
    return "", issuer, first_group(name), further_groups(name), date_key(born)


def patients_of(connection: Connection, dialect: str, patient_ids: Sequence[str]) -> dict[Whose, Values]:
    """Patients with the attributes of the study that was told last."""
    rows = connection.execute(
        select(_STUDY.c.attributes, _STUDY.c.told_at, _STUDY.c.told_by)
        .where(is_one_of(dialect, _STUDY.c.patient_id, patient_ids))
        .order_by(_STUDY.c.patient_id)
    )
    newest: dict[Whose, tuple[tuple[str, str], Values]] = {}
    for attributes, *told in rows:
        whose, when = patient(attributes), (told[0], told[1])
        if whose not in newest or when > newest[whose][0]:
            newest[whose] = when, attributes
    return {whose: values for whose, (_, values) in newest.items()}


def counts_of_patients(
    connection: Connection, dialect: str, patient_ids: Sequence[str] | set[str]
) -> dict[Whose, Values]:
    """The numbers of each patient."""
    below = (
        select(
            _INSTANCE.c.study_instance_uid,
            func.count(func.distinct(_INSTANCE.c.series_instance_uid)).label("series"),
            func.count().label("instances"),
        )
        .join(_STUDY, _STUDY.c.study_instance_uid == _INSTANCE.c.study_instance_uid)
        .where(is_one_of(dialect, _STUDY.c.patient_id, patient_ids))
        .group_by(_INSTANCE.c.study_instance_uid)
        .subquery()
    )
    issuer = func.coalesce(_STUDY.c.attributes["IssuerOfPatientID"].as_string(), "")
    of_stranger = (_STUDY.c.patient_name, _STUDY.c.further_names, _STUDY.c.patient_birth_date)
    whose = [
        _STUDY.c.patient_id,
        issuer,
        *(case((_STUDY.c.patient_id == "", column), else_="") for column in of_stranger),
    ]
    rows = connection.execute(
        select(*whose, func.count(), func.sum(below.c.series), func.sum(below.c.instances))
        .join(below, below.c.study_instance_uid == _STUDY.c.study_instance_uid)
        .group_by(*whose)
    )
    return {
        (one, two, three, four, five): dict(zip(PATIENT_COUNTS, map(str, counts), strict=True))
        for one, two, three, four, five, *counts in rows
    }
