"""One object of a gigabyte: a multi-frame image as cardiology and pathology send them."""

import os
import struct
from pathlib import Path

import pydicom

_FRAME_BYTES = 512 * 512 * 2
_BLOCK_BYTES = 2**20


def write_large(path: Path, pattern: Path, size_bytes: int) -> Path:
    """An instance like `pattern` (explicit little endian) with about `size_bytes` of pixel data; never in memory."""
    instance = pydicom.dcmread(pattern, stop_before_pixels=True)
    frames = size_bytes // _FRAME_BYTES
    instance.NumberOfFrames, instance.Rows, instance.Columns = frames, 512, 512
    instance.save_as(path)
    left = frames * _FRAME_BYTES
    with path.open("ab") as file:
        file.write(struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, left))
        block = os.urandom(_BLOCK_BYTES)
        while left:
            left -= file.write(block[:left])
    return path
