import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlmodel import SQLModel

import vna.catalog.tables
import vna.jobs.tables  # noqa: F401 - both fill the metadata
from benchmarks.query import Population
from vna.catalog import Catalog
from vna.catalog.migrating import HEAD, alembic_config
from vna.catalog.migrations.versions import r0002_queries
from vna.errors import CatalogRefused, CatalogUnavailable, SettingsError


def test_the_migrated_tables_are_those_of_the_models(catalog: Catalog) -> None:
    with catalog.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, SQLModel.metadata) == []


def test_the_known_head_is_the_newest_migration() -> None:
    assert ScriptDirectory.from_config(alembic_config()).get_heads() == [HEAD]


def test_migrating_again_changes_nothing(catalog: Catalog) -> None:
    assert catalog.is_migrated()
    catalog.migrate()
    assert catalog.is_migrated()


def test_asking_whether_it_is_migrated_makes_nothing(tmp_path: Path) -> None:
    with Catalog(f"sqlite:///{tmp_path / 'home' / 'catalog.sqlite'}") as catalog:
        assert not catalog.is_migrated()
    assert not (tmp_path / "home").exists()


def test_several_processes_may_migrate_at_once(url: str) -> None:
    code = f"from vna.catalog import Catalog\nwith Catalog({url!r}) as c: c.migrate(); print(c.is_migrated())"
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert out == b"True\n", err.decode()


def test_tables_of_a_newer_program_are_refused_in_one_sentence(catalog: Catalog) -> None:
    with catalog.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    assert not catalog.is_migrated()
    with pytest.raises(CatalogUnavailable, match="another version"):
        catalog.migrate()


def test_sqlite_writes_through_to_the_disk_and_readers_do_not_wait(tmp_path: Path) -> None:
    with Catalog(f"sqlite:///{tmp_path / 'catalog.sqlite'}") as catalog:
        catalog.migrate()
        with catalog.engine.connect() as connection:
            assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
            assert connection.execute(text("PRAGMA synchronous")).scalar() == 2


def test_a_file_that_is_no_database_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "catalog.sqlite").write_bytes(b"this is not a database" * 100)
    with (
        Catalog(f"sqlite:///{tmp_path / 'catalog.sqlite'}") as catalog,
        pytest.raises(CatalogUnavailable, match="not a database"),
    ):
        catalog.migrate()


def test_a_database_that_is_away_is_transient_and_one_sentence(tmp_path: Path) -> None:
    for url in (
        f"postgresql://nobody@/none?host={tmp_path}",
        "postgresql://nobody@127.0.0.1:1/none",
        f"sqlite:///{tmp_path}",
    ):
        with Catalog(url) as catalog, pytest.raises(CatalogUnavailable) as caught:
            catalog.migrate()
        assert caught.value.transient
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("url", ["rubbish", "mysql://x/y", "oracle://x"])
def test_another_kind_of_database_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="BACKUPDR_CATALOG_URL"):
        Catalog(url)


FIRST_COLUMNS = {
    "study": ("study_instance_uid", "attributes", "told_at", "told_by"),
    "series": ("study_instance_uid", "series_instance_uid", "attributes", "told_at", "told_by"),
}


def test_a_catalog_of_the_first_tables_can_be_queried_after_migrating(catalog: Catalog) -> None:
    """What queries are narrowed by is made of the attributes that are there, as if they came now."""
    population = Population(studies=1200, instances=1200)
    population.fill(catalog)
    now = {name: rows_of(catalog, name) for name in FIRST_COLUMNS}
    with catalog.engine.execution_options(writes=True).begin() as connection:
        SQLModel.metadata.drop_all(connection)
        connection.execute(text("DROP TABLE alembic_version"))
        command.upgrade(alembic_config(connection), "0001")
        for name, columns in FIRST_COLUMNS.items():
            table = SQLModel.metadata.tables[name]
            old = sqlalchemy.table(name, *(sqlalchemy.column(each, table.c[each].type) for each in columns))
            connection.execute(old.insert(), [{each: row[each] for each in columns} for row in now[name]])
    assert not catalog.is_migrated()
    catalog.migrate()
    assert {name: rows_of(catalog, name) for name in FIRST_COLUMNS} == now
    assert all(row["study_date"] and row["patient_name"] for row in now["study"])


def rows_of(catalog: Catalog, name: str) -> list[dict[str, object]]:
    table = SQLModel.metadata.tables[name]
    with catalog.engine.connect() as connection:
        rows = connection.execute(table.select().order_by(*table.primary_key)).mappings()
        return [dict(row) for row in rows]


INSERTS = {
    "study": "INSERT INTO study (study_instance_uid, attributes, told_at, told_by)"
    " VALUES ('1.2.0', '{}', '9', 'v') ON CONFLICT (study_instance_uid) DO UPDATE SET told_at = '9'",
    "series": "INSERT INTO series (study_instance_uid, series_instance_uid, attributes, told_at, told_by)"
    " VALUES ('9.9', '9.9.1', '{}', '9', 'v')",
}


@pytest.mark.parametrize("table", INSERTS)
def test_a_writer_that_does_not_know_what_queries_are_narrowed_by_is_refused(
    catalog: Catalog, table: str
) -> None:
    """A process of an older version that holds the catalog open would record studies that nobody finds."""
    Population(studies=3, instances=3).fill(catalog)
    before = rows_of(catalog, table)
    with pytest.raises(CatalogRefused), catalog.engine.execution_options(writes=True).begin() as connection:
        connection.execute(text(INSERTS[table]))
    assert rows_of(catalog, table) == before


def test_rows_an_older_version_wrote_after_the_columns_came_are_filled_again(catalog: Catalog) -> None:
    population = Population(studies=5, instances=5)
    population.fill(catalog)
    now = {name: rows_of(catalog, name) for name in FIRST_COLUMNS}
    with catalog.engine.execution_options(writes=True).begin() as connection:
        SQLModel.metadata.drop_all(connection)
        connection.execute(text("DROP TABLE alembic_version"))
        command.upgrade(alembic_config(connection), "0002")
        for name, columns in FIRST_COLUMNS.items():
            table = SQLModel.metadata.tables[name]
            old = sqlalchemy.table(name, *(sqlalchemy.column(each, table.c[each].type) for each in columns))
            connection.execute(old.insert(), [{each: row[each] for each in columns} for row in now[name]])
    catalog.migrate()
    assert {name: rows_of(catalog, name) for name in FIRST_COLUMNS} == now


def test_the_forms_of_the_migration_are_its_own() -> None:
    """What a migration writes may not change with the program."""
    for path in Path(r0002_queries.__file__).parent.glob("r*.py"):
        imported = [
            line for line in path.read_text().splitlines() if line.startswith(("from vna", "import vna"))
        ]
        assert all("vna.catalog.migrations" in line for line in imported), path.name
