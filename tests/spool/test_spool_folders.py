"""Locks, sweeping, expectations and what is set aside."""

import datetime
import json
import os
import threading
import time
from pathlib import Path

import pytest
from arranging_spool import CT, EXPLICIT, open_association, receive, sha256

from vna.errors import DiskFull, SpoolUnusable
from vna.spool import Expectation, Spool, dataset_offset, read_association


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", reserve_bytes=0)


def expectation(study: str = "1.2", run: str = "run-1", hours: float = 1) -> Expectation:
    expires = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=hours)
    return Expectation(study_instance_uid=study, run=run, unit="default", expires=expires)


def test_folders_come_oldest_first_and_nothing_else_is_one(spool: Spool) -> None:
    (spool.path / "aside").mkdir(parents=True)
    (spool.path / "expect").mkdir()
    associations = [open_association(spool) for _ in range(5)]
    assert {path.name for path in spool.folders()} == {a.record.ulid for a in associations}
    assert [path.name for path in spool.folders()] == sorted(a.record.ulid for a in associations)
    for association in associations:
        association.close()


def test_a_folder_is_open_as_long_as_its_association(spool: Spool) -> None:
    with open_association(spool) as association:
        receive(association, "1.2.3")
        assert spool.is_open(association.path)
        assert not spool.sweep(association.path)
    assert not spool.is_open(association.path)
    assert spool.received(association.path)


def test_an_association_that_brought_nothing_leaves_nothing(spool: Spool) -> None:
    with open_association(spool):
        pass
    assert list(spool.folders()) == []


def test_a_partial_of_an_open_association_is_not_swept(spool: Spool) -> None:
    with open_association(spool) as association:
        writer = association.begin(CT, "1.2.3", EXPLICIT, "CT_1")
        assert not spool.sweep(association.path)
        writer.write(b"rest")
        writer.commit()


def test_a_partial_that_was_left_is_swept_and_complete_files_stay(spool: Spool) -> None:
    with open_association(spool) as association:
        receive(association, "1.2.3")
        association.begin(CT, "1.2.4", EXPLICIT, "CT_1").write(b"half")
    assert not spool.sweep(association.path)
    assert not list(association.path.glob("*.part"))
    (file,) = spool.received(association.path)
    spool.remove_received(file)
    assert spool.sweep(association.path)
    assert not association.path.exists()


def test_a_folder_with_something_unknown_in_it_is_never_removed(spool: Spool) -> None:
    with open_association(spool) as association:
        (association.path / "note.txt").write_text("a person's")
    assert not spool.sweep(association.path)
    assert (association.path / "note.txt").exists()


def test_only_one_at_a_time_may_index_a_folder(spool: Spool) -> None:
    with open_association(spool) as association:
        receive(association, "1.2.3")
    lock = spool.lock_for_indexing(association.path)
    assert lock is not None
    assert spool.lock_for_indexing(association.path) is None
    assert not spool.sweep(association.path)
    spool.remove_received(spool.received(association.path)[0])
    assert spool.sweep(association.path, indexing=lock)
    lock.release()
    assert spool.lock_for_indexing(association.path) is None
    assert not association.path.exists()


def test_sweepers_and_receivers_at_the_same_time_lose_nothing(spool: Spool) -> None:
    stop = threading.Event()

    def keep_sweeping() -> None:
        while not stop.is_set():
            for folder in spool.folders():
                spool.sweep(folder)

    sweepers = [threading.Thread(target=keep_sweeping) for _ in range(2)]
    for sweeper in sweepers:
        sweeper.start()
    try:
        for number in range(40):
            with open_association(spool) as association:
                receive(association, f"1.2.{number}")
                assert read_association(association.path) == association.record
    finally:
        stop.set()
        for sweeper in sweepers:
            sweeper.join()
    wanted = {f"1.2.{number}" for number in range(40)}
    assert spool.pending(wanted) == wanted


