"""The peers start, do their part, and stop; where they are absent this is told once."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from peers.dcmtk import DicomPeer
from peers.orthanc import Orthanc
from peers.programs import QUICK, missing

from vna.simulated_pacs import EXPLICIT_LITTLE, GeneratedStudy, dataset_sha256, write_studies

ROOT = Path(__file__).resolve().parents[2]


def studies(folder: Path) -> list[GeneratedStudy]:
    return write_studies(folder, 3, modalities=["CT"], transfer_syntaxes=[EXPLICIT_LITTLE])


def files(made: list[GeneratedStudy]) -> list[Path]:
    return [instance.path for study in made for instance in study.instances]


def run(*command: str) -> str:
    done = subprocess.run(command, env=QUICK, capture_output=True, text=True, errors="replace", check=True)
    return done.stdout + done.stderr


def test_dcmqrscp_holds_the_files_and_moves_them_to_storescp(
    dcmqrscp: Callable[..., DicomPeer], storescp: Callable[..., DicomPeer], tmp_path: Path
) -> None:
    made = studies(tmp_path / "studies")
    receiver = storescp()
    pacs = dcmqrscp(files(made), {receiver.aet: (receiver.host, receiver.port)})
    connect = ("-aec", pacs.aet, pacs.host, str(pacs.port))
    assert (
        run("findscu", "-S", *connect, "-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID").count(
            "Pending"
        )
        == 3
    )
    uid = made[0].study_instance_uid
    run(
        "movescu",
        "-S",
        "-aem",
        receiver.aet,
        *connect,
        "-k",
        "QueryRetrieveLevel=STUDY",
        "-k",
        f"StudyInstanceUID={uid}",
    )
    assert {dataset_sha256(path) for path in receiver.files()} == {
        i.dataset_sha256 for i in made[0].instances
    }


def test_orthanc_holds_what_is_uploaded_and_answers_dicom(
    orthanc: Callable[..., Orthanc], storescp: Callable[..., DicomPeer], tmp_path: Path
) -> None:
    made = studies(tmp_path / "studies")
    receiver = storescp()
    pacs = orthanc({receiver.aet: (receiver.host, receiver.port)})
    for path in files(made):
        pacs.upload(path)
    assert pacs.get("/statistics")["CountInstances"] == 6
    run("echoscu", "-aec", pacs.aet, pacs.host, str(pacs.port))
    pacs.post(f"/modalities/{receiver.aet.lower()}/store", pacs.get("/studies"))
    assert len(receiver.files()) == 6


def test_each_test_has_a_postgresql_database_of_its_own(postgresql_url: str) -> None:
    with psycopg.connect(postgresql_url.replace("+psycopg", "")) as connection:
        connection.execute("CREATE TABLE only_here (n int)")
        assert connection.execute("SHOW fsync").fetchone() == ("on",)


def test_the_next_test_finds_its_database_empty(postgresql_url: str) -> None:
    with psycopg.connect(postgresql_url.replace("+psycopg", "")) as connection:
        [found] = connection.execute(
            "SELECT count(*) FROM pg_tables WHERE tablename = 'only_here'"
        ).fetchall()
        assert found == (0,)


SAMPLE = """
import pytest

@pytest.mark.peer("dcmtk")
def test_marked(): pass

def test_by_fixture(dcmqrscp): pass

def test_storescp(storescp): pass

def test_plain(): pass
"""


def session(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A test run on a machine without any peer."""
    (tmp_path / "peers").symlink_to(ROOT / "tests/peers")
    shutil.copy(ROOT / "tests/conftest.py", tmp_path)
    (tmp_path / "test_sample.py").write_text(SAMPLE)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
        "test_sample.py",
    ]
    clean = {name: value for name, value in os.environ.items() if name != "BACKUPDR_REQUIRE_PEERS"}
    return subprocess.run(
        command, cwd=tmp_path, env={**clean, "PATH": "", **environment}, capture_output=True, text=True
    )


def test_absent_peers_are_skipped_by_name_and_told_once(tmp_path: Path) -> None:
    done = session(tmp_path)
    assert done.returncode == 0, done.stdout
    assert "1 passed, 3 skipped" in done.stdout
    assert done.stdout.count("dcmtk (3 tests)") == 1


def test_absent_peers_fail_where_they_are_required(tmp_path: Path) -> None:
    done = session(tmp_path, BACKUPDR_REQUIRE_PEERS="1")
    assert done.returncode == 1
    assert done.stdout.count("dcmtk is required but not installed (no dcmqrscp") >= 3
    assert "skipped" not in done.stdout


@pytest.mark.peer("dcmtk")
def test_a_marker_alone_is_enough() -> None:
    assert not missing("dcmtk")
