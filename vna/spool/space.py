"""The reserve: free space that receiving never touches (field note 35)."""

from pathlib import Path

from vna.errors import DiskFull
from vna.platform import free_bytes

SMALLEST_RESERVE = 2 * 2**30
RESERVE_PERCENT = 2


class Reserve:
    """The reserve on the file system that holds `path`, in bytes; by default the larger of 2 GiB and 2 %."""

    def __init__(self, path: Path, reserve_bytes: int | None) -> None:
        self._path = path
        self._given = reserve_bytes

    def bytes_kept(self) -> int:
        return self._reserve_of(free_bytes(self._path)[1])

    def check(self, about_to_write: int = 0, times: int = 1) -> None:
        """Raise `DiskFull` if less than `times` the reserve would be free after writing that many bytes."""
        free, total = free_bytes(self._path)
        reserve = self._reserve_of(total) * times
        if free - about_to_write < reserve:
            raise DiskFull(str(self._path), free, reserve)

    def _reserve_of(self, total: int) -> int:
        if self._given is not None:
            return self._given
        return max(SMALLEST_RESERVE, total * RESERVE_PERCENT // 100)
