"""The site as a running service sees it: the last good one, whatever happens to its file."""

import errno
import time
from pathlib import Path

import pytest

from vna.errors import SettingsError
from vna.settings import Settings
from vna.site import RemoteServer, Site, WatchedSite, publish_site


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


def publish(settings: Settings, *names: str) -> None:
    facts = {"aet": "PACS", "host": "192.0.2.7", "port": 104}
    publish_site(
        settings, Site(remotes={name: RemoteServer.model_validate({"name": name, **facts}) for name in names})
    )


def names(watched: WatchedSite) -> list[str]:
    """After its next look."""
    time.sleep(1.05)
    return list(watched().remotes)


def test_a_change_is_seen_and_what_cannot_be_used_leaves_the_last_good_one(settings: Settings) -> None:
    publish(settings, "one")
    watched = WatchedSite(settings)
    assert list(watched().remotes) == ["one"]
    publish(settings, "one", "two")
    assert names(watched) == ["one", "two"]
    settings.site_path.write_text("{", encoding="utf-8")
    assert names(watched) == ["one", "two"]
    assert str(settings.site_path) in watched.problem
    publish(settings, "three")
    assert names(watched) == ["three"]
    assert watched.problem == ""


def test_a_start_with_a_file_that_cannot_be_used_takes_the_last_good_one(settings: Settings) -> None:
    publish(settings, "one")
    WatchedSite(settings)
    settings.site_path.write_text("{", encoding="utf-8")
    watched = WatchedSite(settings)
    assert names(watched) == ["one"]
    assert str(settings.site_path) in watched.problem
    publish(settings, "two")
    assert names(watched) == ["two"]
    assert watched.problem == ""


def test_a_file_that_is_gone_does_not_lock_everybody_out(settings: Settings) -> None:
    publish(settings, "one")
    watched = WatchedSite(settings)
    settings.site_path.unlink()
    assert names(watched) == ["one"]
    assert "is gone" in watched.problem
    assert names(WatchedSite(settings)) == ["one"]


def test_before_anything_was_published_the_site_is_empty_and_that_is_no_problem(settings: Settings) -> None:
    watched = WatchedSite(settings)
    assert (names(watched), watched.problem) == ([], "")
    publish(settings, "one")
    assert names(watched) == ["one"]


def test_without_any_good_one_it_cannot_start(settings: Settings) -> None:
    settings.home.mkdir()
    settings.site_path.write_text("{", encoding="utf-8")
    with pytest.raises(SettingsError, match="cannot be used"):
        WatchedSite(settings)


def test_a_disk_that_takes_no_copy_of_it_does_not_take_it_out_of_use(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(settings, "one")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("vna.site.write_durably", refuse)
    watched = WatchedSite(settings)
    assert (names(watched), watched.problem) == (["one"], "")
