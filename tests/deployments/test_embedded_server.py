"""A command without a running server: it brings its own, and clears up after a killed one."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deployments.environment import process_environment
from deployments.server import running_server

pytestmark = [
    pytest.mark.prefect,
    pytest.mark.skipif(os.name != "posix", reason="kill -9 is of POSIX"),
]

HERE = Path(__file__).resolve().parent

HANGING_COMMAND = """
import sys
from pathlib import Path
from deployments.server import embedded_server
home, told = Path(sys.argv[1]), sys.argv[2]
with embedded_server(home) as api_url:
    print(api_url, flush=True)
    from sample_flows import hang
    hang(told, str(home))
"""

REMOTE = ["--aet", "MAINPACS", "--host", "pacs.example", "--port", "104"]


def environment(home: Path) -> dict[str, str]:
    paths = os.pathsep.join([str(HERE), str(HERE.parents[1])])
    return {**process_environment(home, None), "PYTHONPATH": paths}


def listens(api_url: str) -> bool:
    from deployments.server import answers

    return answers(api_url, 1.0)


def test_a_killed_command_takes_its_server_along_and_the_next_one_marks_its_run(tmp_path: Path) -> None:
    home, told = tmp_path / "home", tmp_path / "told"
    killed = subprocess.Popen(
        [sys.executable, "-c", HANGING_COMMAND, str(home), str(told)],
        env=environment(home),
        stdout=subprocess.PIPE,
    )
    assert killed.stdout is not None
    api_url = killed.stdout.readline().decode().strip()
    deadline = time.monotonic() + 60
    while not (told.exists() and told.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.1)
    run_id = told.read_text(encoding="utf-8")
    assert run_id
    assert listens(api_url)
    assert running_server(home) is None, "an embedded server is its command's own"

    killed.send_signal(signal.SIGKILL)
    killed.wait()
    deadline = time.monotonic() + 15
    while listens(api_url) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not listens(api_url), "the server outlived its killed parent"

    began = time.monotonic()
    added = subprocess.run(
        [sys.executable, "-m", "cli", "remote", "add", "Main_PACS", *REMOTE, "--json"],
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=120,
    )
    seconds = time.monotonic() - began
    assert added.returncode == 0, added.stderr
    assert json.loads(added.stdout)["name"] == "main-pacs"
    assert seconds < 30, "10 s on an idle machine"

    with contextlib.closing(sqlite3.connect(home / "prefect" / "prefect.db")) as database:
        states = database.execute("select replace(id, '-', ''), state_type from flow_run").fetchall()
    assert states == [(run_id.replace("-", ""), "CRASHED")]
    site = json.loads((home / "site.json").read_text(encoding="utf-8"))
    assert site["remotes"]["main-pacs"]["aet"] == "MAINPACS"
