"""Small files that are there whole or not at all, and folders that are there for good.

What a power cut may undo is undone by it: a name without a sync of its folder is such a thing (field note 34).
"""

import contextlib
import os
import time
import uuid
from pathlib import Path

from vna.platform import sync_folder

_LEFT_OVER_SECONDS = 3600.0
_MOST_REMEMBERED = 10_000
_durable: set[Path] = set()
"""Folders that this process knows to be durable, so that they are not synced for every file."""


def write_durably(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Write or replace a file: temporary, sync, rename, sync of the folder.

    After return it survives a power cut; before, nobody sees a part of it. `mode` holds from the first byte, less
    what the process's mask takes. A killed writer leaves `<name>.<random>.tmp`, for `sweep_temporaries`.
    """
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def sweep_temporaries(folder: Path) -> None:
    """Remove what killed writers left in a folder; an hour is more than any write takes."""
    with contextlib.suppress(OSError):
        for path in folder.glob("*.tmp"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _LEFT_OVER_SECONDS:
                    path.unlink()


def make_folder(folder: Path, *, below: Path | None = None) -> None:
    """Make a folder and its parents where absent, each name durable on return.

    `below`: a folder above it that is never made, because its absence means something (a unit not mounted).
    """
    if folder in _durable:
        if folder.is_dir():
            return
        _durable.clear()
    if folder.is_dir():
        # its maker may have been killed before this; where we may not look, it was not one of us
        with contextlib.suppress(PermissionError):
            sync_folder(folder.parent)
    else:
        if folder.parent != below:
            make_folder(folder.parent, below=below)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)
    if len(_durable) >= _MOST_REMEMBERED:
        _durable.clear()
    _durable.add(folder)
