"""A real DICOM server over a folder of files that can misbehave by name, and studies to put into it.

People rehearse with it (`backupdr simulate-pacs`), the demo runs on it, and our tests stand on it. It never
changes a file it was given: what grows or changes by a fault lives in a temporary folder of its own.
"""

from vna.simulated_pacs.elements import EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE
from vna.simulated_pacs.faults import FAULTS, FaultDescription, Faults, parse_faults
from vna.simulated_pacs.pacs import SimulatedPacs
from vna.simulated_pacs.shipped import shipped_files
from vna.simulated_pacs.studies import (
    MODALITIES,
    TRANSFER_SYNTAXES,
    GeneratedInstance,
    GeneratedStudy,
    add_instances,
    change_instance,
    dataset_sha256,
    write_studies,
)

__all__ = [
    "EXPLICIT_BIG",
    "EXPLICIT_LITTLE",
    "FAULTS",
    "IMPLICIT_LITTLE",
    "MODALITIES",
    "TRANSFER_SYNTAXES",
    "FaultDescription",
    "Faults",
    "GeneratedInstance",
    "GeneratedStudy",
    "SimulatedPacs",
    "add_instances",
    "change_instance",
    "dataset_sha256",
    "parse_faults",
    "shipped_files",
    "write_studies",
]
