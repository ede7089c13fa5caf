"""The spool: where received instances are safe before anything else knows of them.

Folders are the truth: an association is a folder, an instance is a file that was synced before DICOM success
was said of it. Receivers write here without any database; the indexer takes from here. The contract on
disk is DESIGN §4.
"""

from vna.spool.aside import AsideEntry
from vna.spool.associations import AssociationRecord, OpenAssociation, read_association
from vna.spool.commitments import CommitmentRequest, Commitments, Reference, TakenCommitment
from vna.spool.expectations import Expectation
from vna.spool.header import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, dataset_offset
from vna.spool.received import ReceivedFile
from vna.spool.spool import Spool, Waiting
from vna.spool.writing import InstanceWriter

__all__ = [
    "IMPLEMENTATION_CLASS_UID",
    "IMPLEMENTATION_VERSION_NAME",
    "AsideEntry",
    "AssociationRecord",
    "CommitmentRequest",
    "Commitments",
    "Expectation",
    "InstanceWriter",
    "OpenAssociation",
    "ReceivedFile",
    "Reference",
    "Spool",
    "TakenCommitment",
    "Waiting",
    "dataset_offset",
    "read_association",
]
