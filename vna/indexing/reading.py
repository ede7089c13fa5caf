"""The bounded child that reads identities: one path a line in, one JSON object a line out.

It parses what strangers sent, so it is a process of its own with limits on memory (here) and time (by its
parent, `vna.indexing.reader`), and knows nothing of us: no database, no settings, no folder. Run as a file; the
keywords to read are its arguments.

A plain data set is scanned by hand, which takes a tenth of the time of the library; what is in any way unusual
is left to pydicom, so that both say the same of every file.
"""

import contextlib
import errno
import functools
import io
import json
import logging
import re
import struct
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from pydicom import config
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.filereader import (
    read_dataset,
    read_file_meta_info,  # pyright: ignore[reportUnknownVariableType]
    read_partial,
)

MEMORY_BYTES = 512 << 20
"""How much more than it has at its start the child may ask for."""

_DEFLATED = b"1.2.840.10008.1.2.1.99"
_INFLATE_AT_MOST = 32 << 20
_LONGEST_TEXT = 1024
_LED_ASTRAY = {errno.EINVAL, errno.EOVERFLOW, None}
"""What the system says when the parser follows a length that cannot be; anything else is the disk's fault."""
_UIDS = {
    "study_instance_uid": "StudyInstanceUID",
    "series_instance_uid": "SeriesInstanceUID",
    "sop_instance_uid": "SOPInstanceUID",
    "sop_class_uid": "SOPClassUID",
}

_IMPLICIT = b"1.2.840.10008.1.2"
_EXPLICIT = frozenset(
    [b"1.2.840.10008.1.2.1", b"1.2.840.10008.1.2.5"]
    + [b"1.2.840.10008.1.2.4.%d" % number for number in range(50, 204)]
)
"""Little endian, plain or with compressed pixels (PS3.5 A.1, A.2, A.4)."""
_FIRST_BYTES, _MORE_BYTES = 1 << 14, 1 << 20
_DEEPEST = 8
_LONG_VRS = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
)
_SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_DELIMITERS = frozenset({_ITEM, _ITEM_END, _SEQUENCE_END})
_META, _NEEDED = {0x00020002, 0x00020003, 0x00020010}, {0x00080018, 0x0020000D, 0x0020000E}
_FIRST_TAG, _CHARACTER_SET = 0x00080000, 0x00080005
_ASCII = re.compile(rb"[\x20-\x5b\x5d-\x7e]{0,1000}\0?")
"""One value; no backslash, so no second one, and no escape into another character set."""
_LATIN = re.compile(rb"[\x20-\x5b\x5d-\x7e\xa0-\xff]{0,1000}\0?")
_UTF_8 = re.compile(rb"[\x20-\x5b\x5d-\x7e\x80-\xff]{0,1000}\0?")
_NUMBER = {"IS": re.compile(r"0|[1-9][0-9]{0,8}"), "DS": re.compile(r"(0|[1-9][0-9]{0,8})(\.[0-9]{1,6})?")}
_CHARACTERS = {
    **{
        f"ISO_IR {number}": (_ASCII, "ascii") for number in (101, 109, 110, 144, 127, 126, 138, 148, 203, 166)
    },
    "": (_ASCII, "ascii"),
    "ISO_IR 6": (_ASCII, "ascii"),
    "ISO_IR 100": (_LATIN, "latin-1"),
    "ISO_IR 192": (_UTF_8, "utf-8"),
}
"""Character sets in which a byte of ASCII is that character, and how much we read of them (PS3.3 C.12.1.1.2)."""
_IN_CHARACTER_SET = {"LO", "LT", "PN", "SH", "ST", "UC", "UT"}


class _UnusualError(Exception):
    """Left to pydicom."""


def main() -> None:
    """Answer until the parent closes our input."""
    limit_memory()
    warnings.simplefilter("ignore")
    logging.disable()
    config.settings.reading_validation_mode = config.IGNORE
    keywords = sys.argv[1:]
    sys.stdout.write('{"ready":true}\n')
    sys.stdout.flush()
    for line in sys.stdin.buffer:
        answer = read(Path(json.loads(line)), keywords)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def limit_memory() -> None:
    """Let the system refuse us more memory than a header can need."""
    with contextlib.suppress(ImportError, OSError, ValueError):  # no such limit on Windows
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def read(path: Path, keywords: list[str]) -> dict[str, Any]:
    """The identity of one file, or `{"error": …}`, or `{"retry": …}` if the disk failed rather than the data."""
    try:
        with path.open("rb") as file:
            with contextlib.suppress(_UnusualError, struct.error, UnicodeDecodeError):
                return _scan(file, tuple(keywords))
            file.seek(0)
            return _identity(_read_dataset(path, file, keywords), keywords)
    except OSError as error:
        if error.errno in _LED_ASTRAY:
            return {"error": "a length in its data set leads nowhere"}
        return {"retry": error.strerror or "the file cannot be read"}
    except RecursionError:
        return {"error": "its sequences are nested too deeply to be read"}
    except MemoryError:
        return {"error": "reading its header needs more memory than is allowed"}
    except zlib.error:
        return {"error": "its deflated data set is damaged"}
    except Exception as error:  # noqa: BLE001 - a parser may fail with anything; its text may name a patient
        return {"error": f"its data set cannot be read ({type(error).__name__})"}


