"""What an operating system's refusal means for the spool."""

import contextlib
from collections.abc import Generator
from pathlib import Path

from vna.errors import SpoolUnusable


@contextlib.contextmanager
def as_spool_error(path: Path) -> Generator[None]:
    """Say an operating system's error about our own disk as `SpoolUnusable`."""
    try:
        yield
    except OSError as error:
        raise SpoolUnusable(str(path), error.strerror or str(error)) from error
