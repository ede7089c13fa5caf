"""Writing: what is complete, durable and acknowledged, and what a killed process leaves."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pydicom
import pytest
from arranging_spool import CT, EXPLICIT, open_association, receive, sha256

from vna.errors import DiskFull, SpoolUnusable
from vna.identity import safe_name
from vna.spool import Spool, dataset_offset, read_association

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CHECKPOINTS = ("spool.opened", "spool.part_synced", "spool.renamed", "spool.folder_synced")


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", reserve_bytes=0)


def test_a_received_file_is_our_header_and_the_bytes_as_they_came(spool: Spool) -> None:
    data = os.urandom(300_001)
    with open_association(spool) as association:
        writer = association.begin(CT, "1.2.3", EXPLICIT, "CT_1")
        for start in range(0, len(data), 70_000):
            writer.write(memoryview(data)[start : start + 70_000])
        receipt = writer.commit()
        (file,) = spool.received(association.path)
    content = file.path.read_bytes()
    offset = dataset_offset(file.path)
    assert content[offset:] == data
    assert (file.sop_instance_uid, file.dataset_sha256, file.size) == ("1.2.3", sha256(data), len(content))
    assert file.path.name == receipt.file_name == f"1.2.3.{sha256(data)}.dcm"
    assert receipt.header_sha256 == sha256(content[:offset])
    assert receipt.dataset_sha256 == sha256(data)
    assert receipt.size == len(content)
    assert receipt.association == association.record.ulid


def test_the_header_says_who_sent_and_how_it_was_encoded(spool: Spool) -> None:
    with open_association(spool) as association:
        receive(association, "1.2.3", b"")
        (file,) = spool.received(association.path)
    meta = pydicom.dcmread(file.path).file_meta
    assert meta.MediaStorageSOPClassUID == CT
    assert meta.MediaStorageSOPInstanceUID == "1.2.3"
    assert meta.TransferSyntaxUID == EXPLICIT
    assert meta.SourceApplicationEntityTitle == "CT_1"
    assert meta.ImplementationVersionName.startswith("BACKUPDR")


def test_the_record_of_who_sent_is_there_before_the_first_file(spool: Spool) -> None:
    with open_association(spool, "MR_7") as association:
        record = read_association(association.path)
    assert record.calling_aet == "MR_7"
    assert record == association.record


@pytest.mark.parametrize("uid", ["../../../etc/passwd", "1.2\x003", "1." * 40, "", "a/b", "é"])
def test_an_invalid_uid_names_nothing_but_its_own_safe_file(spool: Spool, uid: str) -> None:
    with open_association(spool) as association:
        receive(association, uid)
        (file,) = spool.received(association.path)
        assert file.path.parent == association.path
    assert file.sop_instance_uid == safe_name(uid)
    assert spool.pending([uid]) == {uid}
    stray = [path for path in spool.path.parent.rglob("*") if spool.path not in path.parents]
    assert stray == [spool.path]


def test_the_same_instance_twice_in_an_association_is_one_file_and_succeeds_twice(spool: Spool) -> None:
    with open_association(spool) as association:
        first, again = receive(association, "1.2.3"), receive(association, "1.2.3")
        assert first == again
        assert len(spool.received(association.path)) == 1


def test_another_content_under_the_same_uid_is_another_file(spool: Spool) -> None:
    with open_association(spool) as association:
        receive(association, "1.2.3", b"before")
        receive(association, "1.2.3", b"after")
        assert {file.dataset_sha256 for file in spool.received(association.path)} == {
            sha256(b"before"),
            sha256(b"after"),
        }


def test_the_same_bytes_in_another_transfer_syntax_do_not_replace_the_first(spool: Spool) -> None:
    with open_association(spool) as association:
        receive(association, "1.2.3", syntax="1.2.840.10008.1.2.4.90")
        receive(association, "1.2.3", syntax="1.2.840.10008.1.2.4.91")
        files = spool.received(association.path)
    assert {pydicom.dcmread(file.path, force=True).file_meta.TransferSyntaxUID for file in files} == {
        "1.2.840.10008.1.2.4.90",
        "1.2.840.10008.1.2.4.91",
    }
    assert {file.sop_instance_uid for file in files} == {"1.2.3"}


def test_an_instance_that_was_not_committed_is_nowhere(spool: Spool) -> None:
    with open_association(spool) as association:
        writer = association.begin(CT, "1.2.3", EXPLICIT, "CT_1")
        writer.write(b"half")
        assert spool.received(association.path) == []
        assert spool.pending(["1.2.3"]) == set()
        writer.abandon()
    assert list(spool.folders()) == []


def test_below_the_reserve_nothing_is_begun(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", reserve_bytes=0)
    with open_association(spool) as association:
        full = Spool(spool.path, reserve_bytes=2**62)
        association.spool = full
        with pytest.raises(DiskFull):
            association.begin(CT, "1.2.3", EXPLICIT, "CT_1")


def test_space_is_looked_at_again_while_a_large_object_comes(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = iter([10 * 2**30, 1 * 2**30])
    monkeypatch.setattr("vna.spool.space.free_bytes", lambda _: (next(free), 2**40))
    monkeypatch.setattr("vna.spool.writing.CHECK_EVERY", 2**20)
    with open_association(Spool(spool.path, reserve_bytes=2 * 2**30)) as association:
        writer = association.begin(CT, "1.2.3", EXPLICIT, "CT_1")
        with pytest.raises(DiskFull):
            writer.write(bytes(2 * 2**20))
        writer.abandon()


def test_a_disk_that_fills_in_the_middle_of_a_file_is_said_so_and_leaves_nothing(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_association(spool) as association:
        writer = association.begin(CT, "1.2.3", EXPLICIT, "CT_1")

        def no_space(*_: object) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.write", no_space)
        monkeypatch.setattr("os.writev", no_space)
        with pytest.raises(DiskFull):
            writer.write(bytes(3 * 2**20))
        writer.abandon()
        assert not list(association.path.glob("*.part"))


def test_a_sync_that_fails_is_no_success(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_association(spool) as association:
        writer = association.begin(CT, "1.2.3", EXPLICIT, "CT_1")

        def broken(_: int) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr("vna.spool.writing.os.fsync", broken)
        with pytest.raises(SpoolUnusable):
            writer.commit()
        assert spool.received(association.path) == []


def test_every_step_happens_in_the_order_of_the_contract(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, rename = os.fsync, os.replace
    with open_association(spool) as association:
        writer = association.begin(CT, "1.2.3", EXPLICIT, "CT_1")

        def seen_fsync(descriptor: int) -> None:
            steps.append("folder" if Path(f"/proc/self/fd/{descriptor}").readlink().is_dir() else "file")
            fsync(descriptor)

        def seen_rename(path: str, target: str) -> None:
            steps.append("rename")
            rename(path, target)

        monkeypatch.setattr("os.fsync", seen_fsync)
        monkeypatch.setattr("os.replace", seen_rename)
        writer.commit()
        monkeypatch.undo()
    assert steps == ["file", "rename", "folder"]


_RECEIVE = """
import sys
from pathlib import Path
from arranging_spool import open_association, receive
from vna.spool import Spool
with open_association(Spool(Path(sys.argv[1]), reserve_bytes=0)) as association:
    for number in range(3):
        receive(association, f"1.2.{number}", b"x" * 100_000)
        print(f"1.2.{number}", flush=True)
"""


@pytest.mark.parametrize(
    "at", [f"{name}:{count}" for name in CHECKPOINTS[1:] for count in (1, 3)] + ["spool.opened"]
)
def test_what_was_acknowledged_survives_a_kill_at_every_step(tmp_path: Path, at: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _RECEIVE, str(tmp_path / "spool")],
        env=os.environ | {"BACKUPDR_KILL_AT": at, "PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}"},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    assert ended.returncode == -signal.SIGKILL
    spool = Spool(tmp_path / "spool", reserve_bytes=0)
    acknowledged = set(ended.stdout.split())
    assert acknowledged <= spool.pending([f"1.2.{number}" for number in range(3)])
    for folder in spool.folders():
        assert not spool.is_open(folder)
        for file in spool.received(folder):
            assert sha256(file.path.read_bytes()[dataset_offset(file.path) :]) == file.dataset_sha256
            spool.remove_received(file)
        assert spool.sweep(folder)
    assert list(spool.folders()) == []
