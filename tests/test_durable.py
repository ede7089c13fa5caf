"""Small files whole or not at all, folders for good: what is synced, and in which order."""

import os
import stat
import threading
from pathlib import Path

import pytest

import vna.durable
from vna.durable import make_folder, write_durably


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files and folders that were synced, in their order."""
    seen: list[Path] = []
    fsync = os.fsync

    def see(descriptor: int) -> None:
        seen.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", see)
    monkeypatch.setattr(vna.durable, "_durable", set())
    return seen


def test_a_file_is_synced_before_it_has_its_name_and_its_name_afterwards(
    tmp_path: Path, synced: list[Path]
) -> None:
    write_durably(tmp_path / "a.json", b"old")
    write_durably(tmp_path / "a.json", b"new")
    assert (tmp_path / "a.json").read_bytes() == b"new"
    assert [path == tmp_path for path in synced] == [False, True, False, True]
    assert all(path.name.startswith("a.json.") and path.suffix == ".tmp" for path in synced[::2])
    assert list(tmp_path.iterdir()) == [tmp_path / "a.json"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_durably(tmp_path / "a.json", b"old")

    def fails(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="Input/output"):
        write_durably(tmp_path / "a.json", b"new")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_a_secret_is_never_readable_by_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[int] = []
    fsync = os.fsync

    def see(descriptor: int) -> None:
        modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", see)
    write_durably(tmp_path / "key", b"secret", mode=0o600)
    assert modes[0] == 0o600
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


def test_two_threads_that_write_one_file_do_not_mix(tmp_path: Path) -> None:
    errors: list[OSError] = []

    def write(content: bytes) -> None:
        try:
            for _ in range(30):
                write_durably(tmp_path / "a", content)
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(bytes([65 + n]) * 100_000,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(set((tmp_path / "a").read_bytes())) == 1
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_every_new_name_on_the_way_to_a_folder_is_synced_and_only_once(
    tmp_path: Path, synced: list[Path]
) -> None:
    make_folder(tmp_path / "a" / "b")
    assert synced[-2:] == [tmp_path, tmp_path / "a"]
    before = len(synced)
    make_folder(tmp_path / "a" / "b")
    assert len(synced) == before


def test_a_folder_whose_maker_was_killed_before_its_sync_is_synced_by_the_next(
    tmp_path: Path, synced: list[Path]
) -> None:
    (tmp_path / "a").mkdir()
    make_folder(tmp_path / "a")
    assert synced == [tmp_path]


def test_a_folder_that_went_away_is_made_again(tmp_path: Path, synced: list[Path]) -> None:
    make_folder(tmp_path / "a")
    (tmp_path / "a").rmdir()
    make_folder(tmp_path / "a")
    assert (tmp_path / "a").is_dir()
    assert synced[-1] == tmp_path


def test_the_folder_that_stands_for_a_mounted_unit_is_never_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        make_folder(tmp_path / "unit" / "aa" / "1.2", below=tmp_path / "unit")
    assert not list(tmp_path.iterdir())
    (tmp_path / "unit").mkdir()
    make_folder(tmp_path / "unit" / "aa" / "1.2", below=tmp_path / "unit")
    assert (tmp_path / "unit" / "aa" / "1.2").is_dir()
