import os
from pathlib import Path

import pytest

from tests.indexing.arranging import receive, settings_of, study
from vna.catalog import Catalog
from vna.catalog.rebuild import rebuild_catalog
from vna.errors import UnitUnavailable
from vna.indexing import help_indexing
from vna.settings import Settings
from vna.site import load_site
from vna.storage import MARKER, StorageUnit, open_unit, study_folder_of
from vna.verification import UnitReport, recheck_copies, verify_unit
from vna.verification.units import MOST_PROBLEMS, sop_of

STUDY = str(study(1, 1)[0]["study"])


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A home with a study of four instances in its default unit."""
    settings = settings_of(tmp_path)
    receive(settings, *study(1, 4))
    help_indexing(settings, [str(of["sop"]) for of in study(1, 4)])
    return settings


@pytest.fixture
def unit(settings: Settings) -> StorageUnit:
    return open_unit(load_site(settings).unit("default"))


@pytest.fixture
def catalog(settings: Settings):
    with Catalog(settings.catalog_database_url) as opened:
        yield opened


def files(unit: StorageUnit) -> list[Path]:
    return [unit.path / path for path in sorted(unit.iterate())]


def rot(path: Path) -> None:
    """Change a byte without touching size and time."""
    stat = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def figures(report: UnitReport) -> tuple[int, ...]:
    return (
        report.checked,
        report.ok,
        report.missing,
        report.differing_size,
        report.differing_checksum,
        report.orphaned,
    )


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("exists", (4, 3, 1, 0, 0, 1)),
        ("size", (4, 2, 1, 1, 0, 1)),
        ("checksum", (4, 1, 1, 1, 1, 1)),
    ],
)
def test_each_level_finds_what_it_says(
    level: str, expected: tuple[int, ...], unit: StorageUnit, catalog: Catalog
) -> None:
    gone, longer, rotten, _ = files(unit)
    gone.unlink()
    longer.write_bytes(longer.read_bytes() + b"x")
    rot(rotten)
    (gone.parent / "stray.dcm").write_bytes(b"")
    report = verify_unit(unit, catalog, level)
    assert figures(report) == expected
    assert len(report.problems) == sum(expected[2:])
    assert all(str(STUDY) in problem for problem in report.problems)


def test_a_header_that_changed_is_found_by_checksum(unit: StorageUnit, catalog: Catalog) -> None:
    path = files(unit)[0]
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    assert verify_unit(unit, catalog, "checksum").differing_checksum == 1


def test_rot_that_was_found_stays_known_until_the_file_is_good_again(
    unit: StorageUnit, catalog: Catalog
) -> None:
    path = files(unit)[0]
    rot(path)
    assert verify_unit(unit, catalog, "size").ok == 4
    assert verify_unit(unit, catalog, "checksum").differing_checksum == 1
    assert verify_unit(unit, catalog, "size").differing_checksum == 1
    held = catalog.instances_of(STUDY, "default")
    assert sorted(recheck_copies(unit, catalog, held).values()) == ["differing_checksum", "ok", "ok", "ok"]
    rot(path)  # the same byte back
    assert recheck_copies(unit, catalog, catalog.instances_of(STUDY, "default")) == dict.fromkeys(held, "ok")
    assert verify_unit(unit, catalog, "size").ok == 4


def test_a_copy_counts_without_reading_while_size_and_time_are_the_same(
    unit: StorageUnit, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = catalog.instances_of(STUDY, "default")
    monkeypatch.setattr(unit, "digest", None)
    assert set(recheck_copies(unit, catalog, held).values()) == {"ok"}


def test_a_touched_file_is_digested_again_and_then_counts(unit: StorageUnit, catalog: Catalog) -> None:
    path = files(unit)[0]
    os.utime(path, (1, 1))
    held = catalog.instances_of(STUDY, "default")
    assert set(recheck_copies(unit, catalog, held).values()) == {"ok"}
    times = {copy.mtime_ns for copies in catalog.instances_of(STUDY, "default").values() for copy in copies}
    assert 1_000_000_000 in times


@pytest.mark.parametrize(
    ("harm", "status"),
    [
        (lambda path: path.unlink(), "missing"),
        (lambda path: path.write_bytes(b"short"), "differing_size"),
        (lambda path: path.write_bytes(bytes(path.stat().st_size)), "differing_checksum"),
    ],
    ids=["gone", "cut", "overwritten"],
)
def test_a_held_copy_that_is_no_more_what_it_was_does_not_count(
    harm, status: str, unit: StorageUnit, catalog: Catalog
) -> None:
    harm(files(unit)[0])
    held = catalog.instances_of(STUDY, "default")
    assert sorted(recheck_copies(unit, catalog, held).values()) == [status, "ok", "ok", "ok"]
    statuses = [copy.status for page in catalog.copies("default") for copy in page]
    assert sorted(statuses) == [status, "ok", "ok", "ok"]


def test_a_unit_that_is_not_mounted_is_never_a_unit_whose_files_are_missing(
    unit: StorageUnit, catalog: Catalog
) -> None:
    (unit.path / MARKER).unlink()
    with pytest.raises(UnitUnavailable):
        verify_unit(unit, catalog, "exists")
    with pytest.raises(UnitUnavailable):
        recheck_copies(unit, catalog, {"x": catalog.instances_of(STUDY, "default").popitem()[1]})  # type: ignore[attr-defined]
    assert [copy.status for page in catalog.copies("default") for copy in page] == ["ok"] * 4


def test_manifests_that_are_gone_or_damaged_are_told(unit: StorageUnit, catalog: Catalog) -> None:
    (manifest,) = unit.path.glob("*/*/manifest/*.jsonl")
    text = manifest.read_bytes()
    manifest.write_bytes(text.replace(b"Invented", b"Inverted", 1))
    (problem,) = verify_unit(unit, catalog, "checksum").problems
    assert "line 2 is damaged" in problem
    manifest.unlink()
    (problem,) = verify_unit(unit, catalog, "checksum").problems
    assert "is missing" in problem


def test_a_temporary_file_of_today_is_no_orphan_and_one_of_last_week_is(
    unit: StorageUnit, catalog: Catalog
) -> None:
    staging = unit.path / ".staging"
    staging.mkdir()
    (staging / "new.part").write_bytes(b"")
    (staging / "old.part").write_bytes(b"")
    os.utime(staging / "old.part", (1, 1))
    assert verify_unit(unit, catalog, "exists").orphaned == 1
    assert unit.sweep() == 1
    assert verify_unit(unit, catalog, "exists").orphaned == 0


def test_a_manifest_or_marker_that_a_kill_cut_off_is_no_finding_and_goes_after_a_day(
    unit: StorageUnit, catalog: Catalog
) -> None:
    manifest = next(unit.path.glob("*/*/manifest/*.jsonl"))
    manifests = set(unit.manifests(study_folder_of(STUDY)))
    old = [
        manifest.with_name("01J00000000000000000000000.jsonl.part"),
        unit.path / f"{MARKER}.0123456789abcdef.tmp",
    ]
    young = [manifest.with_name("01J00000000000000000000001.jsonl.part"), unit.path / f"{MARKER}.fedcba.tmp"]
    for path in old + young:
        path.write_text("{")
    for path in old:
        os.utime(path, (1, 1))
    report = verify_unit(unit, catalog, "exists")
    assert (report.orphaned, report.problems) == (0, [])
    assert unit.sweep() == 1
    assert set(unit.manifests(study_folder_of(STUDY))) == manifests
    assert not any(path.exists() for path in old)
    assert all(path.exists() for path in young), "their writers may be alive"
    assert manifest.exists()


def test_problems_without_end_are_counted_not_listed() -> None:
    report = UnitReport()
    for number in range(MOST_PROBLEMS + 5):
        report.tell(str(number))
    report.close()
    assert len(report.problems) == MOST_PROBLEMS + 1
    assert report.problems[-1].startswith("… and 5 more")


def test_an_unknown_level_is_refused(unit: StorageUnit, catalog: Catalog) -> None:
    with pytest.raises(ValueError, match="exists, size, checksum"):
        verify_unit(unit, catalog, "everything")


@pytest.mark.parametrize("name", ["1.2.3.0123456789abcdef.dcm", "1.2.3.0123456789abcdef.2.dcm"])
def test_the_instance_of_a_file_is_in_its_name(name: str) -> None:
    assert sop_of(f"aa/1/2/{name}") == "1.2.3"


def test_a_rebuild_says_what_is_not_as_its_manifests_say(
    unit: StorageUnit, catalog: Catalog, tmp_path: Path
) -> None:
    gone, rotten, _, _ = files(unit)
    gone.unlink()
    rotten.write_bytes(bytes(rotten.stat().st_size))
    (rotten.parent / "stray.dcm").write_bytes(b"")
    with Catalog(f"sqlite:///{tmp_path / 'other.sqlite'}") as rebuilt:
        rebuilt.migrate()
        report = rebuild_catalog(unit, rebuilt)
        assert (report.studies, report.instances, report.copies) == (1, 4, 4)
        assert len(report.problems) == 3
        assert "3 problems" in str(report)
        statuses = sorted(copy.status for page in rebuilt.copies("default") for copy in page)
        assert statuses == ["differing_checksum", "missing", "ok", "ok"]


def test_a_rebuild_over_a_living_catalog_forgets_nothing(unit: StorageUnit, catalog: Catalog) -> None:
    """A study whose whole folder is gone is only known to the catalog: it must be missing, not unknown."""
    import shutil

    for folder in unit.path.glob("*/1.2*"):
        shutil.rmtree(folder)
    report = rebuild_catalog(unit, catalog)
    assert report.copies == 4
    assert len(report.problems) == 4
    assert {copy.status for page in catalog.copies("default") for copy in page} == {"missing"}


def test_the_parts_of_a_damaged_manifest_that_can_be_read_count(unit: StorageUnit, tmp_path: Path) -> None:
    (manifest,) = unit.path.glob("*/*/manifest/*.jsonl")
    manifest.write_bytes(manifest.read_bytes().replace(b"Invented", b"Inverted", 1))
    with Catalog(f"sqlite:///{tmp_path / 'other.sqlite'}") as rebuilt:
        rebuilt.migrate()
        report = rebuild_catalog(unit, rebuilt)
        assert report.instances == 3
        assert any("damaged" in problem for problem in report.problems)
        assert any("named by no manifest" in problem for problem in report.problems)
