"""The reserve: free space that receiving never touches (field note 35)."""

import threading
from pathlib import Path

from vna.errors import DiskFull
from vna.platform import free_bytes

SMALLEST_RESERVE = 2 * 2**30
RESERVE_PERCENT = 2
CHECK_EVERY = 64 * 2**20
"""How many bytes all writers of a process together may write until the file system is asked again."""


class Reserve:
    """The reserve on the file system that holds `path`, in bytes; by default the larger of 2 GiB and 2 %.

    Used by any number of threads.
    """

    def __init__(self, path: Path, reserve_bytes: int | None) -> None:
        self._path = path
        self._given = reserve_bytes
        self._lock = threading.Lock()
        self._unchecked = 0

    def bytes_kept(self) -> int:
        return self._reserve_of(free_bytes(self._path)[1])

    def check(self, about_to_write: int = 0, times: int = 1) -> None:
        """Raise `DiskFull` if less than `times` the reserve would be free after writing that many bytes."""
        free, total = free_bytes(self._path)
        reserve = self._reserve_of(total) * times
        if free - about_to_write < reserve:
            if times == 1:
                self._unchecked = CHECK_EVERY  # every writer asks from now on, until there is room again
            raise DiskFull(str(self._path), free, reserve)
        self._unchecked = about_to_write

    def count(self, about_to_write: int) -> int:
        """How many bytes all writers together have written, or are about to, since the last `check`.

        Each counting for itself, dozens of them would pass the reserve before one of them looks.
        """
        with self._lock:
            self._unchecked += about_to_write
            return self._unchecked

    def _reserve_of(self, total: int) -> int:
        if self._given is not None:
            return self._given
        return max(SMALLEST_RESERVE, total * RESERVE_PERCENT // 100)
