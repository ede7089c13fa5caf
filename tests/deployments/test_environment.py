"""The environment Prefect gets: everything in the home, nothing told outside, keys not in the database."""

import os
import stat
from pathlib import Path

import pytest

from deployments.environment import API_URL, encryption_key, prefect_environment, process_environment
from deployments.names import document_name
from vna.errors import SettingsError


def test_everything_of_prefect_lies_in_the_home_and_nothing_is_told_outside(tmp_path: Path) -> None:
    environment = prefect_environment(tmp_path)
    assert environment["PREFECT_HOME"] == str(tmp_path / "prefect")
    assert str(tmp_path / "prefect") in environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"]
    assert environment["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert environment["DO_NOT_TRACK"] == "1"


def test_the_key_of_block_secrets_is_made_once_and_only_ours_to_read(tmp_path: Path) -> None:
    key = encryption_key(tmp_path)
    assert encryption_key(tmp_path) == key
    assert prefect_environment(tmp_path)["PREFECT_SERVER_ENCRYPTION_KEY"] == key
    assert encryption_key(tmp_path / "another") != key
    if os.name == "posix":
        assert stat.S_IMODE((tmp_path / "keys" / "prefect").stat().st_mode) == 0o600
        assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700


def test_settings_of_another_prefect_do_not_reach_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(API_URL, "http://elsewhere:4200/api")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "someone:else")
    environment = process_environment(tmp_path, None)
    assert API_URL not in environment
    assert "PREFECT_API_AUTH_STRING" not in environment
    assert environment["BACKUPDR_HOME"] == str(tmp_path)


def test_our_own_server_is_never_reached_through_a_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "hospital.local")
    environment = process_environment(tmp_path, "http://127.0.0.1:4200/api")
    assert environment["no_proxy"].split(",") == ["hospital.local", "127.0.0.1", "localhost"]
    assert environment["NO_PROXY"] == environment["no_proxy"]


@pytest.mark.parametrize(
    ("typed", "stored"),
    [
        ("Main_PACS", "main-pacs"),
        ("main-pacs", "main-pacs"),
        ("Röntgen 2.OG", "rontgen-2-og"),
        ("--X--", "x"),
    ],
)
def test_a_name_that_people_type_becomes_one_that_prefect_stores(typed: str, stored: str) -> None:
    assert document_name(typed) == stored


def test_a_name_of_which_nothing_is_left_is_refused() -> None:
    with pytest.raises(SettingsError, match="letters or digits"):
        document_name("__")
