"""A file written once, front to back: its bytes go past the page cache where that pays.

What is received is read back once, from the disk, to be verified; keeping it in the page cache helps nobody, and
copying it there costs more than hashing it. So an object of some size is collected in an aligned buffer and given
to the disk from there (O_DIRECT). Small ones, and file systems that do not take it, are written as usual.
"""

import errno
import mmap
import os
import threading
from collections.abc import Sequence

from vna.platform import bypass_cache, write_all

STAGING_BYTES = 2**20
WORTH_STAGING = 64 * 2**10
"""Smallest file in bytes that goes past the cache: below, the disk is as quick as the copy."""

_MOST_STAGES = 24
"""Buffers in this process; whoever finds none free writes through the cache. They bound what is held in memory."""

_ALIGNMENT = 4096
_MOST_PIECES = 512  # in one system call; IOV_MAX is 1024 on Linux
_OPEN = (
    os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
)  # O_BINARY is Windows'


class _Stages:
    """The aligned buffers of this process, made when needed and kept."""

    def __init__(self, most: int) -> None:
        self._free: list[memoryview] = []
        self._left = most
        self._lock = threading.Lock()

    def take(self) -> memoryview | None:
        with self._lock:
            if self._free:
                return self._free.pop()
            if not self._left:
                return None
            self._left -= 1
        return memoryview(mmap.mmap(-1, STAGING_BYTES))

    def give_back(self, stage: memoryview) -> None:
        with self._lock:
            self._free.append(stage)


_stages = _Stages(_MOST_STAGES)


class NewFile:
    """One new file, and what was written to it. Every method raises `OSError`; then only `close` is left."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, _OPEN, 0o640)
        self.size = 0
        self._stage: memoryview | None = None
        self._staged = 0
        self._may_stage = True
        self._is_direct = self._has_bypassed = False

    def write(self, pieces: Sequence[memoryview], *, is_last: bool = False) -> None:
        """Append these bytes, which may change afterwards; `is_last` = nothing follows."""
        self.size += sum(map(len, pieces))
        if self._stage is None and self._may_stage and (not is_last or self.size >= WORTH_STAGING):
            self._may_stage = False
            self._stage = _stages.take()
        if self._stage is None:
            for start in range(0, len(pieces), _MOST_PIECES):
                write_all(self._descriptor, pieces[start : start + _MOST_PIECES])
            return
        for piece in pieces:
            self._collect(self._stage, piece)
        if is_last:
            self._finish(self._stage)

    def sync(self) -> None:
        """Make the bytes durable, and what the file system knows of the file, but for its name."""
        os.fsync(self._descriptor)

    @property
    def is_cached(self) -> bool:
        """Whether its bytes wait in the page cache, so that a sync takes its time."""
        return not self._is_direct

    def close(self) -> None:
        """May be repeated."""
        descriptor, self._descriptor = self._descriptor, -1
        stage, self._stage = self._stage, None
        if stage is not None:
            _stages.give_back(stage)
        if descriptor >= 0:
            os.close(descriptor)

    def _collect(self, stage: memoryview, piece: memoryview) -> None:
        at = 0
        while at < len(piece):
            part = piece[at : at + STAGING_BYTES - self._staged]
            stage[self._staged : self._staged + len(part)] = part
            self._staged += len(part)
            at += len(part)
            if self._staged == STAGING_BYTES:
                self._write_staged(stage)
                self._staged = 0

    def _finish(self, stage: memoryview) -> None:
        """The whole blocks as before; the rest is none, and goes through the cache."""
        whole = self._staged - self._staged % _ALIGNMENT if self.size >= WORTH_STAGING else 0
        if whole:
            self._write_staged(stage[:whole])
        self._bypass(on=False)
        if whole < self._staged:
            write_all(self._descriptor, [stage[whole : self._staged]])
        self._stage = None
        _stages.give_back(stage)

    def _write_staged(self, blocks: memoryview) -> None:
        """Whole blocks from an aligned address to an aligned offset, as the disk wants them."""
        if not self._has_bypassed:
            self._has_bypassed = True
            self._bypass(on=True)
        done = 0
        while self._is_direct and done < len(blocks):
            try:
                done += os.write(self._descriptor, blocks[done:])
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._bypass(on=False)  # this file system does not take it after all
        if done < len(blocks):
            write_all(self._descriptor, [blocks[done:]])

    def _bypass(self, *, on: bool) -> None:
        if on != self._is_direct:
            self._is_direct = bypass_cache(self._descriptor, on=on)
