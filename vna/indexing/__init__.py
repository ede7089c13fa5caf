"""The indexer: from the spool into storage units and catalog, the only one who places.

Per folder of the spool: identity read in a bounded child, placed into each expected unit, else the default
one, read back, then manifest, then catalog, then unlinked from the spool, in this order. It can be killed
anywhere, run twice, and in several processes; what cannot be placed now waits in the spool.
"""

from vna.indexing.helping import help_indexing
from vna.indexing.indexer import Indexer
from vna.indexing.placement import replay_study
from vna.indexing.placer import Pass
from vna.indexing.reader import IdentityReader, Reading

__all__ = ["IdentityReader", "Indexer", "Pass", "Reading", "help_indexing", "replay_study"]
