"""Identifiers of C-FIND, C-MOVE and C-GET: keys to bytes, and answers to text (PS3.4 C.4.1.1.3).

Answers are read leniently (field note 9) and fast: values stay bytes until each is decoded once by the answer's own
character set, without the library's element objects, which take most of the time of a large query.
"""

# The library is partly untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import struct
import warnings
from collections.abc import Mapping
from functools import lru_cache
from io import BytesIO
from typing import Any

from pydicom import config
from pydicom.charset import convert_encodings, decode_bytes
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import Tag
from pydicom.uid import UID
from pydicom.valuerep import PN_DELIMS, TEXT_VR_DELIMS
from pynetdicom.dsutils import encode

CHARACTER_SET = 0x00080005
_TEXT = frozenset({"AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI", "UR"})
_ENCODED_TEXT = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT", "UN"})
_NUMBERS = {
    vr: struct.Struct(f"<{code}")
    for vr, code in {
        "US": "H",
        "SS": "h",
        "UL": "I",
        "SL": "i",
        "FL": "f",
        "FD": "d",
        "SV": "q",
        "UV": "Q",
    }.items()
}
_LONG_HEADER = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
_VRS = {vr.encode(): vr for vr in (*_TEXT, *_ENCODED_TEXT, *_NUMBERS, *_LONG_HEADER, "AT")}
_EXPLICIT, _IMPLICIT, _LENGTH = struct.Struct("<HH2sH"), struct.Struct("<HHI"), struct.Struct("<I")

_Element = tuple[int, str, bytes]
"""Tag, value representation (empty where the encoding does not tell), value."""


def encode_identifier(keys: Mapping[str, str], syntax: UID) -> BytesIO:
    """The bytes of an identifier. Keys are keywords or eight hex digits of a tag; an empty value asks for the
    attribute. Where a value is not ASCII the character set UTF-8 is told (field note 8).
    """
    identifier = Dataset()
    if not all(value.isascii() for value in keys.values()):
        identifier.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in keys.items():
        tag, vr = _element(keyword)
        identifier.add(DataElement(tag, vr, value, validation_mode=config.IGNORE))
    encoded = encode(identifier, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)
    if encoded is None:
        raise ValueError("the query keys cannot be encoded")
    return BytesIO(encoded)


def decode_identifier(encoded: bytes, syntax: UID, *, whole: bool = False) -> dict[str, str]:
    """Keyword to text of everything answered; raises `ValueError` for what is no data set.

    Several values are joined by a backslash, padding is dropped, sequences and bulk data are left out, or with
    `whole` are empty texts, for whoever must know that they were there. A NUL inside a value becomes U+FFFD: no
    value may hold one (PS3.5 6.2), and not every database takes it.
    """
    elements = _scan(encoded, explicit=not syntax.is_implicit_VR) if syntax.is_little_endian else None
    if elements is None:
        elements = _read(encoded, syntax)
    encodings = _encodings(b"")
    texts: dict[str, str] = {}
    for tag, vr, value in elements:
        keyword, known_vr = _known(tag)
        if tag == CHARACTER_SET:
            encodings = _encodings(value)
        text = _text(value, vr or known_vr, encodings)
        if text is not None:
            texts[keyword] = text
        elif whole:
            texts[keyword] = ""
    return texts


def _scan(encoded: bytes, *, explicit: bool) -> list[_Element] | None:
    """The elements of a flat data set in little endian; None where it is anything else."""
    elements: list[_Element] = []
    at, end = 0, len(encoded)
    while at + 8 <= end:
        vr = ""
        if explicit:
            group, element, code, length = _EXPLICIT.unpack_from(encoded, at)
            vr = _VRS.get(code)
            if vr is None:
                return None
            if vr in _LONG_HEADER:
                if at + 12 > end:
                    return None
                (length,) = _LENGTH.unpack_from(encoded, at + 8)
                at += 4
        else:
            group, element, length = _IMPLICIT.unpack_from(encoded, at)
        at += 8
        if vr == "SQ" or at + length > end:
            return None
        elements.append((group << 16 | element, vr, encoded[at : at + length]))
        at += length
    return elements if elements and at == end else None


def _read(encoded: bytes, syntax: UID) -> list[_Element]:
    """The same by the library, which copes with sequences and with most of what is not to the standard."""
    stream = BytesIO(encoded)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            answered = read_dataset(stream, syntax.is_implicit_VR, syntax.is_little_endian)
            raw = [answered.get_item(tag) for tag in list(answered.keys())]
        except Exception as error:
            raise ValueError("an identifier that is no data set") from error
    cut_short = any(
        isinstance(one, RawDataElement) and one.length not in {len(one.value or b""), 0xFFFFFFFF}
        for one in raw
    )
    if not raw or cut_short or stream.tell() != len(encoded):
        raise ValueError("an identifier that is no data set")
    return [
        (int(one.tag), one.VR or "", bytes(one.value or b""))
        if isinstance(one, RawDataElement) and isinstance(one.value, (bytes, type(None)))
        else (int(one.tag), "SQ", b"")
        for one in raw
    ]


def _text(value: bytes, vr: str, encodings: tuple[str, ...]) -> str | None:
    if vr in _TEXT:
        return value.decode("ascii", "replace").strip("\0 ").replace("\0", "\ufffd")
    if vr in _ENCODED_TEXT:
        return _decoded(value, vr, encodings).rstrip("\0 ").replace("\0", "\ufffd")
    number = _NUMBERS.get(vr)
    if number is None:
        return None
    whole = len(value) - len(value) % number.size
    return "\\".join(str(one) for (one,) in number.iter_unpack(value[:whole]))


def _decoded(value: bytes, vr: str, encodings: tuple[str, ...]) -> str:
    if value.isascii() and b"\x1b" not in value:
        return value.decode("ascii")
    delimiters = PN_DELIMS | {0x3D} if vr == "PN" else TEXT_VR_DELIMS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return decode_bytes(value, encodings, {*delimiters, 0x5C})


@lru_cache(maxsize=64)
def _encodings(value: bytes) -> tuple[str, ...]:
    terms = [term.strip() for term in value.decode("ascii", "replace").strip("\0 ").split("\\")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return tuple(convert_encodings(terms))
        except LookupError:  # a term nobody knows
            return ("utf-8",)


@lru_cache(maxsize=4096)
def _known(tag: int) -> tuple[str, str]:
    try:
        return keyword_for_tag(tag) or f"{tag:08X}", dictionary_VR(tag).split()[0]
    except KeyError:
        return f"{tag:08X}", "UN"


@lru_cache(maxsize=1024)
def _element(keyword: str) -> tuple[Any, str]:
    number = tag_for_keyword(keyword)
    tag = Tag(int(keyword, 16) if number is None else number)
    try:
        return tag, dictionary_VR(tag)
    except KeyError:
        return tag, "LO"  # private attributes are asked for as text
