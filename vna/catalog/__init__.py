"""The catalog: what is stored where, by the word of the units' manifests.

A copy is in the catalog only after it was placed, read back, digested and told by a manifest; the catalog can
be rebuilt from the units (`vna.catalog.rebuild`). SQLite by default, PostgreSQL by URL. It shares its database
and migrations with the run ledger.
"""

from vna.catalog.attributes import INSTANCE_KEYWORDS, KEYWORDS, SERIES_KEYWORDS, STUDY_KEYWORDS
from vna.catalog.catalog import Catalog, CopyFacts, HeldCopy, ReceiptRow
from vna.catalog.engine import WRITES
from vna.catalog.recording import insert_into, table_of

__all__ = [
    "INSTANCE_KEYWORDS",
    "KEYWORDS",
    "SERIES_KEYWORDS",
    "STUDY_KEYWORDS",
    "WRITES",
    "Catalog",
    "CopyFacts",
    "HeldCopy",
    "ReceiptRow",
    "insert_into",
    "table_of",
]
