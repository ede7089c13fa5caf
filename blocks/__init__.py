"""The settings people edit, as Prefect blocks: remote servers and storage units.

Prefect finds them through the entry point `prefect.collections`, so they are in its pages from the first
start. Each knows how to become the value the library works with (`to_domain`).
"""

from blocks.remote_server import RemoteServer
from blocks.storage_unit import StorageUnit

__all__ = ["RemoteServer", "StorageUnit"]
