"""Waiting until certain instances are placed, by doing it where nobody else is."""

import time
from collections.abc import Collection
from pathlib import Path

from vna.errors import IndexingStalled, is_transient
from vna.indexing.indexer import Indexer
from vna.settings import Settings
from vna.spool import Spool

STALLED_SECONDS = 300.0
"""How long nothing may happen to files that another indexer has in work."""
_POLL_SECONDS = 0.1


def help_indexing(
    settings: Settings, sop_instance_uids: Collection[str], *, indexer: Indexer | None = None
) -> None:
    """Return when none of these SOP Instance UIDs waits in the spool any more.

    Each was then placed, verified and catalogued, or set aside with its reason. What another indexer has in
    work is waited for, as long as it gets on with it. Raises the error that keeps one of them in the spool, a
    transient one if there is any (`UnitUnavailable`, `CatalogUnavailable`, `DiskFull`, `IndexingStalled`): the
    files are safe there, and the call may be made again.

    Whoever calls this for one study after the other opens one `Indexer` of the same settings and gives it every
    time, from any thread: a new one opens the database and looks at its tables each time.
    """
    spool = Spool(settings.spool_path, settings.reserve_bytes)
    if not (left := spool.pending(sop_instance_uids)):
        return
    if indexer is not None:
        _help(indexer, spool, left)
        return
    with Indexer(settings) as own:
        _help(own, spool, left)


def _help(indexer: Indexer, spool: Spool, left: set[str]) -> None:
    indexer.migrate()
    others = _Others(spool, left)
    while left:
        done = indexer.run_once(left)
        left = spool.pending(left)
        if left and done.errors:
            raise min(done.errors, key=lambda error: not is_transient(error))
        if left and not done.placed and not done.set_aside:
            others.check(left)
            time.sleep(_POLL_SECONDS)


class _Others:
    """Watches that somebody gets on with the files that we wait for.

    A long association is no stall: its files count, whatever study they are of.
    """

    def __init__(self, spool: Spool, left: Collection[str]) -> None:
        self._spool = spool
        self._begin(left, spool.holding(left))

    def _begin(self, left: Collection[str], waiting: dict[Path, int]) -> None:
        self._left, self._waiting = len(left), waiting
        self._since = time.monotonic()

    def check(self, left: Collection[str]) -> None:
        """Raise `IndexingStalled` when nothing has happened for too long."""
        if len(left) == self._left and time.monotonic() - self._since < STALLED_SECONDS:
            return
        waiting = self._spool.holding(left)
        if len(left) == self._left and waiting and not self._fewer(waiting):
            folder = min(waiting)
            raise IndexingStalled(folder.name, (time.monotonic() - self._since) / 60, waiting[folder])
        self._begin(left, waiting)

    def _fewer(self, waiting: dict[Path, int]) -> bool:
        return any(waiting.get(folder, 0) < count for folder, count in self._waiting.items())
