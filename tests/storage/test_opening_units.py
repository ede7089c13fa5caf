import os
from pathlib import Path

import pytest

from vna.errors import UnitNotWritable, UnitUnavailable
from vna.site import UnitDefinition
from vna.storage import MARKER, create_unit, open_unit


def defined(path: Path) -> UnitDefinition:
    return UnitDefinition(name="nas1", path=path)


def test_a_unit_is_prepared_with_a_marker_and_opened_again(tmp_path: Path) -> None:
    create_unit(defined(tmp_path / "a" / "b"))
    marker = (tmp_path / "a" / "b" / MARKER).read_bytes()
    create_unit(defined(tmp_path / "a" / "b"))
    assert open_unit(defined(tmp_path / "a" / "b")).path == tmp_path / "a" / "b"
    assert (tmp_path / "a" / "b" / MARKER).read_bytes() == marker


def test_a_folder_without_a_marker_is_not_mounted_even_if_it_may_be_created(tmp_path: Path) -> None:
    (tmp_path / "mount").mkdir()
    for create in (False, True):
        with pytest.raises(UnitUnavailable, match="mounted"):
            open_unit(defined(tmp_path / "mount"), create=create)
    assert list((tmp_path / "mount").iterdir()) == []


def test_an_absent_folder_is_made_only_where_that_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(UnitUnavailable, match="no such folder"):
        open_unit(defined(tmp_path / "units" / "default"))
    open_unit(defined(tmp_path / "units" / "default"), create=True)
    assert [path.name for path in (tmp_path / "units").iterdir()] == ["default"]


def test_a_unit_on_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UnitNotWritable, match="cannot be written"):
        create_unit(defined(tmp_path / "file" / "unit"))


def test_a_unit_that_refuses_writing_is_not_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_unit(defined(tmp_path / "unit"))
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(UnitNotWritable):
        open_unit(defined(tmp_path / "unit"))
