"""Waiting until certain instances are placed, by doing it where nobody else is."""

import time
from collections.abc import Collection

from vna.errors import is_transient
from vna.indexing.indexer import Indexer
from vna.settings import Settings
from vna.spool import Spool

_POLL_SECONDS = 0.1


def help_indexing(settings: Settings, sop_instance_uids: Collection[str]) -> None:
    """Return when none of these SOP Instance UIDs waits in the spool any more.

    Each was then placed, verified and catalogued, or set aside with its reason. What another indexer has in
    work is waited for. Raises the error that keeps one of them in the spool, a transient one if there is any
    (`UnitUnavailable`, `CatalogUnavailable`, `DiskFull`): the files are safe there, and the call may be made
    again.
    """
    spool = Spool(settings.spool_path, settings.reserve_bytes)
    if not (left := spool.pending(sop_instance_uids)):
        return
    with Indexer(settings) as indexer:
        indexer.migrate()
        while left:
            done = indexer.run_once(left)
            if done.errors:
                raise min(done.errors, key=lambda error: not is_transient(error))
            left = spool.pending(left)
            if left and not done.placed and not done.set_aside:
                time.sleep(_POLL_SECONDS)
