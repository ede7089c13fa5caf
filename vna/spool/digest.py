"""SHA-256 of what is written, in another thread while the disk works, where a processor is free for it."""

import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

_WORTH_A_THREAD = 256 * 2**10
"""Bytes at a time from which handing them over costs less than it saves."""

_HELPERS = max(1, (os.cpu_count() or 1) - 1)
_free_helpers = threading.Semaphore(_HELPERS)
_helpers = ThreadPoolExecutor(_HELPERS, thread_name_prefix="digest")


class Digest:
    """The digest of bytes that come piece by piece; used by one thread."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def update_while(self, pieces: Sequence[memoryview], work: Callable[[], None]) -> None:
        """Take these bytes and do `work`, both complete on return; raises what `work` raises.

        A helper takes only what it can begin at once: with many senders each hashes for itself.
        """
        if sum(map(len, pieces)) < _WORTH_A_THREAD or not _free_helpers.acquire(blocking=False):
            self._update(pieces)
            work()
            return
        try:
            done = _helpers.submit(self._update, pieces)
            try:
                work()
            finally:
                done.result()
        finally:
            _free_helpers.release()

    def hexdigest(self) -> str:
        return self._sha256.hexdigest()

    def _update(self, pieces: Sequence[memoryview]) -> None:
        for piece in pieces:
            self._sha256.update(piece)
