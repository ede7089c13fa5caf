"""The examples in `deploy/`: they start what there is, and give it the time it takes."""

import shlex
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path, PureWindowsPath

import pytest
from typer.testing import CliRunner

from dicom_scp.family import GRACE_SECONDS

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "deploy" / "backupdr-scp.service"
WINDOWS = ROOT / "deploy" / "backupdr-scp.xml"


def values(path: Path) -> dict[str, str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def is_accepted(arguments: list[str]) -> bool:
    """Whether the command line takes these options; asked with one more that ends it at once."""
    from cli.app import app

    return CliRunner().invoke(app, [*arguments, "--help"]).exit_code == 0


def test_the_unit_file_starts_the_server_that_tells_systemd_and_lets_it_drain() -> None:
    unit = values(UNIT)
    program, *arguments = shlex.split(unit["ExecStart"])
    assert Path(program).name == "backupdr"
    assert arguments[0] == "scp"
    assert is_accepted(arguments)
    assert not is_accepted([*arguments, "--no-such-option"])
    assert (unit["Type"], unit["NotifyAccess"]) == ("notify", "main")
    assert unit["KillMode"] == "mixed", "the first process ends the others, in order"
    assert float(unit["TimeoutStopSec"]) >= GRACE_SECONDS + 5
    assert float(unit["WatchdogSec"]) >= 4 * 15, "half of it is longer than it waits for its own answer"
    assert unit["ReadWritePaths"] == dict([unit["Environment"].split("=", 1)])["BACKUPDR_HOME"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_understands_every_line_of_the_unit_file(tmp_path: Path) -> None:
    text = UNIT.read_text(encoding="utf-8").replace(
        "/opt/backupdr/.venv/bin/backupdr", shutil.which("true") or ""
    )
    copy = tmp_path / UNIT.name
    copy.write_text(text, encoding="utf-8")
    said = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True, timeout=60
    )
    ours = [line for line in (said.stdout + said.stderr).splitlines() if UNIT.name in line]
    assert not ours


def test_the_windows_service_starts_the_server_and_lets_it_drain() -> None:
    service = ElementTree.parse(WINDOWS).getroot()
    assert PureWindowsPath(service.findtext("executable") or "").name == "backupdr.exe"
    assert is_accepted((service.findtext("arguments") or "").split())
    assert float((service.findtext("stoptimeout") or "").split()[0]) >= GRACE_SECONDS + 5
