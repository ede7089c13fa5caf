"""What goes past the page cache, and what is hashed by another thread, is byte for byte what came."""

import errno
import hashlib
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

import vna.spool.newfile as newfile
from vna.spool.digest import Digest
from vna.spool.newfile import STAGING_BYTES, WORTH_STAGING, NewFile

SIZES = [
    0,
    1,
    4095,
    4096,
    WORTH_STAGING - 1,
    WORTH_STAGING,
    WORTH_STAGING + 1,
    STAGING_BYTES - 1,
    STAGING_BYTES,
    STAGING_BYTES + 1,
    3 * STAGING_BYTES,
    3 * STAGING_BYTES + 4097,
]


def write(path: Path, content: bytes, piece: int) -> NewFile:
    """In pieces from one buffer that is used again, as the P-DATA loop does."""
    file = NewFile(str(path))
    buffer = bytearray(piece)
    for start in range(0, len(content), piece):
        part = content[start : start + piece]
        buffer[: len(part)] = part
        halves = [memoryview(buffer)[: len(part) // 2], memoryview(buffer)[len(part) // 2 : len(part)]]
        file.write(halves, is_last=start + piece >= len(content))
        buffer[:] = b"\xff" * piece
    if not content:
        file.write([], is_last=True)
    file.sync()
    file.close()
    return file


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("piece", [100_000, 2**20, 5 * 2**20])
def test_a_file_is_what_was_written_whatever_its_size_and_pieces(
    tmp_path: Path, size: int, piece: int
) -> None:
    content = random.Random(size).randbytes(size)
    file = write(tmp_path / "file", content, piece)
    assert file.size == size
    assert (tmp_path / "file").read_bytes() == content


def test_a_large_object_goes_past_the_cache_where_the_file_system_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[bool] = []
    bypass = newfile.bypass_cache

    def seen(descriptor: int, *, on: bool) -> bool:
        done = bypass(descriptor, on=on)
        modes.append(done)
        return done

    monkeypatch.setattr(newfile, "bypass_cache", seen)
    write(tmp_path / "small", bytes(10_000), 2**20)
    assert modes == []
    write(tmp_path / "large", bytes(500_000), 2**20)
    if modes[0]:
        assert modes == [True, False]  # the rest behind the last whole block is written as usual


def refuses_blocks(errors: list[OSError]) -> Callable[[int, memoryview], int]:
    write_to = os.write

    def refuse(descriptor: int, data: memoryview) -> int:
        if errors:
            raise errors.pop()
        return write_to(descriptor, data)

    return refuse


def test_a_file_system_that_does_not_take_whole_blocks_gets_them_as_usual(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = [OSError(errno.EINVAL, "Invalid argument")]
    monkeypatch.setattr(newfile, "bypass_cache", lambda _descriptor, *, on: on)
    monkeypatch.setattr("os.write", refuses_blocks(errors))
    content = random.Random(1).randbytes(2_500_001)
    file = write(tmp_path / "file", content, 2**20)
    assert not errors
    assert file.is_cached
    assert (tmp_path / "file").read_bytes() == content


def test_a_disk_that_takes_a_part_gets_the_rest_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_to = os.write
    monkeypatch.setattr(newfile, "bypass_cache", lambda _descriptor, *, on: on)
    monkeypatch.setattr("os.write", lambda descriptor, data: write_to(descriptor, data[:100_000]))
    content = random.Random(2).randbytes(2_500_001)
    write(tmp_path / "file", content, 2**20)
    assert (tmp_path / "file").read_bytes() == content


def test_where_no_buffer_is_free_the_file_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(newfile, "_stages", newfile._Stages(1))  # pyright: ignore[reportPrivateUsage]
    first, second = NewFile(str(tmp_path / "first")), NewFile(str(tmp_path / "second"))
    first.write([memoryview(bytes(500_000))])
    second.write([memoryview(b"x" * 500_000)])
    for file in (second, first):
        file.write([memoryview(b"end")], is_last=True)
        file.close()
    assert (tmp_path / "second").read_bytes() == b"x" * 500_000 + b"end"
    assert (tmp_path / "first").read_bytes() == bytes(500_000) + b"end"


def test_a_buffer_is_given_back_however_a_file_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = newfile._Stages(1)  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(newfile, "_stages", stages)
    for number in range(3):
        file = NewFile(str(tmp_path / str(number)))
        file.write([memoryview(bytes(500_000))])
        file.close()
        file.close()
    stage = stages.take()
    assert stage is not None
    assert stages.take() is None


@pytest.mark.parametrize("sizes", [[10], [300_000, 5], [300_000] * 20])
def test_a_digest_is_that_of_all_bytes_in_their_order(sizes: list[int]) -> None:
    digest, plain = Digest(), hashlib.sha256()
    done: list[int] = []
    for number, size in enumerate(sizes):
        content = random.Random(number).randbytes(size)
        plain.update(content)
        view = memoryview(content)
        digest.update_while([view[: size // 3], view[size // 3 :]], lambda n=number: done.append(n))
    assert digest.hexdigest() == plain.hexdigest()
    assert done == list(range(len(sizes)))


def test_work_that_fails_fails_and_the_next_instance_is_hashed() -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for _ in range(3):
        with pytest.raises(OSError, match="No space"):
            Digest().update_while([memoryview(bytes(500_000))], full)
    digest = Digest()
    digest.update_while([memoryview(bytes(500_000))], lambda: None)
    assert digest.hexdigest() == hashlib.sha256(bytes(500_000)).hexdigest()
