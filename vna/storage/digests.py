"""Digests of a stored file, taken from the disk.

A file is header (preamble and File Meta, PS3.10 7.1) and data set. The two parts have a digest each: the
header is ours and may differ between two receptions, the data set is the content.
"""

import hashlib
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from vna.part10 import PREFIX_BYTES, header_length
from vna.platform import IS_WINDOWS, drop_cache

_BUFFER = 1 << 20
_TRANSFER_SYNTAX = (0x0002, 0x0010)
_LONG_VRS = frozenset({b"OB", b"OW", b"OF", b"SQ", b"UT", b"UN"})


@dataclass(frozen=True, slots=True)
class Digests:
    """What one reading of a file found; sizes in bytes, `mtime_ns` as it was at the reading.

    `header_length` 0: the file does not begin as ours do, so all of it counts as data set.
    `transfer_syntax_uid` is what the header says, empty if it cannot be read.
    """

    size: int
    mtime_ns: int
    header_length: int
    header_sha256: str
    dataset_sha256: str
    transfer_syntax_uid: str


def read_digests(path: Path, *, sync: bool = False) -> Digests:
    """Read the whole file past the page cache, where the platform can, and digest both parts.

    `sync` makes the file durable first; what was never written to the disk cannot be dropped from the cache.
    """
    with path.open("rb", buffering=0) as file:
        descriptor = file.fileno()
        if sync and not IS_WINDOWS:  # Windows syncs only what is open for writing: the writer has done it
            os.fsync(descriptor)
        stat = os.fstat(descriptor)
        drop_cache(descriptor)
        buffer = memoryview(bytearray(max(PREFIX_BYTES, min(stat.st_size, _BUFFER))))
        filled = file.readinto(buffer) or 0
        length = header_length(buffer[:filled])
        while filled < length <= len(buffer) and (more := file.readinto(buffer[filled:])):
            filled += more
        if length > filled:
            length = 0
        header, dataset = hashlib.sha256(buffer[:length]), hashlib.sha256(buffer[length:filled])
        syntax = _transfer_syntax(bytes(buffer[:length]))
        size = filled
        while count := file.readinto(buffer):
            dataset.update(buffer[:count])
            size += count
    return Digests(size, stat.st_mtime_ns, length, header.hexdigest(), dataset.hexdigest(), syntax)


def _transfer_syntax(header: bytes) -> str:
    """(0002,0010) of a header; File Meta is always explicit little endian (PS3.10 7.1)."""
    at = PREFIX_BYTES
    while at + 8 <= len(header):
        group, element, vr, length = struct.unpack_from("<HH2sH", header, at)
        at += 8
        if vr in _LONG_VRS:
            if at + 4 > len(header):
                return ""
            (length,) = struct.unpack_from("<L", header, at)
            at += 4
        if (group, element) == _TRANSFER_SYNTAX:
            return header[at : at + length].decode("ascii", "replace").rstrip("\0 ")
        at += length
    return ""
