"""The command as people and scripts meet it: quick, and one sentence when something is wrong."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cli.console import NOTHING_DONE
from vna.errors import UnitUnavailable
from vna.jobs.outcome import RetrievalOutcome
from vna.settings import Settings
from vna.site import RemoteServer, Site, UnitDefinition, publish_site

ROOT = Path(__file__).resolve().parents[2]
RETRIEVE_KEYS = set(RetrievalOutcome().as_json())


def backupdr(home: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "cli", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "BACKUPDR_HOME": str(home), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def home(tmp_path: Path) -> Path:
    settings = Settings(home=tmp_path / "home")
    remote = RemoteServer(name="main-pacs", aet="MAINPACS", host="127.0.0.1", port=1)
    unit = UnitDefinition(name="nas1", path=tmp_path / "nas1")
    publish_site(settings, Site(remotes={"main-pacs": remote}, units={"nas1": unit}))
    return settings.home


def one_sentence(text: str) -> str:
    lines = text.strip().splitlines()
    assert len(lines) == 1, text
    assert lines[0].endswith(".")
    assert "Traceback" not in text
    return lines[0]


def test_help_answers_at_once_and_names_every_command(tmp_path: Path) -> None:
    fastest = 60.0
    for _ in range(3):  # the machine may be busy with other tests
        began = time.monotonic()
        answer = backupdr(tmp_path, "--help")
        fastest = min(fastest, time.monotonic() - began)
    for command in ("demo", "up", "scp", "worker", "remote", "unit", "retrieve", "verify", "check"):
        assert command in answer.stdout
    assert "rebuild-catalog" in answer.stdout
    assert "simulate-pacs" in answer.stdout
    assert fastest < 0.3


@pytest.mark.parametrize(
    "command",
    [
        *("demo", "up", "scp", "worker", "retrieve", "verify", "rebuild-catalog", "simulate-pacs", "check"),
        *("remote add", "remote list", "remote echo", "remote remove", "unit add", "unit list"),
    ],
)
def test_every_command_explains_itself(tmp_path: Path, command: str) -> None:
    answer = backupdr(tmp_path, *command.split(), "--help")
    assert answer.returncode == 0
    assert answer.stdout.startswith("Usage: backupdr")
    assert not (tmp_path / "prefect").exists()


def test_lists_read_the_site_file_alone(home: Path) -> None:
    listed = backupdr(home, "remote", "list")
    assert "main-pacs: MAINPACS at 127.0.0.1:1" in listed.stdout
    units = json.loads(backupdr(home, "unit", "list", "--json").stdout.splitlines()[-1])
    assert [unit["name"] for unit in units["units"]] == ["default", "nas1"]
    assert not (home / "prefect").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["retrieve", "nowhere"], "no remote server named 'nowhere'"),
        (["retrieve", "Main_PACS", "--unit", "nas9"], "no storage unit named 'nas9'"),
        (["retrieve", "Main_PACS", "--filter", "Modalty=CT"], "neither a DICOM keyword nor a tag"),
        (["retrieve", "Main_PACS", "--filter", "Modality"], "write it as Keyword=value"),
        (["retrieve", "Main_PACS", "--patient-id", ""], "it has no value"),
        (["retrieve", "Main_PACS", "--study-date", "20240230"], "not a date"),
        (["retrieve", "Main_PACS", "--study-date", "20240301-20240201"], "before it begins"),
        (["retrieve", "Main_PACS", "--study-uid", "1.2.x"], "not a UID"),
        (["retrieve", "Main_PACS", "--order", "newest"], "--order"),
        (["retrieve"], "Missing argument"),
        (["verify", "--unit", "nas9"], "no storage unit named 'nas9'"),
        (["verify", "--level", "deep"], "--level"),
        (["rebuild-catalog", "nas9"], "no storage unit named 'nas9'"),
        (["remote", "echo", "nowhere"], "no remote server named 'nowhere'"),
        (["remote", "remove", "nowhere"], "no remote server named 'nowhere'"),
        (["remote", "add", "a", "--aet", "SEVENTEEN_LETTERS", "--host", "h", "--port", "1"], "16"),
        (
            ["remote", "add", "a", "--aet", "A", "--host", "h", "--port", "70000"],
            "port: a port is a number from 1 to 65535",
        ),
        (
            ["remote", "add", "a", "--aet", "A", "--host", "h", "--port", "many"],
            "--port: a port is a number from 1 to 65535",
        ),
        (["simulate-pacs", "--port", "70000"], "--port: a port is a number from 1 to 65535"),
        (
            [*("remote", "add", "a", "--aet", "A", "--host", "h", "--port", "1"), "--pause-seconds", "long"],
            "--pause-seconds: must be a number",
        ),
        (["remote", "add", "__", "--aet", "A", "--host", "h", "--port", "104"], "letters or digits"),
        (["remote", "add", "a", "--aet", "A", "--host", "h"], "--port"),
        (["frobnicate"], "No such command 'frobnicate'"),
    ],
)
def test_a_question_that_cannot_be_right_is_answered_with_one_sentence(
    home: Path, arguments: list[str], sentence: str
) -> None:
    answer = backupdr(home, *arguments)
    assert answer.returncode == 2
    assert sentence in one_sentence(answer.stderr)
    assert not re.search("Value error|Input should|integer", answer.stderr), (
        "words of the programming language"
    )
    assert answer.stdout == ""
    assert not (home / "prefect").exists(), "nothing is started for a question that cannot be right"


@pytest.mark.parametrize(
    ("command", "keys"),
    [
        (["retrieve", "nowhere"], RETRIEVE_KEYS),
        (["retrieve", "--order"], RETRIEVE_KEYS),
        (
            ["verify", "--unit", "nowhere"],
            {"checked", "ok", "missing", "differing_size", "differing_checksum", "orphaned", "problems"},
        ),
        (["rebuild-catalog", "nowhere"], {"state", "studies", "instances", "copies", "problems"}),
        (["remote", "echo", "nowhere"], {"state", "name", "seconds", "problems"}),
        (["remote", "remove", "nowhere"], {"state", "name", "problems"}),
        (["unit", "add", "nas2", "--path", __file__], {"state", "name", "path", "new_folder", "problems"}),
        (["unit", "list", "--nope"], {"units", "problems"}),
    ],
)
def test_a_script_gets_the_object_of_success_also_when_something_is_wrong(
    home: Path, command: list[str], keys: set[str]
) -> None:
    answer = backupdr(home, *command, "--json")
    assert answer.returncode == 2
    said = json.loads(answer.stdout.splitlines()[-1])
    assert set(said) == keys
    assert said["problems"] == [one_sentence(answer.stderr)]
    assert said.get("sentence", said["problems"][0]) == said["problems"][0]


def test_the_manual_names_every_key_of_the_objects() -> None:
    manual = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
    objects = manual.partition("## Objects for scripts")[2].partition("\n## ")[0]
    for keys in NOTHING_DONE.values():
        assert [key for key in keys if f"`{key}`" not in objects] == []


def test_without_a_command_the_help_is_shown_as_it_is(tmp_path: Path) -> None:
    answer = backupdr(tmp_path)
    assert len(answer.stderr.splitlines()) > 10
    assert answer.stderr.startswith("Usage: backupdr")


def test_a_simulated_pacs_on_a_taken_port_points_to_its_own_option(home: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        answer = backupdr(home, "simulate-pacs", "--data", str(tmp_path), "--port", port)
    assert answer.returncode == 2
    sentence = one_sentence(answer.stderr)
    assert f"Port {port}" in sentence
    assert "--port" in sentence
    assert "BACKUPDR_SCP_PORT" not in sentence


@pytest.mark.parametrize("reason", ["is it mounted?", "it is gone", "it is gone."])
def test_a_sentence_of_a_unit_ends_once(reason: str) -> None:
    text = str(UnitUnavailable("nas1", "/mnt/nas1", reason))
    assert text.endswith(reason if reason[-1] in "?." else f"{reason}.")


def test_a_setting_that_cannot_be_used_is_named(home: Path) -> None:
    answer = backupdr(home, "remote", "list", BACKUPDR_SCP_PORT="many")
    assert answer.returncode == 2
    assert "scp_port" in one_sentence(answer.stderr)


def test_a_damaged_site_file_is_one_sentence(home: Path) -> None:
    (home / "site.json").write_text("{", encoding="utf-8")
    answer = backupdr(home, "remote", "list")
    assert answer.returncode == 2
    assert "site.json" in one_sentence(answer.stderr)


def test_what_nobody_expected_is_one_sentence_and_a_log(home: Path) -> None:
    program = (
        "import cli.settings_of_site as room, cli.__main__ as door\n"
        "def broken(**_): raise RuntimeError('secret of a patient')\n"
        "room.list_remotes = broken\n"
        "door.main(['remote', 'list'])\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT), "BACKUPDR_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert answer.returncode == 1
    sentence = one_sentence(answer.stderr)
    assert "RuntimeError" in sentence
    assert "secret" not in sentence
    log = (home / "logs" / "errors.log").read_text(encoding="utf-8")
    assert "in broken" in log
    assert "secret" not in log
