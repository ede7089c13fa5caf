"""What every kind of storage unit must do. A new kind adds itself to `KINDS` and passes all of it."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.uid import ImplicitVRLittleEndian, JPEGBaseline8Bit

from tests.storage.received_files import STUDY, content, new_file
from vna.errors import CopyUnreadable, SourceDiffers, UnitUnavailable
from vna.site import UnitDefinition
from vna.storage import MARKER, Received, StorageUnit, Stored, create_unit, study_folder_of


def linking(path: Path, monkeypatch: pytest.MonkeyPatch) -> StorageUnit:
    return create_unit(UnitDefinition(name="unit", path=path))


def copying(path: Path, monkeypatch: pytest.MonkeyPatch) -> StorageUnit:
    """The unit lies on another file system than the spool."""
    link = os.link

    def refuse(source: Path, target: Path) -> None:
        if "spool" in str(source):
            raise OSError(errno.EXDEV, "another file system")
        link(source, target)

    monkeypatch.setattr(os, "link", refuse)
    return create_unit(UnitDefinition(name="unit", path=path))


def without_links(path: Path, monkeypatch: pytest.MonkeyPatch) -> StorageUnit:
    """A share that knows no hard links."""

    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EOPNOTSUPP, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    return create_unit(UnitDefinition(name="unit", path=path))


KINDS = (linking, copying, without_links)


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def unit(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StorageUnit:
    kind: Callable[[Path, pytest.MonkeyPatch], StorageUnit] = request.param
    return kind(tmp_path / "unit", monkeypatch)


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def test_a_file_is_stored_byte_for_byte_under_its_uids_and_the_digest_of_its_content(unit, spool) -> None:
    file = new_file(spool)
    (placed,) = unit.put([file])
    assert placed.path == (f"{study_folder_of(STUDY)}/{STUDY}.1/{STUDY}.1.1.{file.dataset_sha256[:16]}.dcm")
    with unit.open(placed.path) as stored:
        assert stored.read() == file.source.read_bytes()
    assert placed.digests.dataset_sha256 == file.dataset_sha256
    assert placed.digests.size == file.size
    assert not placed.was_there


def test_a_file_larger_than_any_buffer_is_stored_whole(unit, spool) -> None:
    file = new_file(spool, pixels=bytes(range(256)) * 10_001)
    (placed,) = unit.put([file])
    with unit.open(placed.path) as stored:
        assert stored.read() == file.source.read_bytes()


def test_a_large_batch_is_read_back_file_by_file_in_its_order(unit, spool) -> None:
    batch = [new_file(spool, sop=f"{STUDY}.1.{n}", pixels=bytes([n]) * (1 << 20)) for n in range(1, 7)]
    placed = unit.put(batch)
    assert [place.file for place in placed] == batch
    for place in placed:
        with unit.open(place.path) as stored:
            assert stored.read() == place.file.source.read_bytes()


def test_the_source_stays_until_its_owner_removes_it(unit, spool) -> None:
    file = new_file(spool)
    unit.put([file])
    assert file.source.exists()


def test_storing_twice_is_storing_once(unit, spool) -> None:
    file = new_file(spool)
    (first,) = unit.put([file])
    (second,) = unit.put([file])
    assert second.path == first.path
    assert list(unit.iterate()) == [first.path]


def test_the_same_content_from_another_sender_is_the_same_file(unit, spool) -> None:
    (first,) = unit.put([new_file(spool / "a", calling_aet="ONE")])
    (second,) = unit.put([new_file(spool / "b", calling_aet="OTHER")])
    assert second.was_there
    assert second.path == first.path
    assert second.digests.header_sha256 == first.digests.header_sha256
    assert not second.damaged


def test_another_content_of_an_instance_stands_beside_the_first(unit, spool) -> None:
    placed = unit.put([new_file(spool, PatientName="A"), new_file(spool, PatientName="B")])
    assert len({one.path for one in placed}) == 2
    assert sorted(unit.iterate()) == sorted(one.path for one in placed)


def test_equal_bytes_in_another_transfer_syntax_are_another_file_and_nothing_is_called_damaged(
    unit, spool
) -> None:
    (first,) = unit.put([new_file(spool / "a", pixels=b"")])
    data, digest = content(pixels=b"")
    other = new_file(spool / "b", pixels=b"")
    header = data[: -(len(data) - 144 - int.from_bytes(data[140:144], "little"))]
    changed = header.replace(b"1.2.840.10008.1.2.1\0", JPEGBaseline8Bit.encode()[:20].ljust(20, b"\0"))
    other.source.write_bytes(changed + data[len(header) :])
    jpeg = JPEGBaseline8Bit[:20]
    identity = type(other.identity)(STUDY, f"{STUDY}.1", f"{STUDY}.1.1", "1", jpeg)
    (second,) = unit.put([type(other)(other.source, identity, digest, other.size)])
    assert second.path != first.path
    assert not second.damaged


def test_a_damaged_file_of_the_wanted_name_stays_and_the_good_copy_gets_a_further_name(
    unit, spool, tmp_path
) -> None:
    (first,) = unit.put([new_file(spool / "a")])
    damage(tmp_path / "unit" / first.path)
    before = (tmp_path / "unit" / first.path).read_bytes()
    (second,) = unit.put([new_file(spool / "b")])
    assert [file.path for file in second.damaged] == [first.path]
    assert second.path == first.path.replace(".dcm", ".1.dcm")
    assert (tmp_path / "unit" / first.path).read_bytes() == before
    found = unit.digest(second.path)
    assert found is not None
    assert found.dataset_sha256 == second.file.dataset_sha256


def test_a_damaged_header_is_seen_by_the_digest_in_the_manifest(unit, spool, tmp_path) -> None:
    (first,) = unit.put([new_file(spool / "a")])
    unit.write_manifest(study_folder_of(STUDY), [stored(first)])
    path = tmp_path / "unit" / first.path
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.unlink()
    path.write_bytes(data)
    (second,) = unit.put([new_file(spool / "b")])
    assert [file.path for file in second.damaged] == [first.path]


def test_a_file_that_its_own_disk_damaged_is_not_stored(unit, spool) -> None:
    file = new_file(spool)
    damage(file.source)
    with pytest.raises(SourceDiffers, match="no more what was received"):
        unit.put([file])
    assert list(unit.iterate()) == []
    assert file.source.exists()


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_uids_that_are_no_uids_name_nothing_outside_the_unit(unit, spool, tmp_path) -> None:
    (placed,) = unit.put([new_file(spool, study="../../../etc", series="manifest", sop="/x/../y")])
    assert (tmp_path / "unit" / placed.path).resolve().is_relative_to(tmp_path / "unit")
    assert "/manifest/" not in placed.path
    assert list(unit.iterate()) == [placed.path]


def test_without_its_marker_the_unit_is_unavailable_and_nothing_is_written(unit, spool, tmp_path) -> None:
    file = new_file(spool)
    (tmp_path / "unit" / MARKER).unlink()
    with pytest.raises(UnitUnavailable, match="mounted"):
        unit.put([file])
    with pytest.raises(UnitUnavailable):
        unit.write_manifest(study_folder_of(STUDY), [])
    with pytest.raises(UnitUnavailable):
        list(unit.iterate())
    with pytest.raises(UnitUnavailable):
        unit.stat("aa/1/2/3.dcm")
    assert list((tmp_path / "unit").iterdir()) == []


def test_what_is_not_there_is_none_and_what_leads_outside_is_refused(unit) -> None:
    assert unit.stat("aa/1/2/3.dcm") is None
    assert unit.digest("aa/1/2/3.dcm") is None
    with pytest.raises(CopyUnreadable):
        unit.open("../outside")


def test_manifests_give_back_what_was_written_oldest_first(unit, spool) -> None:
    (placed,) = unit.put([new_file(spool)])
    folder = study_folder_of(STUDY)
    first = unit.write_manifest(folder, [stored(placed), received(placed)])
    second = unit.write_manifest(folder, [received(placed)])
    assert unit.manifests(folder) == sorted([first, second])
    manifest = unit.read_manifest(first)
    assert manifest.events == (stored(placed), received(placed))
    assert not manifest.damage
    assert list(unit.iterate()) == [placed.path]
    assert [study.path for study in unit.study_folders()] == [folder]


def test_a_transfer_syntax_is_read_from_the_header(unit, spool) -> None:
    (placed,) = unit.put([new_file(spool, transfer_syntax=ImplicitVRLittleEndian)])
    assert placed.digests.transfer_syntax_uid == ImplicitVRLittleEndian


def damage(path: Path) -> None:
    """As a failing disk does it: same size, same time, another content."""
    stat = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 0xFF
    path.unlink()
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def stored(placed) -> Stored:
    found, identity = placed.digests, placed.file.identity
    return Stored(
        at="2024-01-31T00:00:00.000000Z",
        path=placed.path,
        version_id="0" * 32,
        study_instance_uid=identity.study_instance_uid,
        series_instance_uid=identity.series_instance_uid,
        sop_instance_uid=identity.sop_instance_uid,
        sop_class_uid=identity.sop_class_uid,
        transfer_syntax_uid=identity.transfer_syntax_uid,
        dataset_sha256=found.dataset_sha256,
        header_sha256=found.header_sha256,
        header_length=found.header_length,
        size=found.size,
        mtime_ns=found.mtime_ns,
        attributes={"PatientName": "Æ\u2028名"},
    )


def received(placed) -> Received:
    return Received(
        at="2024-01-31T00:00:00.000000Z",
        version_id="0" * 32,
        study_instance_uid=placed.file.identity.study_instance_uid,
        sop_instance_uid=placed.file.identity.sop_instance_uid,
        run="run",
        association="01",
        calling_aet="SENDER",
        called_aet="BACKUPDR",
        peer_address="127.0.0.1",
        listener="",
        server="",
        episode="",
        size=placed.digests.size,
        is_new_version=False,
    )
