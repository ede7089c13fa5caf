"""The catalog: what is stored where, by the word of the units' manifests.

A copy is in the catalog only after it was placed, read back, digested and told by a manifest; the catalog can
be rebuilt from the units (`vna.catalog.rebuild`). SQLite by default, PostgreSQL by URL. It shares its database
and migrations with the run ledger.
"""

from typing import TYPE_CHECKING, Any

from vna.catalog.attributes import INSTANCE_KEYWORDS, KEYWORDS, SERIES_KEYWORDS, STUDY_KEYWORDS
from vna.catalog.catalog import Catalog, CopyFacts, HeldCopy, ReceiptRow
from vna.catalog.engine import WRITES
from vna.catalog.recording import insert_into, table_of

if TYPE_CHECKING:
    from vna.catalog.index import CatalogIndex


def __getattr__(name: str) -> Any:
    """`CatalogIndex` at its first use: it brings the DICOM network along, which whoever indexes does not need."""
    if name != "CatalogIndex":
        raise AttributeError(name)
    from vna.catalog.index import CatalogIndex

    return CatalogIndex


__all__ = [
    "INSTANCE_KEYWORDS",
    "KEYWORDS",
    "SERIES_KEYWORDS",
    "STUDY_KEYWORDS",
    "WRITES",
    "Catalog",
    "CatalogIndex",
    "CopyFacts",
    "HeldCopy",
    "ReceiptRow",
    "insert_into",
    "table_of",
]
