"""Where the header of a DICOM file ends, whoever wrote it."""

from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file

from vna.errors import DatasetUnreadable
from vna.part10 import PREFIX_BYTES, header_length
from vna.spool import dataset_offset
from vna.storage.digests import read_digests


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm", "JPEG2000.dcm", "image_dfl.dcm"])
def test_the_data_set_begins_where_a_dicom_library_says_so(name: str) -> None:
    path = Path(str(get_testdata_file(name, download=False)))
    with path.open("rb") as file:
        pydicom.filereader.read_preamble(file, force=False)
        pydicom.filereader._read_file_meta_info(file)  # type: ignore[attr-defined]
        begins = file.tell()
    assert header_length(path.read_bytes()) == begins
    assert dataset_offset(path) == begins
    assert read_digests(path).header_length == begins


@pytest.mark.parametrize(
    "start",
    [
        b"",
        bytes(PREFIX_BYTES),
        bytes(128) + b"DICM\2\0\0\0UL\4\0",
        bytes(128) + b"DICM\2\0\0\0UL\4\0\xff\xff\xff\xff",
        bytes(128) + b"DICM\2\0\1\0OB\0\0\2\0\0\0",
    ],
    ids=["empty", "zeros", "cut", "4 GB of header", "no length"],
)
def test_what_does_not_begin_as_a_dicom_file_has_no_header(start: bytes, tmp_path: Path) -> None:
    assert header_length(start) == 0
    assert header_length(memoryview(start)) == 0
    (tmp_path / "file").write_bytes(start)
    with pytest.raises(DatasetUnreadable):
        dataset_offset(tmp_path / "file")
