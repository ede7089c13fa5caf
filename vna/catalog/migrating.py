"""Bringing a database to the tables of this version; safe to do in several processes at once."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import inspect, text
from sqlalchemy.engine import Connection, Engine

from vna.catalog.engine import WRITES, sqlite_file
from vna.errors import CatalogUnavailable
from vna.platform import sync_folder

HEAD = "0003"
"""The newest revision in `migrations`; a test holds it equal to what alembic finds there."""

_LOCK = 0x44524D31  # any number, the same for all of ours


def current_revision(connection: Connection) -> str | None:
    """The revision a database is at, None before the first."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def is_migrated(engine: Engine) -> bool:
    """Whether the database has exactly the tables of this version."""
    file = sqlite_file(engine)
    if file is not None and not file.exists():
        return False
    with engine.connect() as connection:
        return current_revision(connection) == HEAD


def migrate(engine: Engine) -> None:
    """Create or upgrade the tables, in one transaction that keeps others out."""
    file = sqlite_file(engine)
    if file is not None and not file.exists():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CatalogUnavailable(f"{file.parent}: {error.strerror}") from error
    if is_migrated(engine):
        return
    with engine.execution_options(**WRITES).begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        upgrade(connection)
    if file is not None:
        sync_folder(file.parent)


def upgrade(connection: Connection) -> None:
    """Run the missing migrations in the connection's transaction."""
    try:
        command.upgrade(alembic_config(connection), "head")
    except CommandError as error:
        reason = f"its tables are of another version of this program: {error}"
        raise CatalogUnavailable(reason) from error


def alembic_config(connection: Connection | None = None) -> Config:
    """The configuration without a file, so that it works from an installed package."""
    config = Config()
    folder = Path(__file__).parent / "migrations"
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
