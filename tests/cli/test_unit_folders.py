"""Which folder a storage unit may be given; nothing here starts Prefect."""

import contextlib
import shutil
from pathlib import Path

import pytest

from cli import settings_of_site
from cli.__main__ import run
from cli.findings import Finding, look
from tests.indexing.arranging import receive, settings_of, study
from vna.errors import SettingsError
from vna.indexing import help_indexing
from vna.settings import Settings
from vna.site import Site, UnitDefinition, load_site, publish_site
from vna.storage import create_unit


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A home with the units `default` and `nas1`; saving a block is left out, everything before it is not."""
    monkeypatch.setenv("BACKUPDR_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("BACKUPDR_RESERVE_BYTES", "0")
    monkeypatch.setattr("deployments.server.embedded_server", lambda _: contextlib.nullcontext())
    monkeypatch.setattr("deployments.site.save_unit", lambda *_: None)
    monkeypatch.setattr("deployments.site.publish", lambda _: [])
    settings = settings_of(tmp_path / "home", scp_bind="127.0.0.1")
    unit = UnitDefinition(name="nas1", path=tmp_path / "nas1")
    create_unit(unit)
    publish_site(settings, Site(units={"nas1": unit}))
    return settings


def refused(capsys: pytest.CaptureFixture[str], name: str, path: Path) -> str:
    """The one sentence of an exit with code 2."""
    assert run(["unit", "add", name, "--path", str(path)]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.endswith(".")
    return sentence


@pytest.mark.parametrize(
    ("path", "how"), [("nas1", "is"), ("nas1/deeper/still", "lies inside"), (".", "lies around")]
)
def test_a_folder_that_is_another_units_lies_inside_or_around_it_is_refused(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str], path: str, how: str
) -> None:
    folder = Path(tmp_path, path)
    sentence = refused(capsys, "nas2", folder)
    assert f"it {how} {tmp_path / 'nas1'}, the folder of storage unit nas1" in sentence or path == "."
    assert how in sentence
    assert not (tmp_path / "nas1" / "deeper").exists()


def test_a_link_to_another_units_folder_is_refused(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nas1")
    assert "is the same as" in refused(capsys, "nas2", tmp_path / "link")
    assert "lies inside" in refused(capsys, "nas2", tmp_path / "link" / "sub")


def test_units_that_share_a_folder_already_are_wrong_for_check(settings: Settings, tmp_path: Path) -> None:
    def shared() -> list[Finding]:
        return [found for found in look(settings, load_site(settings)) if "share a folder" in found.sentence]

    assert shared() == []
    units = [
        *load_site(settings).units.values(),
        UnitDefinition(name="nas2", path=tmp_path / "nas1" / "sub"),
        UnitDefinition(name="nas3", path=tmp_path / "nas10"),
    ]
    publish_site(settings, Site(units={unit.name: unit for unit in units}))
    (finding,) = shared()
    assert finding.wrong
    assert "nas1 and nas2" in finding.sentence


def test_a_unit_that_has_copies_goes_nowhere_without_them(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = {name: UnitDefinition(name=name, path=tmp_path / name) for name in ("nas1", "nas2")}
    publish_site(settings, Site(units=named))  # one alone would get what nobody asked for
    receive(settings, *study(1, 1))
    help_indexing(settings, [str(of["sop"]) for of in study(1, 1)])
    (tmp_path / "empty").mkdir()
    assert "has copies on storage unit default" in refused(capsys, "default", tmp_path / "empty")
    create_unit(UnitDefinition(name="default", path=tmp_path / "like"))
    assert "is not that unit" in refused(capsys, "default", tmp_path / "like")
    assert list((tmp_path / "empty").iterdir()) == []
    shutil.copytree(settings.default_unit_path, tmp_path / "moved")
    assert run(["unit", "add", "default", "--path", str(tmp_path / "moved")]) == 0
    shutil.rmtree(settings.default_unit_path)
    assert run(["unit", "add", "default", "--path", str(tmp_path / "moved")]) == 0
    assert "is not that unit" in refused(capsys, "default", tmp_path / "empty")


def test_a_unit_without_copies_may_get_another_folder(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["unit", "add", "nas1", "--path", str(tmp_path / "other")]) == 0
    assert f"{tmp_path / 'other'}, a folder that was not there and is made new." in capsys.readouterr().out
    assert run(["unit", "add", "nas1", "--path", str(tmp_path / "nas1")]) == 0
    assert "made new" not in capsys.readouterr().out


def test_a_relative_path_is_made_absolute_and_that_is_said(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["unit", "add", "nas2", "--path", "home/../nas2"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"home/../nas2 was taken from the current folder: {tmp_path / 'nas2'}."
    assert str(tmp_path / "nas2") in second


@pytest.mark.parametrize("path", ["file", "file/below"])
def test_a_file_is_no_folder_for_a_unit(settings: Settings, tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("a file", encoding="utf-8")
    with pytest.raises(SettingsError, match="file is a file, not a folder"):
        settings_of_site.add_unit("nas2", tmp_path / path, as_json=False)
