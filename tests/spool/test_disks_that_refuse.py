"""What the spool does when its own disk refuses, rots or runs out, and what it then believes."""

import errno
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from arranging_spool import CT, EXPLICIT, open_association, receive

from vna.errors import DiskFull, SpoolUnusable
from vna.platform import KeptFolder
from vna.spool import ReceivedFile, Spool, dataset_offset

MIB = 2**20
DATA = b"x" * 1000


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", reserve_bytes=0)


def refuse(*_: object, **__: object) -> None:
    raise OSError(errno.EMFILE, "Too many open files")


def received(spool: Spool) -> ReceivedFile:
    (folder,) = spool.folders()
    (file,) = spool.received(folder)
    return file


METHODS: dict[str, Callable[[Spool, ReceivedFile], object]] = {
    "prepare": lambda spool, _: spool.prepare(),
    "check": lambda spool, _: spool.check(),
    "reserve": lambda spool, _: spool.reserve,
    "check_space": lambda spool, _: spool.check_space(),
    "may_pull": lambda spool, _: spool.may_pull(),
    "open_association": lambda spool, _: open_association(spool),
    "folders": lambda spool, _: list(spool.folders()),
    "has_record": lambda spool, file: spool.has_record(file.path.parent),
    "is_open": lambda spool, file: spool.is_open(file.path.parent),
    "received": lambda spool, file: spool.received(file.path.parent),
    "page": lambda spool, file: spool.page(file.path.parent),
    "is_replaced": lambda spool, file: spool.is_replaced(file),
    "has_received": lambda spool, file: spool.has_received(file.path.parent),
    "pending": lambda spool, _: spool.pending(["1.2.3"], for_certain=True),
    "expectations": lambda spool, file: spool.expectations("1.2", file.path.parent),
    "sweep_expectations": lambda spool, _: spool.sweep_expectations(),
    "forget": lambda spool, _: spool.forget("1.2", "run"),
    "lock_for_indexing": lambda spool, file: spool.lock_for_indexing(file.path.parent),
    "remove_received": lambda spool, file: spool.remove_received(file),
    "sweep": lambda spool, file: spool.sweep(file.path.parent),
    "set_aside": lambda spool, file: spool.set_aside(
        file.path, dataset_sha256=file.dataset_sha256, sop_instance_uid="1.2.3", reason="why"
    ),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_disk_that_refuses_everything_is_said_as_an_unusable_spool_by_every_method(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with open_association(spool) as association:
        receive(association, "1.2.3")
    file = received(spool)
    with monkeypatch.context() as patched:
        for call in ("open", "scandir", "listdir", "stat", "unlink", "mkdir", "rename", "replace", "statvfs"):
            patched.setattr(os, call, refuse)
        for call in ("stat", "is_dir", "exists"):
            patched.setattr(Path, call, refuse)
        with pytest.raises(SpoolUnusable, match="Too many open files"):
            METHODS[name](spool, file)
    assert received(spool) == file


def test_an_association_that_cannot_be_tidied_ends_all_the_same_and_its_folder_is_swept_later(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    association = open_association(spool)
    association.begin(CT, "1.2.3", EXPLICIT, "CT_1").write(DATA)
    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING):
        patched.setattr("vna.spool.spool.try_lock", refuse)
        association.close()
    assert "Too many open files" in caplog.text
    assert association.record.ulid in caplog.text
    assert not spool.is_open(association.path)
    assert spool.sweep(association.path)


def test_a_folder_that_does_not_close_lets_its_lock_go_all_the_same(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    association = open_association(spool)
    receive(association, "1.2.3")
    with monkeypatch.context() as patched:
        patched.setattr(KeptFolder, "close", refuse)
        association.close()
    assert not spool.is_open(association.path)


@pytest.mark.parametrize("at", [0, 140, 200, -1])
def test_a_file_that_rotted_is_not_believed_when_its_instance_comes_again(spool: Spool, at: int) -> None:
    with open_association(spool) as association:
        receive(association, "1.2.3", DATA)
        path = received(spool).path
        content = bytearray(path.read_bytes())
        content[at or slice(132)] = content[at] ^ 1 if at else bytes(132)
        path.write_bytes(content)
        receipt = receive(association, "1.2.3", DATA)
        path = association.path / receipt.file_name
        assert path.read_bytes()[dataset_offset(path) :] == DATA
        assert not list(association.path.glob("*.part"))


def test_after_a_name_that_did_not_become_durable_it_is_given_anew(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_association(spool) as association:
        with monkeypatch.context() as patched:
            patched.setattr(KeptFolder, "sync", refuse)
            with pytest.raises(SpoolUnusable):
                receive(association, "1.2.3", DATA)
        before = received(spool)
        receive(association, "1.2.3", DATA)
        assert spool.is_replaced(before), "the kernel tells a failed sync once, and forgets it"
        assert received(spool).dataset_sha256 == before.dataset_sha256


def test_a_name_that_is_given_anew_while_its_old_file_goes_aside_is_not_taken_away(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_association(spool) as association:
        receive(association, "1.2.3", DATA)
        file = received(spool)

        def again(step: str) -> None:
            if step == "aside.linked":
                receive(association, "1.2.3", DATA)

        monkeypatch.setattr("vna.spool.aside.checkpoint", again)
        spool.set_aside(file.path, dataset_sha256=file.dataset_sha256, sop_instance_uid="1.2.3", reason="why")
        assert file.path.exists()
    assert len(spool.aside()) == 1


def test_what_another_indexer_set_aside_at_the_same_moment_is_not_written_over(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_association(spool) as association:
        receive(association, "1.2.3", DATA)
    file = received(spool)
    theirs = spool.path / "aside" / f"{file.dataset_sha256}.dcm"

    def quicker(step: str) -> None:
        if step == "aside.described" and not theirs.exists():
            theirs.write_bytes(b"rotten")

    monkeypatch.setattr("vna.spool.aside.checkpoint", quicker)
    entry = spool.set_aside(
        file.path, dataset_sha256=file.dataset_sha256, sop_instance_uid="1.2.3", reason="why"
    )
    assert theirs.read_bytes() == b"rotten"
    assert entry.path.read_bytes().endswith(DATA)
    assert not file.path.exists()


def test_many_senders_together_go_no_further_below_the_reserve_than_one(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Field note 35: twelve senders of 60 MiB each never reach 64 MiB of their own. Here all is a sixteenth of that."""
    unit = MIB // 16
    for module in ("space", "writing"):
        monkeypatch.setattr(f"vna.spool.{module}.CHECK_EVERY", 64 * unit)
    reserve, room = 300 * unit, 340 * unit
    written = 0
    monkeypatch.setattr("vna.spool.space.free_bytes", lambda _: (reserve + room - written, 2**40))
    spool = Spool(spool.path, reserve)
    associations = [open_association(spool) for _ in range(12)]
    writers = [association.begin(CT, "1.2.3", EXPLICIT, "CT_1") for association in associations]
    piece = bytes(unit)
    lowest, refused = reserve, 0
    sizes = dict.fromkeys(range(len(writers)), 0)
    for _ in range(60):
        for number in list(sizes):
            try:
                writers[number].write(piece)
            except DiskFull:
                refused += 1
                writers[number].abandon()
                written -= sizes.pop(number)
            else:
                sizes[number] += unit
                written += unit
            lowest = min(lowest, reserve + room - written)
    assert lowest >= reserve - 64 * unit
    assert 1 <= refused < 12
    for association in associations:
        association.close()


def test_below_the_reserve_every_writer_is_refused_until_there_is_room(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 10 * MIB
    monkeypatch.setattr("vna.spool.space.free_bytes", lambda _: (free, 2**40))
    spool = Spool(spool.path, 5 * MIB)
    with open_association(spool) as first, open_association(spool) as second:
        writer = first.begin(CT, "1.2.3", EXPLICIT, "CT_1")
        free = 4 * MIB
        with pytest.raises(DiskFull):
            second.begin(CT, "1.2.4", EXPLICIT, "CT_1")
        with pytest.raises(DiskFull):
            writer.write(DATA)
        writer.abandon()
        free = 10 * MIB
        receive(first, "1.2.3")