def test_pending_tells_of_the_asked_ones_those_still_here(spool: Spool) -> None:
    with open_association(spool) as association:
        receive(association, "1.2.3")
        receive(association, "1.2.33")
    assert spool.pending(["1.2.3", "1.2", "9.9"]) == {"1.2.3"}


def test_expectations_are_found_by_study_until_they_expire_or_are_forgotten(spool: Spool) -> None:
    first, second = expectation(run="run-1"), expectation(run="run-2")
    for each in (first, second, expectation(study="1.2.3"), expectation(run="old", hours=-1)):
        spool.expect(each)
    assert spool.expectations("1.2") == [first, second]
    spool.forget("1.2", "run-1")
    assert spool.expectations("1.2") == [second]


def test_an_expectation_holds_for_what_came_before_it_expired_however_much_later_that_is_placed(
    spool: Spool,
) -> None:
    with open_association(spool) as association:
        receive(association, "1.2.3")
    opened_at = datetime.datetime.fromtimestamp(spool.opened_at(association.path), datetime.UTC)
    second = datetime.timedelta(seconds=1)
    before = Expectation("1.2", "before", "default", opened_at - second)
    after = Expectation("1.2", "after", "default", opened_at + second)
    spool.expect(before)
    spool.expect(after)
    time.sleep(1.1)
    assert spool.expectations("1.2") == []
    assert spool.expectations("1.2", association.path) == [after]
    assert spool.sweep_expectations() == 1
    assert spool.expectations("1.2", association.path) == [after]
    spool.remove_received(spool.received(association.path)[0])
    spool.sweep(association.path)
    assert spool.sweep_expectations() == 1
    assert not list(spool.path.glob("expect/*.json"))


def test_an_expectation_that_is_renewed_while_old_ones_are_swept_stays(spool: Spool) -> None:
    """The sweeper has read the old one for the last time when the run says again what it expects."""
    spool.expect(expectation(hours=-1))
    renewed = expectation()
    read = Path.read_bytes
    renewing = threading.Thread(target=spool.expect, args=(renewed,))
    reads: list[Path] = []

    def read_and_renew(path: Path) -> bytes:
        content = read(path)
        reads.append(path)
        if len(reads) == 2:
            renewing.start()
            renewing.join(0.5)
        return content

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Path, "read_bytes", read_and_renew)
        spool.sweep_expectations()
        renewing.join(10)
    assert spool.expectations("1.2") == [renewed]


def test_a_hostile_study_uid_names_no_file_outside(spool: Spool) -> None:
    hostile = expectation(study="../../x", run="../../run")
    spool.expect(hostile)
    assert spool.expectations("../../x") == [hostile]
    assert [path.parent for path in spool.path.parent.rglob("*.json")] == [spool.path / "expect"]


def test_an_expectation_that_was_killed_while_written_goes_at_a_later_start(spool: Spool) -> None:
    spool.expect(expectation())
    old, young = (spool.path / "expect" / f"1.2.run.json.{number}.tmp" for number in (1, 2))
    old.write_text("{")
    young.write_text("{")
    long_ago = time.time() - 7200
    os.utime(old, (long_ago, long_ago))
    spool.prepare()
    assert not old.exists()
    assert young.exists(), "its writer may be alive"
    assert len(spool.expectations("1.2")) == 1


def test_an_unreadable_expectation_is_passed_over_and_reported(spool: Spool) -> None:
    spool.expect(expectation())
    (spool.path / "expect" / "1.2.broken.json").write_text("{")
    assert len(spool.expectations("1.2")) == 1
    with pytest.raises(SpoolUnusable, match=r"1\.2\.broken\.json"):
        spool.check()


