"""Real DICOM objects for rehearsals: the files that come inside the pydicom package."""
# pyright: reportUnknownMemberType=false

import warnings
from pathlib import Path

import pydicom
from pydicom.dataset import FileDataset

from vna.simulated_pacs.elements import Encoding

_UIDS = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")


def shipped_files() -> list[Path]:
    """The usable files: each a real object of another kind, one for each SOP Instance UID; nothing is fetched
    from anywhere.
    """
    found: dict[str, Path] = {}
    for path in sorted((Path(pydicom.__file__).parent / "data").rglob("*")):
        if path.is_dir() or "truncated" in path.name or path.read_bytes()[128:132] != b"DICM":
            continue
        header = _header(path)
        if header is not None and _is_usable(header):
            found.setdefault(str(header.SOPInstanceUID), path)
    return list(found.values())


def _header(path: Path) -> FileDataset | None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # some files are there because they break the standard
        try:
            return pydicom.dcmread(path, specific_tags=list(_UIDS))
        except UserWarning:
            return None


def _is_usable(header: FileDataset) -> bool:
    meta = header.file_meta
    if not all(header.get(keyword) for keyword in _UIDS) or "TransferSyntaxUID" not in meta:
        return False
    declared = Encoding.of(meta.TransferSyntaxUID)
    as_declared = header.original_encoding == (declared.implicit, declared.order == "<")
    return as_declared and meta.get("MediaStorageSOPInstanceUID") == header.SOPInstanceUID
