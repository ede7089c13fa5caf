"""kill -9 at every boundary of DESIGN §4 and §5, then run again: the same result as without it."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlmodel import SQLModel

from tests.indexing.arranging import receive, run_python, settings_of, spool_of, study
from vna.catalog import Catalog
from vna.catalog.rebuild import rebuild_catalog
from vna.indexing import help_indexing
from vna.settings import Settings
from vna.site import load_site
from vna.storage import open_unit
from vna.verification import verify_unit

BOUNDARIES = (
    "place.linked",
    "place.file_synced",
    "place.manifest_synced",
    "place.catalogued",
    "place.unlinked",
    "place.folder_removed",
    "aside.described",
    "aside.linked",
    "aside.unlinked",
)
INDEX = """
from vna.indexing import Indexer
with Indexer(settings) as indexer:
    indexer.prepare()
    indexer.run_once()
"""
SOPS = [str(of["sop"]) for of in study(1, 3) + study(2, 2)] + ["1.2.3"]


def arrive(settings: Settings) -> None:
    """Two studies in two associations, one instance with two contents, one that cannot be placed."""
    receive(settings, *study(1, 3), {**study(1, 1)[0], "PatientName": "Corrected^Person"})
    receive(settings, *study(2, 2), {**study(2, 1)[0], "command_sop": "1.2.3"})


def outcome(settings: Settings) -> dict[str, object]:
    """All that must not depend on whether and where a process was killed."""
    with Catalog(settings.catalog_database_url) as catalog:
        unit = open_unit(load_site(settings).unit("default"))
        report = verify_unit(unit, catalog, "checksum", spool_of(settings))
        tables = dump(catalog)

    def columns(table: str, *names: str) -> list[str]:
        return sorted(str([json.loads(row)[name] for name in names]) for row in tables[table])

    return {
        "verified": (report.checked, report.ok, report.orphaned, report.problems),
        "versions": columns("version", "version_id", "dataset_sha256", "dataset_length"),
        "copies": columns("copy", "path", "version_id", "header_sha256", "size", "status", "replaced_by"),
        "receipts": columns("receipt", "version_id", "unit", "run", "is_new_version"),
        "instances": columns("instance", "sop_instance_uid", "told_by", "attributes"),
        "aside": sorted((entry.sop_instance_uid, entry.reason) for entry in spool_of(settings).aside()),
        "waiting": sorted(spool_of(settings).pending(SOPS)),
    }


def dump(catalog: Catalog) -> dict[str, list[str]]:
    names = ("study", "series", "instance", "version", "copy", "receipt", "manifest")
    with catalog.engine.connect() as connection:
        return {
            name: sorted(
                json.dumps(dict(row), sort_keys=True)
                for row in connection.execute(select(SQLModel.metadata.tables[name])).mappings()
            )
            for name in names
        }


def same_after_a_rebuild(settings: Settings, tmp_path: Path) -> bool:
    """Whether the unit alone gives the catalog again, table by table."""
    with (
        Catalog(settings.catalog_database_url) as catalog,
        Catalog(f"sqlite:///{tmp_path / 'rebuilt.sqlite'}") as rebuilt,
    ):
        rebuilt.migrate()
        report = rebuild_catalog(open_unit(load_site(settings).unit("default")), rebuilt)
        assert not report.problems
        return dump(catalog) == dump(rebuilt)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    settings = settings_of(tmp_path_factory.mktemp("undisturbed"))
    arrive(settings)
    help_indexing(settings, SOPS)
    return outcome(settings)


def test_the_boundaries_named_here_are_those_in_the_code() -> None:
    root = Path(__file__).parents[2] / "vna"
    code = "\n".join(path.read_text() for path in root.rglob("*.py"))
    named = set(re.findall(r'checkpoint\("((?:place|aside)\.\w+)"\)', code))
    assert named == set(BOUNDARIES)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_killed_at_a_boundary_and_run_again_the_result_is_the_same(
    boundary: str, tmp_path: Path, undisturbed: dict[str, object]
) -> None:
    settings = settings_of(tmp_path / "home")
    arrive(settings)
    killed = run_python(settings, INDEX, BACKUPDR_KILL_AT=boundary)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    help_indexing(settings, SOPS)
    assert outcome(settings) == undisturbed
    assert same_after_a_rebuild(settings, tmp_path)


def test_killed_at_one_boundary_after_the_other_nothing_is_lost(
    tmp_path: Path, undisturbed: dict[str, object]
) -> None:
    settings = settings_of(tmp_path / "home")
    arrive(settings)
    for boundary in BOUNDARIES[:5]:
        run_python(settings, INDEX, BACKUPDR_KILL_AT=boundary)
    help_indexing(settings, SOPS)
    assert outcome(settings) == undisturbed
    assert same_after_a_rebuild(settings, tmp_path)


def test_several_indexers_at_once_end_with_the_same_catalog(
    tmp_path: Path, undisturbed: dict[str, object]
) -> None:
    settings = settings_of(tmp_path / "home")
    arrive(settings)
    environment = {**os.environ, "BACKUPDR_HOME": str(settings.home), "BACKUPDR_RESERVE_BYTES": "0"}
    code = f"from vna.indexing import help_indexing\nfrom vna.settings import load_settings\n\
help_indexing(load_settings(), {SOPS!r})"
    processes = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    for process in processes:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err.decode()
    assert outcome(settings) == undisturbed
    assert same_after_a_rebuild(settings, tmp_path)


def test_the_same_instances_in_two_folders_placed_at_once_are_one_copy(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "home")
    instances = study(1, 20)
    receive(settings, *instances)
    receive(settings, *instances, calling_aet="OTHER")
    environment = {**os.environ, "BACKUPDR_HOME": str(settings.home), "BACKUPDR_RESERVE_BYTES": "0"}
    sops = [str(of["sop"]) for of in instances]
    code = f"from vna.indexing import help_indexing\nfrom vna.settings import load_settings\n\
help_indexing(load_settings(), {sops!r})"
    processes = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    for process in processes:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err.decode()
    with Catalog(settings.catalog_database_url) as catalog:
        unit = open_unit(load_site(settings).unit("default"))
        report = verify_unit(unit, catalog, "checksum", spool_of(settings))
        assert (report.checked, report.ok, report.orphaned, report.problems) == (20, 20, 0, [])
        assert catalog.run_totals("")[0] == 40
    assert same_after_a_rebuild(settings, tmp_path)


def test_between_link_and_catalog_a_file_is_no_orphan(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "home")
    receive(settings, *study(1, 2))
    run_python(settings, INDEX, BACKUPDR_KILL_AT="place.file_synced")
    with Catalog(settings.catalog_database_url) as catalog:
        unit = open_unit(load_site(settings).unit("default"))
        assert len(list(unit.iterate())) == 2
        report = verify_unit(unit, catalog, "checksum", spool_of(settings))
        assert (report.checked, report.orphaned, report.problems) == (0, 0, [])
        assert verify_unit(unit, catalog, "checksum").orphaned == 2
