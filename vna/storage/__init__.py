"""Storage units: where copies are kept for good, each with the manifests its catalog can be rebuilt from.

A file is made by link or create-new under a name of its own, never overwritten, never renamed, read back from
the disk and digested before it counts. What was placed is told by manifests beside it, so that a unit explains
itself without any database. A unit without its marker file is not mounted, never empty.
"""

from vna.storage.digests import Digests
from vna.storage.local import LocalUnit
from vna.storage.manifests import (
    Event,
    Manifest,
    Received,
    Stored,
    Superseded,
    decode_manifest,
    encode_manifest,
)
from vna.storage.marker import MARKER
from vna.storage.opening import create_unit, open_unit
from vna.storage.unit import (
    DamagedFile,
    FileFacts,
    NewFile,
    PlacedFile,
    StorageUnit,
    StudyFolder,
    study_folder_of,
)

__all__ = [
    "MARKER",
    "DamagedFile",
    "Digests",
    "Event",
    "FileFacts",
    "LocalUnit",
    "Manifest",
    "NewFile",
    "PlacedFile",
    "Received",
    "StorageUnit",
    "Stored",
    "StudyFolder",
    "Superseded",
    "create_unit",
    "decode_manifest",
    "encode_manifest",
    "open_unit",
    "study_folder_of",
]
