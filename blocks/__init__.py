"""The settings people edit, as Prefect blocks: remote servers, storage units and our own DICOM server.

Prefect finds them through the entry point `prefect.collections`, so they are in its pages from the first
start. Each knows how to become the value the library works with (`to_domain`).
"""

from blocks.dicom_server import DicomServer
from blocks.remote_server import RemoteServer
from blocks.storage_unit import StorageUnit

__all__ = ["DicomServer", "RemoteServer", "StorageUnit"]
