"""Small files that are there whole or not at all: temporary, sync, rename, sync of the folder."""

import contextlib
import os
from collections.abc import Generator
from pathlib import Path

from vna.errors import SpoolUnusable
from vna.platform import sync_folder


def write_durably(path: Path, content: bytes) -> None:
    """Write a file so that after return it survives a power cut, and before that nobody sees a part of it."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents where absent, their names synced."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


@contextlib.contextmanager
def as_spool_error(path: Path) -> Generator[None]:
    """Say an operating system's error about our own disk as `SpoolUnusable`."""
    try:
        yield
    except OSError as error:
        raise SpoolUnusable(str(path), error.strerror or str(error)) from error
