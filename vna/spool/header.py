"""The header of a received file: preamble and File Meta Information (PS3.10 7.1), written by us.

The data set behind it is the sender's, byte by byte. Written by hand, because encoding ten elements through
a general library costs more than receiving a small instance.
"""

import struct
from pathlib import Path

from vna.errors import DatasetUnreadable
from vna.part10 import PREFIX_BYTES, header_length

IMPLEMENTATION_CLASS_UID = "2.25.11055559582739863716370196095125708782"
IMPLEMENTATION_VERSION_NAME = "BACKUPDR_1"

_PREAMBLE = b"\0" * 128 + b"DICM"


def encode_header(
    sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, source_aet: str
) -> bytes:
    """The header for one instance; the UIDs are kept as received, however odd they are."""
    elements = b"".join(
        (
            struct.pack("<HH2sHI", 0x0002, 0x0001, b"OB", 0, 2) + b"\0\1",
            _short(0x0002, b"UI", sop_class_uid),
            _short(0x0003, b"UI", sop_instance_uid),
            _short(0x0010, b"UI", transfer_syntax_uid),
            _short(0x0012, b"UI", IMPLEMENTATION_CLASS_UID),
            _short(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME),
            _short(0x0016, b"AE", source_aet),
        )
    )
    return _PREAMBLE + struct.pack("<HH2sHI", 0x0002, 0x0000, b"UL", 4, len(elements)) + elements


def _short(element: int, vr: bytes, text: str) -> bytes:
    value = text.encode("utf-8", "surrogateescape")
    if len(value) % 2:
        value += b"\0" if vr == b"UI" else b" "
    return struct.pack("<HH2sH", 0x0002, element, vr, len(value)) + value


def dataset_offset(path: Path) -> int:
    """Where the data set begins in a file with our header, in bytes: up to there reaches `header_sha256`,
    from there `dataset_sha256`. Raises `DatasetUnreadable` if this is no such file.
    """
    with path.open("rb") as file:
        offset = header_length(file.read(PREFIX_BYTES))
    if not offset:
        raise DatasetUnreadable(str(path), "it does not begin as a DICOM file")
    return offset
