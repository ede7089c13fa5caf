"""Preparing and opening a storage unit. The marker file tells a mounted unit from an empty mount point."""

import contextlib
import datetime
import json
import os
import shutil
import socket
from pathlib import Path

from ulid import ULID

from vna.durable import make_folder, write_durably
from vna.errors import UnitNotWritable
from vna.platform import sync_folder
from vna.site import UnitDefinition
from vna.storage.local import LocalUnit
from vna.storage.marker import MARKER
from vna.storage.unit import StorageUnit


def create_unit(definition: UnitDefinition) -> StorageUnit:
    """Prepare a folder as a storage unit: make it if absent and put the marker file into it.

    A folder that has a marker is left as it is. Raises `UnitNotWritable`.
    """
    path = definition.path
    try:
        make_folder(path)
        if not (path / MARKER).exists():
            _write_marker(path, definition.name)
    except OSError as error:
        raise UnitNotWritable(definition.name, str(path), error.strerror or str(error)) from error
    return open_unit(definition)


def open_unit(definition: UnitDefinition, *, create: bool = False) -> StorageUnit:
    """Open a prepared unit; raises `UnitUnavailable` or `UnitNotWritable`.

    `create` prepares it if its folder does not exist at all. A folder that is there without a marker is never
    taken for new: it may be the mount point of a unit that is not mounted.
    """
    path = definition.path
    if create and not path.exists():
        try:
            _create_whole(path, definition.name)
        except OSError as error:
            raise UnitNotWritable(definition.name, str(path), error.strerror or str(error)) from error
    unit = LocalUnit(definition.name, path)
    unit.check()
    if not os.access(path, os.W_OK | os.X_OK):
        reason = "we have no right to write there, or it is mounted read-only"
        raise UnitNotWritable(definition.name, str(path), reason)
    return unit


def _create_whole(path: Path, name: str) -> None:
    """Folder and marker appear together, so that a kill in between leaves nothing that looks unmounted."""
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{ULID()}.new")
    temporary.mkdir()
    try:
        _write_marker(temporary, name)
        with contextlib.suppress(OSError):  # another process was first; `check` will see whose it is
            temporary.rename(path)
        sync_folder(path.parent)
    finally:
        if temporary.exists():
            shutil.rmtree(temporary)


def _write_marker(folder: Path, name: str) -> None:
    marker = {
        "what": "a storage unit of Backup & DR PLUS; without this file it counts as not mounted",
        "format": 1,
        "unit": name,
        "id": str(ULID()),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
    }
    write_durably(folder / MARKER, json.dumps(marker, indent=1).encode())
