"""The open catalog: recording what was placed, and the questions that backups and verifications ask.

Every method is a short transaction of its own and raises `CatalogUnavailable` when the database does not answer.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import bindparam, func, select, update
from sqlalchemy.engine import Connection, Engine
from sqlmodel import col

from vna.catalog.engine import WRITES, make_engine
from vna.catalog.migrating import is_migrated, migrate
from vna.catalog.recording import record_events, table_of
from vna.catalog.tables import CataloguedManifest, Copy, Receipt, Study, Version
from vna.storage import Event

_COPY, _VERSION, _RECEIPT = table_of(Copy), table_of(Version), table_of(Receipt)
_STUDY, _MANIFEST = table_of(Study), table_of(CataloguedManifest)
_PAGE = 1000
_CHUNK = 500
_LAST_CHARACTER = "\U0010ffff"


@dataclass(frozen=True, slots=True)
class ReceiptRow:
    """An instance a run received; `is_new_version` = another content of it was held before."""

    sop_instance_uid: str
    is_new_version: bool


@dataclass(frozen=True, slots=True)
class HeldCopy:
    """A file of a unit and what it must be: sizes in bytes, `mtime_ns` as it was when its digests were checked."""

    sop_instance_uid: str
    path: str
    version_id: str
    dataset_sha256: str
    header_sha256: str
    size: int
    mtime_ns: int
    status: str


@dataclass(frozen=True, slots=True)
class CopyFacts:
    """What was found of a copy: its status, and the time of its last change where it was digested anew."""

    path: str
    status: str
    mtime_ns: int


class Catalog:
    """One catalog database. May be used by several threads; to be closed."""

    def __init__(self, url: str) -> None:
        """`url`: `sqlite:///FILE` or `postgresql://…`; raises `SettingsError`, connects at the first use."""
        self.engine: Engine = make_engine(url)
        self._writing = self.engine.execution_options(**WRITES)

    def migrate(self) -> None:
        """Bring the tables to this version of the program; several processes may do it at once."""
        migrate(self.engine)

    def is_migrated(self) -> bool:
        """Whether the tables are those of this version; makes nothing."""
        return is_migrated(self.engine)

    def close(self) -> None:
        self.engine.dispose()

    def __enter__(self) -> "Catalog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- recording

    def record(self, unit: str, manifest: str, events: Sequence[Event], damage: str = "") -> None:
        """Merge a manifest's events; doing it again, or in another order, changes nothing."""
        self.record_many(unit, [(manifest, events, damage)])

    def record_many(self, unit: str, manifests: Sequence[tuple[str, Sequence[Event], str]]) -> None:
        """The same for several manifests (path, events, what is damaged in it), in one transaction."""
        with self._writing.begin() as connection:
            record_events(connection, unit, manifests)

    def set_status(self, unit: str, copies: Collection[CopyFacts]) -> None:
        """Write what was found of copies."""
        if not copies:
            return
        statement = (
            update(_COPY)
            .where(col(Copy.unit) == unit)
            .where(col(Copy.path) == bindparam("of_path"))
            .values(status=bindparam("new_status"), mtime_ns=bindparam("new_mtime_ns"))
        )
        rows = [
            {"of_path": copy.path, "new_status": copy.status, "new_mtime_ns": copy.mtime_ns}
            for copy in sorted(copies, key=lambda copy: copy.path)
        ]
        with self._writing.begin() as connection:
            connection.execute(statement, rows)

    def manifests_of(self, unit: str, study_folder: str) -> set[str]:
        """The manifests of a study's folder that are recorded."""
        with self.engine.connect() as connection:
            paths = connection.execute(
                select(_MANIFEST.c.path)
                .where(col(CataloguedManifest.unit) == unit)
                .where(
                    col(CataloguedManifest.path).between(
                        f"{study_folder}/", f"{study_folder}/{_LAST_CHARACTER}"
                    )
                )
            ).scalars()
            return {path for path in paths if path.startswith(f"{study_folder}/")}

    # -- what a run has received

    def receipts_of(self, run_id: str, study_instance_uid: str) -> list[ReceiptRow]:
        """What a run received of a study."""
        with self.engine.connect() as connection:
            rows = connection.execute(
                select(_RECEIPT.c.sop_instance_uid, _RECEIPT.c.is_new_version)
                .where(col(Receipt.run) == run_id)
                .where(col(Receipt.study_instance_uid) == study_instance_uid)
            )
            return [ReceiptRow(sop, new) for sop, new in rows]

    def run_totals(self, run_id: str) -> tuple[int, int]:
        """(instances, bytes) that a run received."""
        with self.engine.connect() as connection:
            count, size = connection.execute(
                select(func.count(), func.coalesce(func.sum(_RECEIPT.c.size), 0)).where(
                    col(Receipt.run) == run_id
                )
            ).one()
        return int(count), int(size)

    def runs_that_received(
        self, association: str, unit: str, version_ids: Collection[str]
    ) -> Mapping[str, set[str]]:
        """For each version received in an association and placed on the unit: the runs it was placed for."""
        runs: defaultdict[str, set[str]] = defaultdict(set)
        with self.engine.connect() as connection:
            for chunk in _chunks(version_ids):
                rows = connection.execute(
                    select(_RECEIPT.c.version_id, _RECEIPT.c.run)
                    .where(col(Receipt.association) == association)
                    .where(col(Receipt.unit) == unit)
                    .where(col(Receipt.version_id).in_(chunk))
                )
                for version, run in rows:
                    runs[version].add(run)
        return runs

    # -- what is held

    def instances_of(self, study_instance_uid: str, unit: str) -> Mapping[str, tuple[HeldCopy, ...]]:
        """SOP Instance UID → the copies on this unit of its current version, the one this unit got last."""
        newest: dict[str, tuple[str, str]] = {}
        held: defaultdict[str, list[HeldCopy]] = defaultdict(list)
        with self.engine.connect() as connection:
            rows = connection.execute(
                _copies_with_versions(_COPY.c.told_at)
                .where(col(Version.study_instance_uid) == study_instance_uid)
                .where(col(Copy.unit) == unit)
                .where(col(Copy.replaced_by) == "")
            )
            for *facts, told_at in rows:
                copy = HeldCopy(*facts)
                sop, told = copy.sop_instance_uid, (told_at, copy.version_id)
                newest[sop] = max(told, newest.get(sop, told))
                held[sop].append(copy)
        return {
            sop: tuple(copy for copy in copies if copy.version_id == newest[sop][1])
            for sop, copies in held.items()
        }

    def versions_of(self, instances: Collection[tuple[str, str]]) -> Mapping[tuple[str, str], set[str]]:
        """(Study, SOP Instance UID) → the versions of it that are known."""
        wanted = set(instances)
        known: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        with self.engine.connect() as connection:
            for chunk in _chunks({sop for _, sop in wanted}):
                rows = connection.execute(
                    select(
                        _VERSION.c.study_instance_uid, _VERSION.c.sop_instance_uid, _VERSION.c.version_id
                    ).where(col(Version.sop_instance_uid).in_(chunk))
                )
                for study, sop, version in rows:
                    if (study, sop) in wanted:
                        known[study, sop].add(version)
        return known

    def found_elsewhere(
        self, study_instance_uid: str, sop_instance_uids: Collection[str]
    ) -> Mapping[str, str]:
        """SOP Instance UID → another study that we hold an instance of this name in."""
        others: dict[str, str] = {}
        with self.engine.connect() as connection:
            for chunk in _chunks(sop_instance_uids):
                rows = connection.execute(
                    select(_VERSION.c.sop_instance_uid, _VERSION.c.study_instance_uid)
                    .where(col(Version.sop_instance_uid).in_(chunk))
                    .where(col(Version.study_instance_uid) != study_instance_uid)
                )
                others.update((sop, study) for sop, study in rows)
        return others

    def study_attributes(self, study_instance_uid: str) -> Mapping[str, str]:
        """Keyword → text of a study and its patient, as the content that came last has them; else empty."""
        with self.engine.connect() as connection:
            found = connection.execute(
                select(_STUDY.c.attributes).where(col(Study.study_instance_uid) == study_instance_uid)
            ).scalar()
        return found or {}

    def told_at(self, study_instance_uids: Collection[str]) -> Mapping[str, str]:
        """Study → when anything was last told of it (ISO 8601, UTC), without those never heard of."""
        told: dict[str, str] = {}
        with self.engine.connect() as connection:
            for chunk in _chunks(study_instance_uids):
                rows = connection.execute(
                    select(_STUDY.c.study_instance_uid, _STUDY.c.told_at).where(
                        col(Study.study_instance_uid).in_(chunk)
                    )
                )
                told.update((study, at) for study, at in rows)
        return told

    def studies_told_since(self, at: str) -> int:
        """How many studies something was told of at that time or later (ISO 8601, UTC, as `told_at`)."""
        with self.engine.connect() as connection:
            counted = select(func.count()).select_from(_STUDY).where(col(Study.told_at) >= at)
            return int(connection.execute(counted).scalar_one())

    # -- what lies on a unit

    def copies(self, unit: str) -> Iterator[list[HeldCopy]]:
        """All copies of a unit that nothing has replaced, a page at a time, in the order of their paths."""
        last = ""
        while True:
            with self.engine.connect() as connection:
                page = [
                    HeldCopy(*row)
                    for row in connection.execute(
                        _copies_with_versions()
                        .where(col(Copy.unit) == unit)
                        .where(col(Copy.replaced_by) == "")
                        .where(col(Copy.path) > last)
                        .order_by(_COPY.c.path)
                        .limit(_PAGE)
                    )
                ]
            if not page:
                return
            yield page
            last = page[-1].path

    def known_paths(self, unit: str, paths: Collection[str]) -> set[str]:
        """Which of these paths of a unit any record names."""
        known: set[str] = set()
        with self.engine.connect() as connection:
            for chunk in _chunks(paths):
                known.update(
                    connection.execute(
                        select(_COPY.c.path).where(col(Copy.unit) == unit).where(col(Copy.path).in_(chunk))
                    ).scalars()
                )
        return known

    def last_told(self, unit: str) -> str:
        """When anything was last told of a unit (ISO 8601, UTC), empty if never."""
        with self.engine.connect() as connection:
            told = connection.execute(
                select(func.max(_COPY.c.told_at)).where(col(Copy.unit) == unit)
            ).scalar()
        return told or ""

    def counts_of(self, unit: str) -> tuple[int, int, int]:
        """(studies, instances, copies) on a unit, without replaced copies."""
        with self.engine.connect() as connection:
            return _counts(connection, unit)


