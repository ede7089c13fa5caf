"""Identifiers of C-FIND, C-MOVE and C-GET: keys to bytes, and answers to text (PS3.4 C.4.1.1.3).

Answers are read leniently (field note 9) and fast: values stay bytes until each is decoded once by the answer's own
character set, without the library's element objects, which take most of the time of a large query.
"""

# The library is partly untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import warnings
from collections.abc import Mapping
from functools import lru_cache
from io import BytesIO
from typing import Any, cast

from pydicom import config
from pydicom.charset import convert_encodings, decode_bytes
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement, convert_raw_data_element
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import Tag
from pydicom.uid import UID
from pydicom.valuerep import PN_DELIMS, TEXT_VR_DELIMS
from pynetdicom.dsutils import encode

CHARACTER_SET = 0x00080005
_TEXT = frozenset({"AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI", "UR"})
_ENCODED_TEXT = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT", "UN"})
_BINARY = frozenset({"SQ", "OB", "OD", "OF", "OL", "OV", "OW"})


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


def decode_identifier(encoded: BytesIO, syntax: UID) -> dict[str, str]:
    """Keyword to text of everything answered; raises `ValueError` for what is no data set.

    Several values are joined by a backslash, padding is dropped, sequences and bulk data are left out.
    """
    encoded.seek(0)
    try:
        answered = read_dataset(encoded, syntax.is_implicit_VR, syntax.is_little_endian)
        elements = [answered.get_item(tag) for tag in list(answered.keys())]
    except Exception as error:
        raise ValueError("an identifier that is no data set") from error
    if not elements or encoded.tell() != len(encoded.getbuffer()):
        raise ValueError("an identifier that is no data set")
    encodings = _encodings(b"")
    texts: dict[str, str] = {}
    for element in elements:
        tag = int(element.tag)
        if tag == CHARACTER_SET:
            encodings = _encodings(bytes(element.value or b""))
        keyword, vr = _known(tag)
        text = _text(element, getattr(element, "VR", None) or vr, encodings)
        if text is not None:
            texts[keyword] = text
    return texts


def _text(element: Any, vr: str, encodings: tuple[str, ...]) -> str | None:
    value = element.value
    if vr in _BINARY or not isinstance(element, RawDataElement):
        return None
    if not value:
        return ""
    if vr in _TEXT:
        return cast(bytes, value).decode("ascii", "replace").strip("\0 ")
    if vr in _ENCODED_TEXT:
        return _decoded(cast(bytes, value), vr, encodings).rstrip("\0 ")
    try:
        number = convert_raw_data_element(element).value
    except Exception:  # noqa: BLE001 - an illegal value of a number: answered, but unusable (field note 9)
        return ""
    many = isinstance(number, (list, tuple)) or hasattr(number, "__iter__")
    return "\\".join(str(one) for one in number) if many else str(number)


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
