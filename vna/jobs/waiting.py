"""Telling by the spool whether a sender still delivers."""

import time

from vna.spool import Spool, read_association

QUIET_SECONDS = 2.0
LONGEST_SECONDS = 60.0


def wait_until_quiet(spool: Spool, calling_aet: str) -> None:
    """Return when no open association of `calling_aet` has received anything for two seconds.

    Killing us does not stop the source at once: what it still sends would be asked for a second time.
    """
    deadline = time.monotonic() + LONGEST_SECONDS
    last, since = _received(spool, calling_aet), time.monotonic()
    while last and time.monotonic() < deadline:
        time.sleep(0.2)
        now = _received(spool, calling_aet)
        if now != last:
            last, since = now, time.monotonic()
        elif time.monotonic() - since >= QUIET_SECONDS:
            return


class Arrivals:
    """Called again and again, tells whether anything was received anywhere since the last call.

    A source is silent on the association of a C-MOVE while it sends; what it sends is the sign of its life.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._seen = _received(spool)

    def __call__(self) -> bool:
        before, self._seen = self._seen, _received(self._spool)
        return self._seen != before


def _received(spool: Spool, calling_aet: str = "") -> dict[str, int]:
    """Open associations (of one sender, or of all), each with the time of the last change in its folder.

    A name that comes changes the folder, a large object that grows changes its own time.
    """
    open_now: dict[str, int] = {}
    for folder in spool.folders():
        try:
            if spool.is_open(folder) and calling_aet in {"", read_association(folder).calling_aet}:
                times = [entry.stat().st_mtime_ns for entry in (folder, *folder.iterdir())]
                open_now[folder.name] = max(times)
        except (OSError, ValueError):  # closed and removed while we looked
            continue
    return open_now
