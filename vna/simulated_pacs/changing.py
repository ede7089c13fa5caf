"""Copies of DICOM files with other attribute values: how a simulated study grows or is corrected.

Only the part before the pixel data is parsed and written again; the rest is copied as it is, so a copy of a
huge file needs no more memory than one of a small one.
"""
# pyright: reportUnknownMemberType=false

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import pydicom
from pydicom.dataset import FileDataset
from pydicom.uid import UID

from vna.simulated_pacs.elements import DEFLATED


def changed_copy(source: Path, target: Path, changes: Mapping[str, str]) -> None:
    """Write `source` to `target` (never the same file) with these attributes, keyword to value, changed.

    A changed SOPInstanceUID changes the File Meta Information too. The target appears complete or not at all.
    """
    partial = target.with_name(target.name + ".part")
    with source.open("rb") as file, partial.open("wb") as copy:
        header = pydicom.dcmread(file, stop_before_pixels=True, force=True)
        deflated = header.file_meta.get("TransferSyntaxUID") == DEFLATED
        if deflated:  # the file object that was parsed is not the one on the disk
            header = pydicom.dcmread(source)
        _change(header, changes)
        _write(header, copy)
        if not deflated:
            shutil.copyfileobj(file, copy, 1 << 20)
    partial.replace(target)


def _change(header: FileDataset, changes: Mapping[str, str]) -> None:
    for keyword, value in changes.items():
        setattr(header, keyword, value)
    if "SOPInstanceUID" in changes and "MediaStorageSOPInstanceUID" in header.file_meta:
        header.file_meta.MediaStorageSOPInstanceUID = UID(changes["SOPInstanceUID"])


def _write(header: FileDataset, copy: BinaryIO) -> None:
    implicit, little = header.original_encoding
    pydicom.dcmwrite(
        copy,
        header,
        implicit_vr=implicit,
        little_endian=little,
        enforce_file_format=False,
    )
