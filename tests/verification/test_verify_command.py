import json
from pathlib import Path

import pytest

from cli.findings import Finding, look
from cli.verifying import rebuild, verify
from tests.indexing.arranging import receive, settings_of, study
from vna.catalog import Catalog
from vna.indexing import help_indexing
from vna.site import load_site

LOST = (
    "The catalog knows nothing of storage unit default although it holds files; if the database was lost, run "
    "`backupdr rebuild-catalog default`."
)


@pytest.fixture
def unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the default unit of a home with two instances."""
    monkeypatch.setenv("BACKUPDR_HOME", str(tmp_path))
    monkeypatch.setenv("BACKUPDR_RESERVE_BYTES", "0")
    settings = settings_of(tmp_path)
    receive(settings, *study(1, 2))
    help_indexing(settings, [str(of["sop"]) for of in study(1, 2)])
    return settings.default_unit_path


def test_verify_and_rebuild_say_that_all_is_well_only_if_it_is(
    unit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify(None, "checksum", as_json=True)
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (answer["checked"], answer["ok"], answer["problems"]) == (2, 2, [])
    for database in unit.parents[1].glob("catalog.sqlite*"):
        database.unlink()
    assert not verify(None, "exists", as_json=True)
    out, err = capsys.readouterr()
    answer = json.loads(out.splitlines()[-1])
    assert answer["orphaned"] == 2
    assert answer["problems"] == [LOST]
    assert "named by no record" not in err
    assert rebuild("default", as_json=True)
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert answer == {"state": "completed", "studies": 1, "instances": 2, "copies": 2, "problems": []}
    assert verify(None, "checksum", as_json=True)


def test_rebuild_with_a_file_gone_is_not_completed(unit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    next(unit.glob("*/*/*/*.dcm")).unlink()
    assert not rebuild("default", as_json=True)
    out, err = capsys.readouterr()
    answer = json.loads(out.splitlines()[-1])
    assert answer["state"] == "failed"
    assert answer["problems"][0] in err


def test_check_names_a_lost_catalog_and_makes_none(unit: Path) -> None:
    settings = settings_of(unit.parents[1], scp_bind="127.0.0.1")

    def lost() -> list[Finding]:
        return [found for found in look(settings, load_site(settings)) if "knows nothing" in found.sentence]

    assert lost() == []
    for database in unit.parents[1].glob("catalog.sqlite*"):
        database.unlink()
    assert lost() == [Finding(True, LOST)]
    assert list(unit.parents[1].glob("catalog.sqlite*")) == []
    with Catalog(settings.catalog_database_url) as catalog:
        catalog.migrate()
    assert lost() == [Finding(True, LOST)]


def test_one_file_of_nobody_does_not_make_a_catalog_lost(
    unit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (unit / "left.dcm").write_bytes(b"left by hand")
    assert not verify(None, "exists", as_json=True)
    (problem,) = json.loads(capsys.readouterr().out.splitlines()[-1])["problems"]
    assert "left.dcm is named by no record" in problem


def test_the_screen_has_twenty_findings_and_the_object_has_all(
    unit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(23):
        (unit / f"left{number}.dcm").write_bytes(b"left by hand")
    assert not verify(None, "size", as_json=True)
    out, err = capsys.readouterr()
    assert len(json.loads(out.splitlines()[-1])["problems"]) == 23
    assert err.count("named by no record") == 20
    assert "… and 3 more (all of them with --json)." in err.splitlines()


@pytest.mark.parametrize(
    ("level", "words"),
    [
        ("exists", "all there."),
        ("size", "all there, as long as stored."),
        ("checksum", "all as they were stored."),
    ],
)
def test_verify_claims_no_more_than_it_looked_at(
    unit: Path, capsys: pytest.CaptureFixture[str], level: str, words: str
) -> None:
    assert verify(None, level, as_json=False)
    assert capsys.readouterr().out == f"2 copies looked at ({level}): {words}\n"
    next(unit.glob("*/*/*/*.dcm")).unlink()
    assert not verify(None, level, as_json=False)
    assert ("as they were stored" in capsys.readouterr().out) is (level == "checksum")
