"""`backupdr up`: everything in the foreground, once a home, and nothing left of it afterwards."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.prefect

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def accepts(port: int) -> bool:
    with socket.socket() as caller:
        caller.settimeout(2)
        return caller.connect_ex(("127.0.0.1", port)) == 0


def test_up_serves_until_told_is_refused_twice_and_leaves_nothing_running(tmp_path: Path) -> None:
    home, scp_port = tmp_path / "home", free_port()
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "BACKUPDR_HOME": str(home),
        "BACKUPDR_SCP_PORT": str(scp_port),
        "BACKUPDR_SCP_BIND": "127.0.0.1",
    }
    command = [sys.executable, "-m", "cli"]
    said: list[str] = []
    with subprocess.Popen(
        [*command, "up", "--port", str(free_port())], env=environment, stdout=subprocess.PIPE, text=True
    ) as up:
        assert up.stdout is not None
        for line in up.stdout:
            said.append(line)
            if "Everything is up" in line:
                break
        text = "".join(said)
        assert f"port {scp_port}" in text, text
        prefect_port = int(text.partition("http://127.0.0.1:")[2].split()[0])
        assert accepts(prefect_port)
        deadline = time.monotonic() + 30
        while not accepts(scp_port) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert accepts(scp_port)

        second = subprocess.run([*command, "up"], env=environment, capture_output=True, text=True, timeout=60)
        assert second.returncode == 2
        assert "already running" in second.stderr

        added = subprocess.run(
            [*command, "remote", "add", "pacs", "--aet", "PACS", "--host", "127.0.0.1", "--port", "104"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert added.returncode == 0, added.stderr
        assert "pacs" in json.loads((home / "site.json").read_text(encoding="utf-8"))["remotes"]

        up.send_signal(signal.SIGINT)
        rest, _ = up.communicate(timeout=60)
        assert up.returncode == 0
        assert "Everything is stopped." in rest
    assert not accepts(prefect_port)
    assert not accepts(scp_port)
    assert not (home / "prefect" / "server.json").exists()
