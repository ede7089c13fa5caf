"""Named step boundaries, so that a rehearsal can end a process exactly there.

Every promise about interruption (DESIGN §3 to §5) is a promise about a boundary: between "synced" and "renamed",
between "manifest" and "catalog". `BACKUPDR_KILL_AT=NAME[:N]` ends the process hard, as kill -9 or a power cut
would, when it reaches the boundary for the Nth time. With `BACKUPDR_KILL_ONCE=FILE` that happens once for
all processes that share the file. Without the variable a boundary costs one comparison.
"""

import contextlib
import os
import signal
import threading

_NAME, _, _COUNT = os.environ.get("BACKUPDR_KILL_AT", "").partition(":")
_ONCE = os.environ.get("BACKUPDR_KILL_ONCE", "")
_left = int(_COUNT or 1) if _NAME else 0
_counting = threading.Lock()


def checkpoint(name: str) -> None:
    """Mark the boundary `name`; returns at once unless this process was asked to end here."""
    if name == _NAME:
        _reached()


def _reached() -> None:
    global _left
    with _counting:
        _left -= 1
        if _left != 0:
            return
        if _ONCE:
            try:
                os.close(os.open(_ONCE, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            except FileExistsError:
                return
        _end_hard()


def _end_hard() -> None:
    with contextlib.suppress(AttributeError):  # Windows has no SIGKILL
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(137)
