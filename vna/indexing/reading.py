"""The bounded child that reads identities: one path a line in, one JSON object a line out.

It parses what strangers sent, so it is a process of its own with limits on memory (here) and time (by its
parent, `vna.indexing.reader`), and knows nothing of us: no database, no settings, no folder. Run as a file; the
keywords to read are its arguments.
"""

import contextlib
import errno
import io
import json
import logging
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from pydicom import config
from pydicom.datadict import tag_for_keyword
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
