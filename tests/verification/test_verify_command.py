import json
from pathlib import Path

import pytest

from cli.verifying import rebuild, verify
from tests.indexing.arranging import receive, settings_of, study
from vna.indexing import help_indexing


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
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["orphaned"] == 2
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
