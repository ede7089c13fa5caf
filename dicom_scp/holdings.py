"""What this home holds, as the query, retrieve and commitment services ask for it.

The catalog is opened when it is first asked, and not before: a server that only receives needs nothing but a disk,
and receives while the database is away. This is the only place of the server that knows of a database.
"""

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vna.dimse import HeldInstance, InstanceIndex, OurNode, Query
from vna.dimse.answering_commitment import CommitmentService
from vna.dimse.answering_find import FindService
from vna.dimse.answering_retrieve import GetService, MoveService
from vna.dimse.services import Service
from vna.errors import CatalogUnavailable
from vna.settings import Settings
from vna.site import RemoteServer, Site
from vna.spool import Spool

if TYPE_CHECKING:
    from vna.catalog import CatalogIndex

_log = logging.getLogger(__name__)


class Holdings:
    """An `InstanceIndex` over the catalog of a home, used by several threads at once."""

    def __init__(self, settings: Settings, site: Callable[[], Site]) -> None:
        self._settings = settings
        self._site = site
        self._lock = threading.Lock()
        self._opened: CatalogIndex | None = None

    @property
    def supported_keywords(self) -> Mapping[str, frozenset[str]]:
        """As `InstanceIndex`; needs no database that answers."""
        from vna.catalog import CatalogIndex

        return CatalogIndex.supported_keywords

    def matches(self, query: Query) -> Iterator[Mapping[str, str]]:
        return self._index().matches(query)

    def held(self, query: Query) -> Iterator[HeldInstance]:
        return self._index().held(query)

    def count(self, query: Query) -> int:
        return self._index().count(query)

    def syntaxes_held(self) -> Mapping[str, Sequence[str]]:
        return self._index().syntaxes_held()

    def verified(self, sop_instance_uids: Collection[str]) -> Mapping[str, str]:
        return self._index().verified(sop_instance_uids)

    def _index(self) -> InstanceIndex:
        """The open catalog; raises `CatalogUnavailable` while it has not the tables of this version."""
        with self._lock:
            if self._opened is None:
                self._opened = self._open()
            return self._opened

    def _open(self) -> "CatalogIndex":
        from vna.catalog import Catalog, CatalogIndex

        catalog = Catalog(self._settings.catalog_database_url)
        try:
            if not catalog.is_migrated():
                raise CatalogUnavailable("it has no tables yet, or those of another version of this program")
        except CatalogUnavailable:
            catalog.close()
            raise
        return CatalogIndex(catalog, lambda: self._site().units)


@dataclass(frozen=True, slots=True)
class ServicesOfAHome:
    """The services that answer from what is held; `commitment` is one of them, and has work of its own to do."""

    every: tuple[Service, ...]
    commitment: CommitmentService


def services_of(settings: Settings, site: Callable[[], Site], spool: Spool) -> ServicesOfAHome:
    """The services of a server of this home. `site` is asked each time who a destination or a requester is."""
    holdings = Holdings(settings, site)
    node = OurNode.from_settings(settings)
    commitment = CommitmentService(
        holdings,
        spool,
        node,
        lambda aet: remote_calling(site(), aet),
        wait_seconds=lambda: site().server.commitment_wait_seconds,
    )
    every = (
        FindService(holdings),
        MoveService(holdings, node, lambda aet: remote_called(site(), aet)),
        GetService(holdings),
        commitment,
    )
    return ServicesOfAHome(every, commitment)


def remote_called(site: Site, aet: str) -> RemoteServer | None:
    """The registered server of this AE title, where we may send to; None where there is none, or more than one place
    with it: images must not go to another's machine.
    """
    return _only(remote for remote in site.remotes.values() if remote.aet == aet)


def remote_calling(site: Site, aet: str) -> RemoteServer | None:
    """The registered server that calls us by this AE title; its own before another's further one. None as above."""
    if any(remote.aet == aet for remote in site.remotes.values()):
        return remote_called(site, aet)
    return _only(remote for remote in site.remotes.values() if aet in remote.calling_aets)


def _only(remotes: Iterable[RemoteServer]) -> RemoteServer | None:
    found = list(remotes)
    if len({(remote.host, remote.port) for remote in found}) > 1:
        names = " and ".join(remote.name for remote in found)
        _log.warning("%s share an AE title: nobody can say which of them is meant", names)
        return None
    return next(iter(found), None)
