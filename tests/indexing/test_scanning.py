"""The scan by hand and pydicom say the same of every file, or the scan says nothing."""

import contextlib
import logging
import random
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom.config
import pytest
from pydicom.data import get_testdata_files
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from tests.storage.received_files import content
from vna.catalog import KEYWORDS
from vna.indexing import reading
from vna.simulated_pacs import write_studies

CORPUS = Path(__file__).resolve().parents[2] / "../shared/data/dev"
KEYS = list(KEYWORDS)


@pytest.fixture(autouse=True)
def as_in_the_child(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(pydicom.config.settings, "_reading_validation_mode", pydicom.config.IGNORE)
    logging.disable()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


def scanned(path: Path) -> dict[str, Any] | None:
    with (
        path.open("rb") as file,
        contextlib.suppress(reading._UnusualError, struct.error, UnicodeDecodeError),
    ):
        return reading._scan(file, tuple(KEYS))
    return None


def by_the_library(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return reading._identity(reading._read_dataset(path, file, KEYS), KEYS)


def compared(paths: list[Path]) -> int:
    """How many of them were scanned; each of these is read by the library too."""
    count = 0
    for path in paths:
        found = scanned(path)
        if found is not None:
            count += 1
            assert found == by_the_library(path), path.name
    return count


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize(
    ("charset", "name"),
    [(None, "Doe^Jane"), ("ISO_IR 100", "Höß^Jörg^^Dr."), ("ISO_IR 192", "Przykład^Łucja")],
)
def test_an_ordinary_data_set_is_scanned(tmp_path: Path, syntax: str, charset: str | None, name: str) -> None:
    path = tmp_path / "one.dcm"
    data, _ = content(
        transfer_syntax=syntax,
        SpecificCharacterSet=charset,
        PatientName=name,
        PatientWeight="70.5",
        StudyTime="120000.25",
        Rows=512,
    )
    path.write_bytes(data)
    found = scanned(path)
    assert found is not None
    assert found["attributes"]["PatientName"] == name
    assert found["attributes"]["Rows"] == "512"
    assert found == by_the_library(path)


@pytest.mark.parametrize("syntax", [DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_another_encoding_is_left_to_the_library(tmp_path: Path, syntax: str) -> None:
    path = tmp_path / "one.dcm"
    path.write_bytes(content(transfer_syntax=syntax)[0])
    assert scanned(path) is None


@pytest.mark.parametrize(
    "odd",
    [
        {"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientName": "Yamada^Tarou"},
        {"SpecificCharacterSet": "ISO_IR 13", "PatientName": "Yamada^Tarou"},
        {"SpecificCharacterSet": "ISO_IR 192", "PatientName": "Yamada^Tarou=山田^太郎"},
        {"InstitutionName": "A\\B"},
        {"InstanceNumber": "+007"},
    ],
)
def test_a_value_that_needs_thought_is_left_to_the_library(tmp_path: Path, odd: dict[str, Any]) -> None:
    path = tmp_path / "one.dcm"
    path.write_bytes(content(**odd)[0])
    assert scanned(path) is None
    assert by_the_library(path)["sop_instance_uid"]


def test_a_large_element_before_the_last_one_wanted_is_read_past(tmp_path: Path) -> None:
    path = tmp_path / "one.dcm"
    path.write_bytes(content(InstanceNumber="7", Rows=3, DerivationDescription="x" * 60_000)[0])
    found = scanned(path)
    assert found is not None
    assert found["attributes"]["Rows"] == "3"
    assert found == by_the_library(path)


def test_what_the_scan_says_of_anybodys_files_is_what_the_library_says() -> None:
    files = [Path(name) for name in get_testdata_files("*.dcm")]
    if CORPUS.is_dir():
        files += [path for path in CORPUS.rglob("*") if path.is_file()]
    readable = [path for path in files if path.open("rb").read(132)[128:] == b"DICM"]
    assert compared(readable) > 50


def test_what_the_scan_says_of_damaged_files_is_what_the_library_says(tmp_path: Path) -> None:
    chance = random.Random(5)
    studies = write_studies(tmp_path / "source", 8, instances=1, size_bytes=256)
    whole = [instance.path.read_bytes() for study in studies for instance in study.instances]
    whole += [
        content(SpecificCharacterSet="ISO_IR 100", Rows=512, transfer_syntax=ImplicitVRLittleEndian)[0]
    ] * 8
    path, count = tmp_path / "damaged.dcm", 0
    for _ in range(3000):
        path.write_bytes(damaged(chance.choice(whole), chance))
        count += compared([path])
    assert count > 100


def damaged(data: bytes, chance: random.Random) -> bytes:
    """A file with a byte changed, cut out or put in somewhere in the first part of its data set."""
    changed = bytearray(data)
    start = 144 + int.from_bytes(data[140:144], "little")
    at = chance.randrange(start, min(len(changed), start + 700))
    match chance.randrange(3):
        case 0:
            changed[at] = chance.randrange(256)
        case 1:
            del changed[at : at + chance.randrange(1, 9)]
        case _:
            changed[at:at] = chance.randbytes(chance.randrange(1, 5))
    return bytes(changed)