def _counts(connection: Connection, unit: str) -> tuple[int, int, int]:
    held = (
        select(_VERSION.c.study_instance_uid, _VERSION.c.sop_instance_uid, func.count().label("copies"))
        .join(_COPY, col(Copy.version_id) == col(Version.version_id))
        .where(col(Copy.unit) == unit)
        .where(col(Copy.replaced_by) == "")
        .group_by(_VERSION.c.study_instance_uid, _VERSION.c.sop_instance_uid)
        .subquery()
    )
    row = connection.execute(
        select(
            func.count(func.distinct(held.c.study_instance_uid)),
            func.count(),
            func.coalesce(func.sum(held.c.copies), 0),
        ).select_from(held)
    ).one()
    return int(row[0]), int(row[1]), int(row[2])


def _copies_with_versions(*more: Any) -> Any:
    """The columns of `HeldCopy`, in its order."""
    return select(
        _VERSION.c.sop_instance_uid,
        _COPY.c.path,
        _COPY.c.version_id,
        _VERSION.c.dataset_sha256,
        _COPY.c.header_sha256,
        _COPY.c.size,
        _COPY.c.mtime_ns,
        _COPY.c.status,
        *more,
    ).join(_VERSION, col(Copy.version_id) == col(Version.version_id))


def _chunks(values: Collection[str]) -> Iterator[list[str]]:
    """Sorted pieces that fit into one IN list."""
    ordered = sorted(values)
    for start in range(0, len(ordered), _CHUNK):
        yield ordered[start : start + _CHUNK]
