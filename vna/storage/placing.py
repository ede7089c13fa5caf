"""Giving a file its name on a unit: by link where it lies on the same file system, else by copy.

A name is made or it is not; nothing that exists is ever written to.
"""

import errno
import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vna.errors import SourceDiffers
from vna.part10 import header_length
from vna.storage.digests import Digests
from vna.storage.unit import DamagedFile, NewFile

_NO_LINK = {
    errno.EXDEV,
    errno.EPERM,
    errno.EOPNOTSUPP,
    errno.ENOTSUP,
    errno.EMLINK,
    errno.EACCES,
    errno.ENOSYS,
}
_BUFFER = 1 << 20


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file is on the unit, and which damaged files of its version stand beside it.

    `found` = what was read of an equal file that stood there already.
    """

    path: str
    found: Digests | None = None
    damaged: tuple[DamagedFile, ...] = ()


def make_name(file: NewFile, final: Path, staging: Callable[[], Path]) -> bool:
    """Give the file the name `final`; False if that name exists already.

    A copy is written to `staging()` first, checked against the digest it must have, and synced.
    """
    try:
        os.link(file.source, final)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
    else:
        return True
    if final.exists():
        return False
    temporary = staging()
    try:
        _copy(file, temporary)
        return _link_or_create(temporary, final)
    finally:
        temporary.unlink(missing_ok=True)


def _copy(file: NewFile, temporary: Path) -> None:
    """Copy with the time of the last change, digesting on the way."""
    with file.source.open("rb", buffering=0) as source, temporary.open("xb", buffering=0) as target:
        buffer = memoryview(bytearray(min(_BUFFER, max(file.size, 1))))
        digest = hashlib.sha256()
        skip = -1
        while count := source.readinto(buffer):
            if skip < 0:
                skip = header_length(buffer[:count])
            digest.update(buffer[min(skip, count) : count])
            skip -= min(skip, count)
            _write_all(target.fileno(), buffer[:count])
        if digest.hexdigest() != file.dataset_sha256:
            raise SourceDiffers(str(file.source), file.dataset_sha256, digest.hexdigest())
        stat = os.fstat(source.fileno())
        os.utime(temporary, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        os.fsync(target.fileno())


def _write_all(descriptor: int, content: memoryview) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


def _link_or_create(temporary: Path, final: Path) -> bool:
    try:
        os.link(temporary, final)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
    else:
        return True
    # No links at all here (SMB, exFAT). Killed in between, this leaves a part of a file; the next attempt reads
    # it, finds it damaged and takes a further name.
    try:
        with temporary.open("rb") as source, final.open("xb") as target:
            shutil.copyfileobj(source, target, _BUFFER)
            target.flush()
            stat = os.fstat(source.fileno())
            os.utime(final, ns=(stat.st_atime_ns, stat.st_mtime_ns))
            os.fsync(target.fileno())
    except FileExistsError:
        return False
    return True
