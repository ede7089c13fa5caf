"""Received files by name: `<affected SOP Instance UID>.<dataset SHA-256>.dcm` in an association's folder."""

import heapq
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vna.errors import SpoolUnusable
from vna.spool.refusals import as_spool_error

# The number is there where the same data set came under two headers in one association.
_NAME = re.compile(r"(?P<sop>.+?)\.(?P<sha>[0-9a-f]{64})(\.[0-9]+)?\.dcm\Z")


@dataclass(frozen=True, slots=True)
class ReceivedFile:
    """One instance that was acknowledged, or could have been; `size` in bytes, header included.

    `stamp` tells it from the same instance received once more, which takes over the name.
    `sop_instance_uid` is the command's as the file name tells it: an invalid one reads `invalid-…`, and the
    true one is in the File Meta Information.
    """

    path: Path
    sop_instance_uid: str
    dataset_sha256: str
    size: int
    stamp: tuple[int, int]


def received_name(safe_sop_instance_uid: str, dataset_sha256: str, number: int = 1) -> str:
    """The name of a complete file; from the second header of the same data set on it carries a number."""
    distinct = f".{number}" if number > 1 else ""
    return f"{safe_sop_instance_uid}.{dataset_sha256}{distinct}.dcm"


def complete_files(folder: Path) -> Iterator[ReceivedFile]:
    """The complete files of a folder in no order; none if it is gone. Raises `SpoolUnusable` naming it."""
    try:
        entries = os.scandir(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _unreadable(folder, error) from error
    with entries, as_spool_error(folder):
        for entry in entries:
            if (found := _NAME.match(entry.name)) is None:
                continue
            try:
                facts = entry.stat(follow_symlinks=False)
            except FileNotFoundError:  # placed and removed while we looked
                continue
            yield _received(Path(entry.path), found, facts)


def received_after(folder: Path, after: str, most: int) -> list[ReceivedFile]:
    """At most so many complete files by name, all behind the name `after`. Raises `SpoolUnusable` naming the folder."""
    with as_spool_error(folder):
        names = heapq.nsmallest(most, (name for name in _names(folder) if name > after and _NAME.match(name)))
        return [file for name in names if (file := _facts(folder / name)) is not None]


def is_replaced(file: ReceivedFile) -> bool:
    """Whether its name is another file's by now, or nobody's. Raises `OSError`."""
    try:
        facts = file.path.stat(follow_symlinks=False)
    except FileNotFoundError:
        return True
    return _stamp(facts) != file.stamp


def _facts(path: Path) -> ReceivedFile | None:
    found = _NAME.match(path.name)
    try:
        facts = path.stat(follow_symlinks=False)
    except FileNotFoundError:  # placed and removed while we looked
        return None
    return _received(path, found, facts) if found else None


def _received(path: Path, name: re.Match[str], facts: os.stat_result) -> ReceivedFile:
    return ReceivedFile(path, name["sop"], name["sha"], facts.st_size, _stamp(facts))


def _stamp(facts: os.stat_result) -> tuple[int, int]:
    return facts.st_ino, facts.st_mtime_ns


def _names(folder: Path) -> Iterator[str]:
    """The names in a folder, as they come from the disk; none if it is gone."""
    try:
        entries = os.scandir(folder)
    except FileNotFoundError:
        return
    with entries:
        for entry in entries:
            yield entry.name


def complete_names(folder: Path) -> Iterator[str]:
    """Only the SOP Instance UIDs of the complete files, without asking the file system for more than names.

    None if the folder is gone. Raises `SpoolUnusable` naming it.
    """
    try:
        names = os.listdir(folder)  # noqa: PTH208 - a Path for each of 50,000 names is what costs here
    except FileNotFoundError:
        return
    except OSError as error:
        raise _unreadable(folder, error) from error
    for name in names:
        if (found := _NAME.match(name)) is not None:
            yield found["sop"]


def _unreadable(folder: Path, error: OSError) -> SpoolUnusable:
    return SpoolUnusable(str(folder), error.strerror or str(error))