def _scan(file: BinaryIO, keywords: tuple[str, ...]) -> dict[str, Any]:
    """The identity of a file as we write them, of a data set without surprises; raises `_UnusualError`."""
    wanted = _wanted(keywords)
    data = file.read(_FIRST_BYTES)
    if data[128:140] != b"DICM\x02\x00\x00\x00UL\x04\x00":
        raise _UnusualError
    start = 144 + int.from_bytes(data[140:144], "little")
    meta: dict[int, tuple[bytes, bytes]] = {}
    _elements(data[:start], 144, meta, 0x0002FFFF)
    if start > len(data) or not meta.keys() >= _META:
        raise _UnusualError
    syntax = meta[0x00020010][1].rstrip(b"\0 ")
    implicit = syntax == _IMPLICIT
    if (implicit and data[start + 4 : start + 6].isalpha()) or not (implicit or syntax in _EXPLICIT):
        raise _UnusualError
    found: dict[int, tuple[bytes, bytes]] = {}
    try:
        _elements(data, start, found, max(wanted), implicit=implicit, is_whole=len(data) < _FIRST_BYTES)
    except (_UnusualError, struct.error):
        if len(data) < _FIRST_BYTES:
            raise
        data += file.read(_MORE_BYTES)
        found.clear()
        _elements(
            data,
            start,
            found,
            max(wanted),
            implicit=implicit,
            is_whole=len(data) < _FIRST_BYTES + _MORE_BYTES,
        )
    if not found.keys() >= _NEEDED or min(found) < _FIRST_TAG:
        raise _UnusualError
    named = _plain(*found.get(_CHARACTER_SET, (b"CS", b"")), "CS")
    if named not in _CHARACTERS:
        raise _UnusualError
    characters = _CHARACTERS[named]
    texts = {name: _plain(*found[tag], vr, characters) for tag, (name, vr) in wanted.items() if tag in found}
    return {
        **{name: texts.get(keyword, "") for name, keyword in _UIDS.items()},
        "transfer_syntax_uid": _plain(*meta[0x00020010], "UI"),
        "command_sop_instance_uid": _plain(*meta[0x00020003], "UI"),
        "command_sop_class_uid": _plain(*meta[0x00020002], "UI"),
        "attributes": {keyword: texts[keyword] for keyword in keywords if keyword in texts},
    }


@functools.cache
def _wanted(keywords: tuple[str, ...]) -> dict[int, tuple[str, str]]:
    """Tag to keyword and VR."""
    tags = {tag_for_keyword(keyword): keyword for keyword in (*keywords, *_UIDS.values())}
    return {tag: (keyword, dictionary_VR(tag)) for tag, keyword in tags.items() if tag is not None}


def _elements(
    data: bytes,
    at: int,
    found: dict[int, tuple[bytes, bytes]],
    last: int,
    *,
    implicit: bool = False,
    is_whole: bool = True,
) -> None:
    """Collect the elements up to the tag `last` as VR and value; they must ascend (PS3.5 7.1)."""
    before = 0
    while at < len(data) or not is_whole:
        tag, vr, begin, length = _element(data, at, implicit)
        if tag > last:
            return
        if tag <= before:
            raise _UnusualError
        before = tag
        if length == _UNDEFINED:
            at = _behind_sequence(data, begin, vr, 0)
            continue
        at = begin + length
        if at > len(data):
            raise _UnusualError
        found[tag] = vr, data[begin : min(at, begin + 1024)]


def _element(data: bytes, at: int, implicit: bool) -> tuple[int, bytes, int, int]:
    """Tag, VR (empty if implicit), where the value begins, how long it is (PS3.5 7.1.2, 7.1.3)."""
    if implicit:
        group, element, length = struct.unpack_from("<HHL", data, at)
        return group << 16 | element, b"", at + 8, length
    group, element, vr, length = struct.unpack_from("<HH2sH", data, at)
    tag = group << 16 | element
    if vr in _SHORT_VRS:
        return tag, vr, at + 8, length
    if tag in _DELIMITERS:
        return tag, b"", at + 8, struct.unpack_from("<L", data, at + 4)[0]
    if vr not in _LONG_VRS:
        raise _UnusualError
    (length,) = struct.unpack_from("<L", data, at + 8)
    return tag, vr, at + 12, length


