"""The instances of a retrieve and the proof for a storage commitment: which files stand for an instance.

An instance's current version is the one that was told last (`instance.told_by`); only good copies of it count.
Everything is read in short transactions, a page at a time: what is done with a page may take as long as a network.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from sqlalchemy import and_, func, select
from sqlalchemy.engine import Engine

from vna.catalog.lists import is_one_of
from vna.catalog.matching import search_key
from vna.catalog.recording import table_of
from vna.catalog.tables import Copy, Instance, Series, Study, Version
from vna.dimse import HeldFile, HeldInstance, Query
from vna.errors import CopyUnreadable, UnitUnavailable
from vna.site import UnitDefinition
from vna.storage import LocalUnit

_STUDY, _SERIES, _INSTANCE = table_of(Study), table_of(Series), table_of(Instance)
_VERSION, _COPY = table_of(Version), table_of(Copy)
_PAGE = 500
_DRAWN = 2000
_UNIQUE = (
    ("STUDY", "StudyInstanceUID", "study_instance_uid"),
    ("SERIES", "SeriesInstanceUID", "series_instance_uid"),
    ("IMAGE", "SOPInstanceUID", "sop_instance_uid"),
)
LEVELS = ("PATIENT", "STUDY", "SERIES", "IMAGE")

Asked = Mapping[str, Sequence[str]]
"""Column to the values a retrieve names of it."""


def asked_for(query: Query) -> Asked:
    """The unique keys of a retrieve, down to its level (PS3.4 C.4.2.1.4.1); the others say nothing."""
    depth = LEVELS.index(query.level)
    asked: dict[str, list[str]] = {}
    if query.patient_root and query.keys.get("PatientID"):
        asked["patient_id"] = [search_key(query.keys["PatientID"])]
    for level, keyword, column in _UNIQUE:
        values = [uid for one in query.keys.get(keyword, "").split("\\") if (uid := one.strip(" \0"))]
        if values and LEVELS.index(level) <= depth:
            asked[column] = values
    return asked


def held_instances(
    engine: Engine, asked: Asked, units: Mapping[str, UnitDefinition]
) -> Iterator[HeldInstance]:
    """The current version of each instance, study by study and series by series, with its good copies.

    `units`: the storage units by name; of those that are not mounted now no copy is given. Nothing asked for gives
    nothing. Raises `CatalogUnavailable`.
    """
    for study in _studies(engine, asked):
        for rows in _pages_of(engine, asked, study):
            roots = mounted(units)
            for _, copies in groupby(rows, key=lambda row: row[2]):
                yield _held(list(copies), roots)


def count_instances(engine: Engine, asked: Asked) -> int:
    """How many instances there are of these; raises `CatalogUnavailable`."""
    if not asked:
        return 0
    statement = select(func.count()).select_from(_INSTANCE).where(*_conditions(engine, asked))
    with engine.connect() as connection:
        return int(connection.execute(statement).scalar_one())


def common_syntaxes(engine: Engine) -> dict[str, list[str]]:
    """SOP Class UID to the transfer syntaxes of its instances, the commonest first; raises `CatalogUnavailable`.

    From some thousand versions: their IDs are digests, so those that come first are as good as drawn by lot.
    """
    drawn = select(_VERSION).order_by(_VERSION.c.version_id).limit(_DRAWN).subquery()
    is_of = and_(
        _INSTANCE.c.study_instance_uid == drawn.c.study_instance_uid,
        _INSTANCE.c.sop_instance_uid == drawn.c.sop_instance_uid,
    )
    count = func.count()
    statement = (
        select(_INSTANCE.c.sop_class_uid, drawn.c.transfer_syntax_uid)
        .join(_INSTANCE, is_of)
        .group_by(_INSTANCE.c.sop_class_uid, drawn.c.transfer_syntax_uid)
        .order_by(count.desc(), drawn.c.transfer_syntax_uid)
    )
    with engine.connect() as connection:
        rows = connection.execute(statement).all()
    common: dict[str, list[str]] = {}
    for sop_class, syntax in rows:
        common.setdefault(sop_class, []).append(syntax)
    return common


def _conditions(engine: Engine, asked: Asked) -> list[Any]:
    conditions: list[Any] = []
    for column, values in asked.items():
        if column == "patient_id":
            of_patient = select(_STUDY.c.study_instance_uid).where(_STUDY.c.patient_id.in_(values))
            conditions.append(_INSTANCE.c.study_instance_uid.in_(of_patient))
        else:
            conditions.append(is_one_of(engine.dialect.name, _INSTANCE.c[column], values))
    return conditions


def _studies(engine: Engine, asked: Asked) -> Iterator[str]:
    """The studies that hold what is asked for, in the order of their UIDs."""
    if not asked:
        return
    dialect = engine.dialect.name
    if asked.keys() <= {"patient_id", "study_instance_uid"}:
        column = _STUDY.c.study_instance_uid
        conditions = [is_one_of(dialect, _STUDY.c[name], values) for name, values in asked.items()]
    elif "series_instance_uid" in asked and asked.keys().isdisjoint({"patient_id", "sop_instance_uid"}):
        column = _SERIES.c.study_instance_uid
        conditions = [is_one_of(dialect, _SERIES.c[name], values) for name, values in asked.items()]
    else:
        column, conditions = _INSTANCE.c.study_instance_uid, _conditions(engine, asked)
    last = ""
    while True:
        statement = select(column).where(column > last, *conditions).distinct().order_by(column).limit(_PAGE)
        with engine.connect() as connection:
            page = connection.execute(statement).scalars().all()
        yield from page
        if len(page) < _PAGE:
            return
        last = page[-1]


def _pages_of(engine: Engine, asked: Asked, study: str) -> Iterator[Sequence[Any]]:
    """The instances of one study, a row for each good copy (one without a copy where there is none)."""
    narrow = [
        is_one_of(engine.dialect.name, _INSTANCE.c[name], asked[name])
        for name in ("series_instance_uid", "sop_instance_uid")
        if name in asked
    ]
    own = [_INSTANCE.c.study_instance_uid == study, *narrow]
    series = select(_INSTANCE.c.series_instance_uid).where(*own).distinct()
    with engine.connect() as connection:
        all_series = sorted(connection.execute(series).scalars())
    for uid in all_series:
        last = ""
        while True:
            of_series = [*own, _INSTANCE.c.series_instance_uid == uid, _INSTANCE.c.sop_instance_uid > last]
            with engine.connect() as connection:
                rows = connection.execute(_with_copies(of_series)).all()
            if rows:
                yield rows
                last = rows[-1][2]
            if len({row[2] for row in rows}) < _PAGE:
                break


def _with_copies(conditions: Sequence[Any]) -> Any:
    page = select(_INSTANCE).where(*conditions).order_by(_INSTANCE.c.sop_instance_uid).limit(_PAGE).subquery()
    is_good = and_(_COPY.c.version_id == page.c.told_by, _COPY.c.status == "ok", _COPY.c.replaced_by == "")
    return (
        select(
            page.c.study_instance_uid,
            page.c.series_instance_uid,
            page.c.sop_instance_uid,
            page.c.sop_class_uid,
            _VERSION.c.transfer_syntax_uid,
            _VERSION.c.dataset_sha256,
            _COPY.c.unit,
            _COPY.c.path,
            _COPY.c.size,
            _COPY.c.header_length,
            _COPY.c.header_sha256,
        )
        .join(_VERSION, _VERSION.c.version_id == page.c.told_by)
        .outerjoin(_COPY, is_good)
        .order_by(page.c.sop_instance_uid, _COPY.c.path)
    )


def _held(rows: Sequence[Any], roots: Mapping[str, Path]) -> HeldInstance:
    study, series, sop, sop_class, syntax, dataset_sha256 = rows[0][:6]
    files = [
        HeldFile(
            path=root / path,
            size=size,
            header_length=header_length,
            header_sha256=header_sha256,
            dataset_sha256=dataset_sha256,
        )
        for name, root in roots.items()
        for unit, path, size, header_length, header_sha256 in (row[6:] for row in rows)
        if unit == name
    ]
    return HeldInstance(
        study_instance_uid=study,
        series_instance_uid=series,
        sop_instance_uid=sop,
        sop_class_uid=sop_class,
        transfer_syntax_uid=syntax,
        files=tuple(files),
    )


def mounted(units: Mapping[str, UnitDefinition]) -> dict[str, Path]:
    """The folders of the units that are there now, in their order."""
    roots: dict[str, Path] = {}
    for name, definition in units.items():
        try:
            LocalUnit(name, definition.path).check()
        except UnitUnavailable:
            continue
        roots[name] = definition.path.absolute()
    return roots


# -- storage commitment


def verified_instances(
    engine: Engine, sop_instance_uids: Collection[str], units: Mapping[str, UnitDefinition]
) -> Mapping[str, str]:
    """SOP Instance UID to SOP Class UID of those whose current version has a copy that was read back and digested
    and whose file is there now, with the size and the time of change it had then. Raises `CatalogUnavailable`.
    """
    opened = {name: LocalUnit(name, definition.path) for name, definition in units.items()}
    ordered = sorted(set(sop_instance_uids))
    verified: dict[str, str] = {}
    for start in range(0, len(ordered), _PAGE):
        statement = (
            select(
                _INSTANCE.c.sop_instance_uid,
                _INSTANCE.c.sop_class_uid,
                *(_COPY.c[name] for name in ("unit", "path", "size", "mtime_ns")),
            )
            .join(_COPY, _COPY.c.version_id == _INSTANCE.c.told_by)
            .where(_INSTANCE.c.sop_instance_uid.in_(ordered[start : start + _PAGE]))
            .where(_COPY.c.status == "ok", _COPY.c.replaced_by == "")
        )
        with engine.connect() as connection:
            rows = connection.execute(statement).all()
        for sop, sop_class, unit, path, size, mtime_ns in rows:
            if sop not in verified and unit in opened and _is_there(opened[unit], path, size, mtime_ns):
                verified[sop] = sop_class
    return verified


def _is_there(unit: LocalUnit, path: str, size: int, mtime_ns: int) -> bool:
    try:
        facts = unit.stat(path)
    except (CopyUnreadable, UnitUnavailable):
        return False  # it may come back; what cannot be looked at now is not vouched for
    return facts is not None and (facts.size, facts.mtime_ns) == (size, mtime_ns)
