"""The connection to the catalog's database: SQLite in the home folder, or PostgreSQL by URL.

Whatever the database refuses leaves this room as `CatalogUnavailable`, when all may be well again later, or as
`CatalogRefused`, when it is what we wanted to write or ask; that holds for everybody who uses the engine, the
run ledger too.
"""

import re
import sqlite3
import time
from pathlib import Path

import psycopg
from sqlalchemy import URL, create_engine, event, make_url
from sqlalchemy.engine import Connection, Engine, ExceptionContext
from sqlalchemy.exc import ArgumentError

from vna.errors import CatalogRefused, CatalogUnavailable, SettingsError

BUSY_SECONDS = 60.0
WRITES = {"writes": True}
"""Execution options of a transaction that writes: SQLite then takes the write lock at its begin, because a
reader that becomes a writer later is refused at once, whatever the time-out.
"""

_UNUSABLE = (
    sqlite3.OperationalError,
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.UndefinedTable,
    psycopg.errors.ReadOnlySqlTransaction,
)
"""The database, not our request: away, full, locked, read-only, without its tables or our rights."""
_OVER_A_LIMIT = "54"
"""The class of SQLSTATE for what is too large to be kept, of which psycopg makes operational errors."""
_LONGEST_REASON = 200


def make_engine(url: str) -> Engine:
    """An engine for `sqlite:///…` or `postgresql://…`; nothing is connected yet. Raises `SettingsError`."""
    parsed = _parse(url)
    if parsed.get_backend_name() == "sqlite":
        engine = create_engine(parsed, connect_args={"timeout": BUSY_SECONDS})
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    else:
        engine = create_engine(
            parsed, pool_pre_ping=True, pool_size=5, max_overflow=20, connect_args={"connect_timeout": 10}
        )
    event.listen(engine, "handle_error", _tell, retval=True)
    return engine


def sqlite_file(engine: Engine) -> Path | None:
    """The file of a SQLite database, None for another database or one in memory."""
    name = engine.url.database
    if engine.dialect.name != "sqlite" or not name or name == ":memory:":
        return None
    return Path(name)


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise SettingsError("BACKUPDR_CATALOG_URL is not a database URL.") from error
    if parsed.drivername in {"postgres", "postgresql"}:
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in {"sqlite", "sqlite+pysqlite", "postgresql+psycopg"}:
        raise SettingsError(
            f"BACKUPDR_CATALOG_URL names a {parsed.drivername} database; use sqlite or postgresql."
        )
    return parsed


def _prepare_sqlite(connection: sqlite3.Connection, _: object) -> None:
    # transactions are begun by `_begin_sqlite`: the driver would begin them only at the first change
    connection.isolation_level = None
    _ask_for_wal(connection)
    for pragma in ("synchronous=FULL", f"busy_timeout={int(BUSY_SECONDS * 1000)}"):
        connection.execute(f"PRAGMA {pragma}")


def _ask_for_wal(connection: sqlite3.Connection) -> None:
    """Switching a new database to WAL is refused, not queued, while another process does the same."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _tell(context: ExceptionContext) -> CatalogUnavailable | CatalogRefused | None:
    error = context.original_exception
    # a damaged file, or one that is no database, is a plain DatabaseError
    unusable = isinstance(error, _UNUSABLE) or type(error) is sqlite3.DatabaseError
    if unusable and not (getattr(error, "sqlstate", None) or "").startswith(_OVER_A_LIMIT):
        return CatalogUnavailable(_reason(error))
    if isinstance(error, sqlite3.Error | psycopg.Error | UnicodeError):
        return CatalogRefused(_without_values(_reason(error)))
    return None


def _reason(error: BaseException) -> str:
    first = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return first[:_LONGEST_REASON]


def _without_values(reason: str) -> str:
    """What a database quotes in such an error may be a patient's."""
    return re.sub(r"""(["']).*\1""", "…", reason)
