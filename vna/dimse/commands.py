"""Command sets of DIMSE messages, read from their bytes (PS3.7 6.3.1)."""

import struct
from collections.abc import Mapping

_ELEMENT = struct.Struct("<HHI")


class ProtocolViolation(Exception):
    """The peer broke PS3.7 or PS3.8; the association is aborted, as the standard has it (Evt19)."""


def decode_command(encoded: "bytes | bytearray") -> dict[int, bytes]:
    """Element number to value of a command set: group 0000, implicit little endian.

    Raises `ProtocolViolation` for anything else, and for a value that is cut off.
    """
    values: dict[int, bytes] = {}
    at, end = 0, len(encoded)
    while at < end:
        if end - at < _ELEMENT.size:
            raise ProtocolViolation("a command set that ends in an element")
        group, element, length = _ELEMENT.unpack_from(encoded, at)
        at += _ELEMENT.size
        if group != 0 or length > end - at:
            raise ProtocolViolation("a command set that is none")
        values[element] = bytes(encoded[at : at + length])
        at += length
    return values


def command_number(values: Mapping[int, bytes], element: int) -> int:
    """An element of two bytes (US); raises `ProtocolViolation` if it is none or absent."""
    value = values.get(element, b"")
    if len(value) != 2:
        raise ProtocolViolation(f"a command set without (0000,{element:04X})")
    return int.from_bytes(value, "little")
