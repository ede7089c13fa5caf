"""DICOM elements as bytes, read and written without building data sets (PS3.5 chapter 7).

Ten thousand headers are read at start and ten thousand answers written per query, so both are done by hand
here; only a fixed set of attributes is ever looked at.
"""

import struct
import zlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_LONG_VRS = frozenset(
    {b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"SQ", b"UN", b"UC", b"UR", b"UT", b"SV", b"UV"}
)
_DEEPEST = 64

IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"


class TooShort(ValueError):
    """The bytes end within an element."""


class NotElements(ValueError):
    """The bytes are no sequence of elements."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a transfer syntax writes elements; compressed ones write them as explicit little endian."""

    implicit: bool
    order: str

    @classmethod
    def of(cls, transfer_syntax_uid: str) -> "Encoding":
        return cls(
            transfer_syntax_uid == IMPLICIT_LITTLE, ">" if transfer_syntax_uid == EXPLICIT_BIG else "<"
        )


def inflate(data: bytes, at_most: int) -> bytes:
    """The first `at_most` bytes of a deflated data set (PS3.5 A.5)."""
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, at_most)


def read_elements(
    data: bytes, encoding: Encoding, wanted: Collection[int], *, start: int = 0, goes_on: bool = False
) -> dict[int, bytes]:
    """The raw values of the wanted tags at top level, up to the highest wanted one.

    `goes_on` = these are only the first bytes of something longer. Raises `TooShort` where they end before
    the highest wanted tag, or within an element, `NotElements` for anything else.
    """
    found: dict[int, bytes] = {}
    last, position, size = max(wanted), start, len(data)
    while position < size:
        tag, vr, length, value_at = _header(data, position, encoding)
        if tag > last:
            break
        if length == _UNDEFINED:
            position = _skip_items(data, value_at, encoding, vr, 0)
            continue
        position = value_at + length
        if tag in wanted:
            if position > size:
                raise TooShort
            found[tag] = data[value_at:position]
    else:
        if goes_on or position > size:
            raise TooShort
    return found


def all_elements(data: bytes, encoding: Encoding) -> dict[int, bytes]:
    """The raw values at top level of a short data set such as a query; sequences are left out.

    Raises `TooShort` or `NotElements`.
    """
    found: dict[int, bytes] = {}
    position = 0
    while position < len(data):
        tag, vr, length, value_at = _header(data, position, encoding)
        if length == _UNDEFINED:
            position = _skip_items(data, value_at, encoding, vr, 0)
            continue
        position = value_at + length
        if position > len(data):
            raise TooShort
        if vr != b"SQ":
            found[tag] = data[value_at:position]
    return found


def end_of_element(data: bytes, position: int, encoding: Encoding) -> int:
    """Where an element of defined length ends."""
    _, _, length, value_at = _header(data, position, encoding)
    return value_at + length


def _header(data: bytes, position: int, encoding: Encoding) -> tuple[int, bytes, int, int]:
    """(tag, VR, length, where the value begins)."""
    if position + 8 > len(data):
        raise TooShort
    group, element = struct.unpack_from(encoding.order + "HH", data, position)
    tag = group << 16 | element
    if encoding.implicit or group == 0xFFFE:
        return tag, b"", struct.unpack_from(encoding.order + "I", data, position + 4)[0], position + 8
    vr = data[position + 4 : position + 6]
    if not (vr.isalpha() and vr.isupper()):
        raise NotElements
    if vr not in _LONG_VRS:
        return tag, vr, struct.unpack_from(encoding.order + "H", data, position + 6)[0], position + 8
    if position + 12 > len(data):
        raise TooShort
    return tag, vr, struct.unpack_from(encoding.order + "I", data, position + 8)[0], position + 12


def _skip_items(data: bytes, position: int, encoding: Encoding, vr: bytes, depth: int) -> int:
    """Where a sequence of undefined length ends; an unknown VR hides implicit elements (PS3.5 6.2.2)."""
    if depth > _DEEPEST:
        raise NotElements
    inner = Encoding(True, "<") if vr == b"UN" else encoding
    while True:
        tag, _, length, position = _header(data, position, inner)
        if tag == _SEQUENCE_END:
            return position
        if tag != _ITEM:
            raise NotElements
        position = _skip_item(data, position, inner, depth) if length == _UNDEFINED else position + length


def _skip_item(data: bytes, position: int, encoding: Encoding, depth: int) -> int:
    while True:
        tag, vr, length, position = _header(data, position, encoding)
        if tag == _ITEM_END:
            return position
        if length == _UNDEFINED:
            position = _skip_items(data, position, encoding, vr, depth + 1)
        else:
            position += length


def write_elements(elements: Iterable[tuple[int, str, bytes]], encoding: Encoding) -> bytes:
    """Elements as (tag, VR, value) in ascending order of tags, each value padded to an even length."""
    parts: list[bytes] = []
    for tag, vr, value in elements:
        padding = (b"\0" if vr in {"UI", "OB", "UN"} else b" ") if len(value) % 2 else b""
        parts += (element_header(tag, vr, len(value) + len(padding), encoding), value, padding)
    return b"".join(parts)


def element_header(tag: int, vr: str, length: int, encoding: Encoding) -> bytes:
    """What comes before a value."""
    group, element = tag >> 16, tag & 0xFFFF
    if encoding.implicit:
        return struct.pack(encoding.order + "HHI", group, element, length)
    name = vr.encode("ascii")
    if name in _LONG_VRS:
        return struct.pack(encoding.order + "HH2sHI", group, element, name, 0, length)
    return struct.pack(encoding.order + "HH2sH", group, element, name, length)


def file_header(meta: Mapping[int, tuple[str, bytes]]) -> bytes:
    """Preamble and File Meta Information (PS3.10 7.1), with its group length."""
    elements = [(0x00020001, "OB", b"\0\1"), *((tag, vr, value) for tag, (vr, value) in sorted(meta.items()))]
    body = write_elements(elements, Encoding(False, "<"))
    return b"\0" * 128 + b"DICM" + struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(body)) + body
