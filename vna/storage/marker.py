"""The marker file of a unit, and what an operating system's refusal means for a unit."""

import contextlib
import errno
from collections.abc import Generator
from pathlib import Path

from vna.errors import DiskFull, UnitNotWritable, UnitUnavailable
from vna.platform import free_bytes

MARKER = "backupdr-unit.json"

_FULL = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {errno.EROFS, errno.EACCES, errno.EPERM}


def check_marker(name: str, path: Path) -> None:
    """Raise `UnitUnavailable` unless the marker can be seen."""
    try:
        (path / MARKER).stat()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise UnitUnavailable(name, str(path), error.strerror or str(error)) from error
    else:
        return
    if path.exists():
        reason = (
            f"its marker file {MARKER} is not there; is it mounted? (A new unit is prepared by "
            f"`backupdr unit add {name} --path {path}`)"
        )
    else:
        reason = "there is no such folder; is it mounted?"
    raise UnitUnavailable(name, str(path), reason)


@contextlib.contextmanager
def unit_errors(name: str, path: Path) -> Generator[None]:
    """Tell an `OSError` on a unit in the words of `vna.errors`."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFull(str(path), free_bytes(path)[0], 0) from error
        check_marker(name, path)
        reason = error.strerror or str(error)
        if error.errno in _REFUSED:
            raise UnitNotWritable(name, str(path), reason) from error
        raise UnitUnavailable(name, str(path), reason) from error
