"""`backupdr simulate-pacs` from the shell: it says where it is, ends on Ctrl-C, and names what is wrong."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from pynetdicom import AE

from cli.__main__ import main
from vna.simulated_pacs import FAULTS, write_studies

COMMAND = [sys.executable, "-m", "cli", "simulate-pacs"]
ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def started(home: Path, *arguments: str) -> Generator[tuple["subprocess.Popen[str]", str]]:
    environment = {**os.environ, "BACKUPDR_HOME": str(home)}
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline()
    finally:
        process.kill()
        process.communicate()


def refused(capsys: pytest.CaptureFixture[str], arguments: Sequence[str]) -> str:
    """What the command says instead of starting; it runs in this process, which is quicker."""
    with pytest.raises(SystemExit) as ended:
        main(["simulate-pacs", *arguments])
    assert ended.value.code not in {0, None}
    told = capsys.readouterr()
    assert "Traceback" not in told.err + told.out
    return (told.err + told.out).strip()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_says_where_it_listens_and_ends_quickly_when_told(tmp_path: Path, number: signal.Signals) -> None:
    write_studies(tmp_path / "data", 3)
    with started(
        tmp_path / "home", "--data", str(tmp_path / "data"), "--aet", "REHEARSAL", "--port", "0"
    ) as (
        process,
        sentence,
    ):
        assert "3 studies and 6 instances" in sentence
        port = int(re.search(r"port (\d+)", sentence)[1])
        ae = AE()
        ae.add_requested_context("1.2.840.10008.1.1")
        association = ae.associate("127.0.0.1", port, ae_title="REHEARSAL")
        assert association.send_c_echo().Status == 0x0000
        began = time.monotonic()
        process.send_signal(number)  # with an association open
        out, err = process.communicate(timeout=10)
        assert process.returncode == 0
        assert time.monotonic() - began < 8
        assert "Traceback" not in out + err
        association.abort()


def test_every_fault_is_listed_with_its_usage() -> None:
    done = subprocess.run([*COMMAND, "--list-faults"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert [
        line.partition(":")[0].partition("=")[0].partition("[")[0] for line in done.stdout.splitlines()
    ] == list(FAULTS)


def test_wrong_input_is_one_sentence_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKUPDR_HOME", str(tmp_path / "home"))
    data = tmp_path / "data"
    data.mkdir()
    (tmp_path / "file").write_text("no folder")
    given = ["--data", str(data)]
    for arguments, words in [
        ([], "folder of DICOM files is needed"),
        (["--data", str(tmp_path / "nowhere")], "is not a folder"),
        (["--data", str(tmp_path / "file")], "is not a folder"),
        ([*given, "--aet", "MUCH-TOO-LONG-AE-TITLE"], "AE title"),
        ([*given, "--port", "70000"], "--port"),
        ([*given, "--fault", "misbehave"], "cap-answers"),
        ([*given, "--fault", "slow=fast"], "slow=SECONDS"),
        ([*given, "--destination", "AET=host"], "AET=HOST:PORT"),
    ]:
        told = refused(capsys, arguments)
        assert words in told
        assert told.count("\n") == 0, told


def test_a_port_held_by_another_program_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKUPDR_HOME", str(tmp_path / "home"))
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        told = refused(capsys, ["--data", str(tmp_path), "--port", str(port)])
    assert f"Port {port}" in told
    assert told.count("\n") == 0
