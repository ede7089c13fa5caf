"""The catalog as what the query, retrieve and commitment services ask (`vna.dimse.index.InstanceIndex`)."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from vna.catalog.catalog import Catalog
from vna.catalog.holding import (
    asked_for,
    common_syntaxes,
    count_instances,
    held_instances,
    verified_instances,
)
from vna.catalog.searching import SUPPORTED, search
from vna.dimse import HeldInstance, Query
from vna.site import UnitDefinition


class CatalogIndex:
    """Answers for Patient Root and Study Root from an open catalog; used by several threads at once.

    `units`: asked each time for the storage units by name, so that a unit may come and go. No transaction is open
    while an answer is being used: what is found comes in pages.
    """

    supported_keywords: Mapping[str, frozenset[str]] = SUPPORTED

    def __init__(self, catalog: Catalog, units: Callable[[], Mapping[str, UnitDefinition]]) -> None:
        self._engine = catalog.engine
        self._units = units

    def matches(self, query: Query) -> Iterator[Mapping[str, str]]:
        """The answers to a query; raises `CatalogUnavailable`, `CatalogRefused`."""
        return search(self._engine, query, self._units)

    def held(self, query: Query) -> Iterator[HeldInstance]:
        """The instances a retrieve asks for; raises `CatalogUnavailable`, `CatalogRefused`."""
        return held_instances(self._engine, asked_for(query), self._units())

    def count(self, query: Query) -> int:
        """How many `held` gives; raises `CatalogUnavailable`, `CatalogRefused`."""
        return count_instances(self._engine, asked_for(query))

    def syntaxes_held(self) -> Mapping[str, Sequence[str]]:
        """SOP class to the transfer syntaxes it is commonly kept in; raises `CatalogUnavailable`, `CatalogRefused`."""
        return common_syntaxes(self._engine)

    def verified(self, sop_instance_uids: Collection[str]) -> Mapping[str, str]:
        """Those whose current content lies checked on a unit; raises `CatalogUnavailable`, `CatalogRefused`."""
        return verified_instances(self._engine, sop_instance_uids, self._units())