def _behind_sequence(data: bytes, at: int, vr: bytes, depth: int) -> int:
    """Where a sequence of undefined length ends (PS3.5 7.5.2); one of VR UN is written otherwise (6.2.2)."""
    if depth > _DEEPEST or vr not in {b"", b"SQ"}:
        raise _UnusualError
    while True:
        group, element, length = struct.unpack_from("<HHL", data, at)
        tag, at = group << 16 | element, at + 8
        if tag == _SEQUENCE_END:
            return at
        if tag != _ITEM:
            raise _UnusualError
        at = at + length if length != _UNDEFINED else _behind_item(data, at, not vr, depth)


def _behind_item(data: bytes, at: int, implicit: bool, depth: int) -> int:
    while True:
        tag, vr, begin, length = _element(data, at, implicit)
        if tag == _ITEM_END:
            return begin
        if tag in _DELIMITERS:
            raise _UnusualError
        at = begin + length if length != _UNDEFINED else _behind_sequence(data, begin, vr, depth + 1)


def _plain(
    vr: bytes, value: bytes, expected: str, characters: tuple[re.Pattern[bytes], str] = (_ASCII, "ascii")
) -> str:
    """The text of a value as `_text` would give it, where that needs no thought."""
    if vr and vr != expected.encode():
        raise _UnusualError
    if expected == "US" and len(value) == 2:
        return str(struct.unpack("<H", value)[0])
    pattern, name = characters if expected in _IN_CHARACTER_SET else (_ASCII, "ascii")
    if expected == "US" or not pattern.fullmatch(value) or (expected == "PN" and b"=" in value):
        raise _UnusualError
    text = value.rstrip(b"\0").decode(name).strip(" ")
    if text and expected in _NUMBER and not _NUMBER[expected].fullmatch(text):
        raise _UnusualError
    return text


def _read_dataset(path: Path, file: BinaryIO, keywords: list[str]) -> Dataset:
    tags = sorted(
        tag for keyword in (*keywords, *_UIDS.values()) if (tag := tag_for_keyword(keyword)) is not None
    )

    def beyond(tag: int, vr: str | None, length: int) -> bool:
        return tag > tags[-1]

    start = file.read(144)  # as vna.part10, which this process does not import
    length = 144 + int.from_bytes(start[140:144], "little")
    header = start + file.read(min(length - len(start), 1 << 20))
    file.seek(0)
    if _DEFLATED not in header:
        return read_partial(file, stop_when=beyond, specific_tags=[*tags])
    # only its beginning is inflated: 1 MB can become 900 MB (field note 27)
    file.seek(length)
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    content = io.BytesIO()
    while content.tell() < _INFLATE_AT_MOST and not inflate.eof and (chunk := file.read(1 << 16)):
        content.write(inflate.decompress(chunk, _INFLATE_AT_MOST - content.tell()))
    content.seek(0)
    dataset = read_dataset(content, False, True, stop_when=beyond, specific_tags=[*tags])
    dataset.file_meta = read_file_meta_info(path)
    return dataset


def _identity(dataset: Dataset, keywords: list[str]) -> dict[str, Any]:
    meta = dataset.file_meta
    return {
        **{name: _text(dataset, keyword) or "" for name, keyword in _UIDS.items()},
        "transfer_syntax_uid": _text(meta, "TransferSyntaxUID") or "",
        "command_sop_instance_uid": _text(meta, "MediaStorageSOPInstanceUID") or "",
        "command_sop_class_uid": _text(meta, "MediaStorageSOPClassUID") or "",
        "attributes": {
            keyword: text for keyword in keywords if (text := _text(dataset, keyword)) is not None
        },
    }


def _text(dataset: Dataset, keyword: str) -> str | None:
    """The value as text, several joined by a backslash; None if it is absent or no text can be made of it."""
    tag = tag_for_keyword(keyword)
    if tag is None or tag not in dataset:
        return None
    try:
        value: Any = dataset[tag].value
        values: list[Any] = list(value) if dataset[tag].VM > 1 else [value]
        if any(isinstance(one, bytes) for one in values):
            return None
        text = "\\".join("" if one is None else str(one) for one in values)
    except (ValueError, TypeError, LookupError, OverflowError, AttributeError, NotImplementedError):
        return None
    # no database takes a NUL or half a surrogate; one inside a UID must not make another, valid one of it
    text = text.strip("\0 ").replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")
    return text[:_LONGEST_TEXT]


if __name__ == "__main__":
    main()
