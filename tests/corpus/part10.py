"""Files of strangers taken apart without a parser of DICOM: what a sender would put into its C-STORE command."""

import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path

_LONG_LENGTHS = {b"OB", b"OW", b"UN", b"UT", b"SQ"}
_SECONDARY_CAPTURE, _EXPLICIT_LITTLE = "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.1.2.1"


@dataclass(frozen=True, slots=True)
class Sendable:
    """A data set and the three UIDs it is sent under."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    dataset: bytes
    has_header: bool

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.dataset).hexdigest()


def sendable(path: Path, sop_instance_uid: str | None) -> Sendable:
    """What a sender makes of a file; `sop_instance_uid` of the data set, where it is known to have one.

    A file without File Meta Information goes out as it is, under UIDs that a careless sender makes up.
    """
    data = path.read_bytes()
    meta, start = _meta(data)
    made_up = f"2.25.{int(hashlib.sha256(data).hexdigest()[:30], 16)}"
    return Sendable(
        meta.get(0x0002) or _SECONDARY_CAPTURE,
        sop_instance_uid or meta.get(0x0003) or made_up,
        meta.get(0x0010) or _EXPLICIT_LITTLE,
        data[start:],
        has_header=start > 0,
    )


def _meta(data: bytes) -> tuple[dict[int, str], int]:
    """The UIDs of group 0002 by element, and where the data set begins (0: there is no header)."""
    if data[128:132] != b"DICM":
        return {}, 0
    at, found = 132, {}
    while data[at : at + 2] == b"\x02\x00" and at + 12 <= len(data):
        element = struct.unpack_from("<H", data, at + 2)[0]
        if data[at + 4 : at + 6] in _LONG_LENGTHS:
            length, at = struct.unpack_from("<I", data, at + 8)[0], at + 12
        else:
            length, at = struct.unpack_from("<H", data, at + 6)[0], at + 8
        if at + length > len(data):
            break
        found[element] = data[at : at + length].rstrip(b"\0 ").decode("latin-1")
        at += length
    return found, at
