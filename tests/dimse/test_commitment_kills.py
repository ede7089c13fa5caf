"""kill -9 of the server between any two steps of a storage commitment: after its next start the requester is told."""

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from dimse.arranging_commitment import CT, MemoryIndex, Requester, action, committing, until
from pynetdicom.association import Association

from vna.spool import Commitments, Spool

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kill -9")

ROOT = Path(__file__).resolve().parents[2]
KILLED_WHEN_IT_CALLS = (
    "commitment.requested",
    "commitment.judged",
    "commitment.reported",
    "commitment.forgotten",
)

SERVER = """
import sys, threading
from pathlib import Path
from dimse.arranging_commitment import CT, MemoryIndex, Requester, committing
from vna.spool import Spool
spool, port = Spool(Path(sys.argv[1]), reserve_bytes=0), int(sys.argv[2])
with committing(spool, MemoryIndex({"1.5.1": CT}), Requester().remote(port)) as ours:
    print(ours.port, flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def server(spool: Path, requester_port: int, kill_at: str) -> Generator[tuple[int, "subprocess.Popen[str]"]]:
    environment = {**os.environ, "BACKUPDR_KILL_AT": kill_at, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    command = [sys.executable, "-c", SERVER, str(spool), str(requester_port)]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            yield int(process.stdout.readline()), process
        finally:
            process.stdin.close()
            process.wait(30)


def ask_whatever_happens(association: Association) -> int | None:
    """The status, or None where the server was killed before it came."""
    status, _ = association.send_n_action(
        action((CT, "1.5.1")), 1, "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1"
    )
    return status.get("Status")


def test_every_step_of_a_commitment_is_one_at_which_we_kill() -> None:
    sources = [*(ROOT / "vna" / "dimse").glob("*commit*.py"), ROOT / "vna" / "spool" / "commitments.py"]
    text = "".join(path.read_text(encoding="utf-8") for path in sources)
    assert set(re.findall(r'\bcheckpoint\("([^"]+)"\)', text)) == set(KILLED_WHEN_IT_CALLS)


@pytest.mark.parametrize("on", ["same association", "new association"])
@pytest.mark.parametrize("boundary", KILLED_WHEN_IT_CALLS)
def test_killed_at_any_step_the_requester_is_told_after_the_next_start(
    tmp_path: Path, boundary: str, on: str
) -> None:
    requester, spool = Requester(), Spool(tmp_path / "spool", reserve_bytes=0)
    with requester.listening() as remote:
        with (
            server(spool.path, remote.port, boundary) as (port, process),
            requester.asking(port) as association,
        ):
            status = ask_whatever_happens(association)
            assert status == (None if boundary == "commitment.requested" else 0x0000)
            if on == "new association" and association.is_established:
                association.release()
            assert process.wait(30) == -9
        told_before = len(requester.reports)
        assert told_before == (0 if boundary in KILLED_WHEN_IT_CALLS[:2] else 1)
        with committing(spool, MemoryIndex({"1.5.1": CT}), remote):
            until(lambda: Commitments(spool).waiting() == [])
    # forgotten is forgotten; one whose acknowledgement was not noted is told once more
    assert len(requester.reports) == (2 if boundary == "commitment.reported" else 1)
    assert {(report.event_type, *report.committed) for report in requester.reports} == {(1, "1.5.1")}
