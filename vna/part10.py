"""Where in a DICOM file the header ends and the data set begins (PS3.10 7.1).

The child that parses strangers' data sets (`vna/indexing/reading.py`) finds it by itself, because it imports
nothing of us.
"""

import struct

PREFIX_BYTES = 128 + 4 + 12
"""Preamble, "DICM", and the first element of File Meta, its own length: (0002,0000) UL."""
_LARGEST_HEADER = 1 << 20


def header_length(start: bytes | memoryview) -> int:
    """Bytes of preamble and File Meta, from the first `PREFIX_BYTES` of a file or more; 0 if it is no such file."""
    if len(start) < PREFIX_BYTES or bytes(start[128:140]) != b"DICM\x02\x00\x00\x00UL\x04\x00":
        return 0
    length = PREFIX_BYTES + int(struct.unpack_from("<L", start, 140)[0])
    return length if length <= _LARGEST_HEADER else 0
