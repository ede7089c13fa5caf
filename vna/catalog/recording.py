"""Writing the events of a manifest into the tables.

Every rule is indifferent to order and repetition: of two claims the one that was told later holds, and what
happened first keeps its first time. So an indexer that is killed and run again, two indexers, a replay and a
rebuild all end with the same rows.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import Table, tuple_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from vna.catalog.attributes import INSTANCE_KEYWORDS, SERIES_KEYWORDS, STUDY_KEYWORDS
from vna.catalog.matching import SEARCHED, search_columns
from vna.catalog.tables import CataloguedManifest, Copy, Instance, Receipt, Series, Study, Version
from vna.storage import Event, Received, Stored, Superseded

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rule:
    """Which of two rows with one key holds: the one whose `columns` are later, or earlier."""

    columns: tuple[str, ...]
    later: bool

    def prefers(self, new: Row, old: Row) -> bool:
        """Whether `new` replaces `old`."""
        one, other = [new[name] for name in self.columns], [old[name] for name in self.columns]
        return one > other if self.later else one < other

    def condition(self, new: Any, old: Any) -> Any:
        """The same as SQL, for the columns of two rows."""
        one, other = (tuple_(*(row[name] for name in self.columns)) for row in (new, old))
        return one > other if self.later else one < other


_TOLD_LATER = Rule(("told_at", "told_by"), later=True)
_COPY_TOLD_LATER = Rule(("told_at",), later=True)
_TOLD_EARLIER = Rule(("told_at",), later=False)
_STORED_EARLIER = Rule(("stored_at",), later=False)


def table_of(model: Any) -> Table:
    """The core table of a model, for bulk statements."""
    return cast(Table, model.__table__)


def insert_into(dialect: str, table: Table) -> Any:
    """An INSERT that knows ON CONFLICT, in this dialect."""
    return (postgresql if dialect == "postgresql" else sqlite).insert(table)


def record_events(
    connection: Connection, unit: str, manifests: Sequence[tuple[str, Sequence[Event], str]]
) -> None:
    """Merge all events of some manifests (path, events, what is damaged in it), in the transaction that is open."""
    events = [event for _, told, _ in manifests for event in told]
    stored = [event for event in events if isinstance(event, Stored)]
    received = [event for event in events if isinstance(event, Received)]
    superseded = [event for event in events if isinstance(event, Superseded)]
    _merge(connection, Study, [_study(event) for event in stored], _TOLD_LATER)
    _merge(connection, Series, [_series(event) for event in stored], _TOLD_LATER)
    _merge(connection, Instance, [_instance(event) for event in stored], _TOLD_LATER)
    _merge(connection, Version, [_version(event) for event in stored], _STORED_EARLIER)
    copies = [_copy(unit, event) for event in stored] + [_damaged(unit, event) for event in superseded]
    _merge(connection, Copy, copies, _COPY_TOLD_LATER)
    _merge(connection, Receipt, [_receipt(unit, event) for event in received], _TOLD_EARLIER)
    rows = [{"unit": unit, "path": path, "damage": damage} for path, _, damage in manifests]
    _merge(connection, CataloguedManifest, rows, None)


def _merge(connection: Connection, model: Any, rows: Iterable[Row], rule: Rule | None) -> None:
    """Upsert in the order of the keys, so that two processes lock the same rows in the same order.

    Without a rule the last row of a key holds.
    """
    table = table_of(model)
    keys = [column.name for column in table.primary_key]
    best: dict[tuple[str, ...], Row] = {}
    for row in rows:
        key = tuple(row[name] for name in keys)
        if key not in best or rule is None or rule.prefers(row, best[key]):
            best[key] = row
    if best:
        statement = _upsert(connection.dialect, model, rule)
        merged = [best[key] for key in sorted(best)]
        if table.name in SEARCHED:
            for row in merged:
                row.update(search_columns(table.name, row["attributes"]))
        connection.execute(statement, merged)


@functools.lru_cache(maxsize=64)
def _upsert(dialect: Any, model: Any, rule: Rule | None) -> Any:
    """Compiled here, because SQLAlchemy does not keep what it compiles of an ON CONFLICT: it would compile the
    same seven statements for every manifest, which takes longer than writing the rows.
    """
    table = table_of(model)
    keys = [column.name for column in table.primary_key]
    statement = insert_into(dialect.name, table)
    upsert = statement.on_conflict_do_update(
        index_elements=keys,
        set_={column.name: statement.excluded[column.name] for column in table.c if column.name not in keys},
        where=None if rule is None else rule.condition(statement.excluded, table.c),
    )
    return upsert.compile(
        dialect=dialect, column_keys=[column.name for column in table.c], for_executemany=True
    )


def _some(attributes: Mapping[str, str], keywords: Sequence[str]) -> dict[str, str]:
    return {keyword: attributes[keyword] for keyword in keywords if keyword in attributes}


def _study(event: Stored) -> Row:
    return {
        "study_instance_uid": event.study_instance_uid,
        "attributes": _some(event.attributes, STUDY_KEYWORDS),
        "told_at": event.at,
        "told_by": event.version_id,
    }


def _series(event: Stored) -> Row:
    return {
        "study_instance_uid": event.study_instance_uid,
        "series_instance_uid": event.series_instance_uid,
        "attributes": _some(event.attributes, SERIES_KEYWORDS),
        "told_at": event.at,
        "told_by": event.version_id,
    }


def _instance(event: Stored) -> Row:
    return {
        "study_instance_uid": event.study_instance_uid,
        "sop_instance_uid": event.sop_instance_uid,
        "series_instance_uid": event.series_instance_uid,
        "sop_class_uid": event.sop_class_uid,
        "attributes": _some(event.attributes, INSTANCE_KEYWORDS),
        "told_at": event.at,
        "told_by": event.version_id,
    }


def _version(event: Stored) -> Row:
    return {
        "version_id": event.version_id,
        "study_instance_uid": event.study_instance_uid,
        "sop_instance_uid": event.sop_instance_uid,
        "transfer_syntax_uid": event.transfer_syntax_uid,
        "dataset_sha256": event.dataset_sha256,
        "dataset_length": event.size - event.header_length,
        "stored_at": event.at,
    }


def _copy(unit: str, event: Stored) -> Row:
    return {
        "unit": unit,
        "path": event.path,
        "version_id": event.version_id,
        "size": event.size,
        "header_length": event.header_length,
        "header_sha256": event.header_sha256,
        "mtime_ns": event.mtime_ns,
        "status": "ok",
        "replaced_by": "",
        "told_at": event.at,
    }


def _damaged(unit: str, event: Superseded) -> Row:
    return {
        "unit": unit,
        "path": event.path,
        "version_id": event.version_id,
        "size": event.size,
        "header_length": event.header_length,
        "header_sha256": event.header_sha256,
        "mtime_ns": event.mtime_ns,
        "status": event.status,
        "replaced_by": event.by,
        "told_at": event.at,
    }


def _receipt(unit: str, event: Received) -> Row:
    return {
        "association": event.association,
        "version_id": event.version_id,
        "unit": unit,
        "run": event.run,
        "study_instance_uid": event.study_instance_uid,
        "sop_instance_uid": event.sop_instance_uid,
        "size": event.size,
        "is_new_version": event.is_new_version,
        "calling_aet": event.calling_aet,
        "called_aet": event.called_aet,
        "peer_address": event.peer_address,
        "listener": event.listener,
        "server": event.server,
        "episode": event.episode,
        "told_at": event.at,
    }
