"""Waiting for a sender that still delivers for a run that is no more."""

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


def _received(spool: Spool, calling_aet: str) -> dict[str, int]:
    """Open associations of a sender, each with the number of names in its folder."""
    open_now: dict[str, int] = {}
    for folder in spool.folders():
        try:
            if spool.is_open(folder) and read_association(folder).calling_aet == calling_aet:
                open_now[folder.name] = sum(1 for _ in folder.iterdir())
        except (OSError, ValueError):  # closed and removed while we looked
            continue
    return open_now
