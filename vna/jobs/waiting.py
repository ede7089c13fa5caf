"""Telling by the spool whether a source still sends to us."""

import time
from collections.abc import Callable

from vna.errors import SpoolUnusable
from vna.site import RemoteServer
from vna.spool import Spool, read_association

QUIET_SECONDS = 2.0
LONGEST_SECONDS = 60.0


def wait_until_quiet(spool: Spool, remote: RemoteServer) -> None:
    """Return when no open association of `remote` has received anything for two seconds.

    Killing us does not stop the source at once: what it still sends would be asked for a second time.
    """
    deadline = time.monotonic() + LONGEST_SECONDS
    last, since = _received(spool, remote), time.monotonic()
    while last and time.monotonic() < deadline:
        time.sleep(0.2)
        now = _received(spool, remote)
        if now != last:
            last, since = now, time.monotonic()
        elif time.monotonic() - since >= QUIET_SECONDS:
            return


class SignsOfLife:
    """Called again and again, tells whether the source sent anything since the last call.

    A source is silent on the association of a C-MOVE while it sends; what arrives is the sign of its life. It
    may send under another AE title than the one we call, so fewer missing instances count too. What others send
    does not: a modality that works all day would keep a dead C-MOVE alive.
    """

    def __init__(self, spool: Spool, remote: RemoteServer, missing: Callable[[], int]) -> None:
        self._look: Callable[[], object] = lambda: (missing(), _received(spool, remote))
        self._seen = self._look()

    def __call__(self) -> bool:
        before, self._seen = self._seen, self._look()
        return self._seen != before


def _received(spool: Spool, remote: RemoteServer) -> dict[str, int]:
    """Open associations of a source, each with the time of the last change in its folder.

    A name that comes changes the folder, a large object that grows changes its own time.
    """
    open_now: dict[str, int] = {}
    for folder in spool.folders():
        try:
            sender = read_association(folder)
            if remote.aet != sender.calling_aet and remote.host != sender.peer_address:
                continue
            if spool.is_open(folder):
                times = [entry.stat().st_mtime_ns for entry in (folder, *folder.iterdir())]
                open_now[folder.name] = max(times)
        except (OSError, ValueError, SpoolUnusable):  # closed and removed while we looked
            continue
    return open_now