def test_what_is_set_aside_is_kept_once_with_its_reason(spool: Spool) -> None:
    for uid in ("1.2.3", "1.2.3", "1.2.4"):
        with open_association(spool) as association:
            receive(association, uid, b"garbage")
        (file,) = spool.received(association.path)
        spool.set_aside(
            file.path,
            dataset_sha256=file.dataset_sha256,
            sop_instance_uid=file.sop_instance_uid,
            reason="no data set",
            association=read_association(association.path),
        )
        assert not file.path.exists()
        assert spool.sweep(association.path)
    assert [entry.sop_instance_uid for entry in spool.aside()] == ["1.2.3", "1.2.4"]
    assert {entry.reason for entry in spool.aside()} == {"no data set"}
    assert {entry.calling_aet for entry in spool.aside()} == {"CT_1"}
    (kept,) = (spool.path / "aside").glob("*.dcm")
    assert kept.name == f"{sha256(b'garbage')}.dcm"
    assert kept.read_bytes()[dataset_offset(kept) :] == b"garbage"


def test_a_damaged_file_aside_does_not_count_as_the_copy(spool: Spool) -> None:
    with open_association(spool) as association:
        receive(association, "1.2.3", b"garbage")
    (file,) = spool.received(association.path)
    (spool.path / "aside").mkdir()
    (spool.path / "aside" / f"{file.dataset_sha256}.dcm").write_bytes(b"rotten")
    spool.set_aside(
        file.path, dataset_sha256=file.dataset_sha256, sop_instance_uid="1.2.3", reason="no data set"
    )
    (entry,) = spool.aside()
    assert entry.path.read_bytes().endswith(b"garbage")


def test_setting_aside_may_be_interrupted_before_the_move_and_repeated(spool: Spool) -> None:
    with open_association(spool) as association:
        receive(association, "1.2.3", b"garbage")
    (file,) = spool.received(association.path)
    facts = {"dataset_sha256": file.dataset_sha256, "sop_instance_uid": "1.2.3", "reason": "no data set"}
    spool.set_aside(file.path, **facts)
    spool.set_aside(file.path, **facts)
    assert len(spool.aside()) == 1
    spool.aside()[0].path.unlink()
    assert spool.aside() == []


def test_a_damaged_record_of_a_file_aside_still_tells_the_file(spool: Spool) -> None:
    with open_association(spool) as association:
        receive(association, "1.2.3", b"garbage")
    (file,) = spool.received(association.path)
    spool.set_aside(file.path, dataset_sha256=file.dataset_sha256, sop_instance_uid="1.2.3", reason="why")
    (record,) = (spool.path / "aside").glob("*.json")
    record.write_text("{")
    (entry,) = spool.aside()
    assert "damaged" in entry.reason


@pytest.mark.parametrize("content", ["", "[]", '{"ulid": "x"}', json.dumps({"calling_aet": "A"})])
def test_a_damaged_association_record_is_a_value_error(spool: Spool, content: str) -> None:
    with open_association(spool) as association:
        (association.path / "association.json").write_text(content)
        with pytest.raises(ValueError):
            read_association(association.path)


def test_a_pull_needs_twice_the_reserve(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vna.spool.space.free_bytes", lambda _: (3 * 2**30, 2**36))
    spool = Spool(spool.path)
    assert spool.reserve == 2 * 2**30
    spool.check_space()
    spool.check_space(2**30)
    with pytest.raises(DiskFull):
        spool.check_space(2**30 + 1)
    with pytest.raises(DiskFull):
        spool.may_pull()


def test_the_reserve_of_a_large_disk_is_two_percent(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vna.spool.space.free_bytes", lambda _: (2**45, 2**45))
    assert Spool(spool.path).reserve == 2**45 * 2 // 100


def test_a_spool_on_a_network_file_system_is_refused(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vna.spool.spool.file_system_kind", lambda _: "nfs4")
    with pytest.raises(SpoolUnusable, match="nfs4"):
        spool.check()


def test_a_spool_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("")
    with pytest.raises(SpoolUnusable):
        Spool(tmp_path / "spool").check()
