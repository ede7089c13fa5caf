"""Queries find exactly what a plain look at every file finds (PS3.4 C.2.2.2)."""

import random
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

import pytest
from pacs_client import World
from pydicom import dcmread
from pydicom.dataset import Dataset

from vna.simulated_pacs.matching import matcher

Make = Callable[..., World]

CASES = [
    ({"PatientID": "INVENTED-1-00002"}, lambda d: d.PatientID == "INVENTED-1-00002"),
    ({"PatientID": "INVENTED-1-0000?"}, lambda d: fnmatchcase(d.PatientID, "INVENTED-1-0000?")),
    ({"PatientID": "*3"}, lambda d: d.PatientID.endswith("3")),
    ({"PatientID": "invented-1-00002"}, lambda d: False),
    ({"PatientName": "exempel*"}, lambda d: "Exempel" in str(d.PatientName)),
    ({"PatientName": "Mustermann-Höß^Jörg"}, lambda d: "Jörg" in str(d.PatientName)),
    ({"PatientName": "*łucja"}, lambda d: "Łucja" in str(d.PatientName)),
    ({"PatientName": "山田*"}, lambda d: "山田" in str(d.PatientName)),
    ({"PatientName": "O'Sample^Finn"}, lambda d: False),
    ({"PatientName": "O'Sample^Finn^^Dr^"}, lambda d: "Finn" in str(d.PatientName)),
    ({"StudyDate": "20210101-20221231"}, lambda d: "20210101" <= d.StudyDate <= "20221231"),
    ({"StudyDate": "-20200630"}, lambda d: d.StudyDate <= "20200630"),
    ({"StudyDate": "20240101-"}, lambda d: d.StudyDate >= "20240101"),
    ({"StudyTime": "080000-120000"}, lambda d: 80000 <= float(d.StudyTime) <= 120000),
    ({"StudyTime": "08-12"}, lambda d: 80000 <= float(d.StudyTime) <= 120000),
    ({"StudyDate": "20210101-20221231", "StudyTime": "120000-"},
     lambda d: "20210101" <= d.StudyDate <= "20221231" and float(d.StudyTime) >= 120000),
    ({"AccessionNumber": "A1-00001?"}, lambda d: fnmatchcase(d.AccessionNumber, "A1-00001?")),
    ({"StudyDescription": "*CHEST*"}, lambda d: False),
    ({"StudyDescription": "*chest*"}, lambda d: "chest" in d.StudyDescription),
    ({"ReferringPhysicianName": "*invented"}, lambda d: "Invented" in str(d.ReferringPhysicianName)),
    ({"PatientSex": "F"}, lambda d: d.PatientSex == "F"),
    ({"PatientBirthDate": "19300101-19331231"}, lambda d: "19300101" <= d.PatientBirthDate <= "19331231"),
    ({"ModalitiesInStudy": "CT"}, lambda d: "CT" in d.all_modalities),
    ({"ModalitiesInStudy": "C*"}, lambda d: any(m.startswith("C") for m in d.all_modalities)),
    ({"StudyID": "*", "PatientID": "**"}, lambda d: True),
    ({}, lambda d: True),
]  # fmt: skip


@pytest.fixture
def files(world: Make) -> tuple[World, list[Dataset]]:
    made = world(count=40, series=2, instances=1)
    datasets = []
    for study in made.studies:
        dataset = dcmread(study.instances[0].path, stop_before_pixels=True)
        dataset.all_modalities = study.modalities
        datasets.append(dataset)
    return made, datasets


def test_a_query_finds_what_looking_at_every_file_finds(files: tuple[World, list[Dataset]]) -> None:
    made, datasets = files
    for keys, wanted in CASES:
        asked = {"StudyInstanceUID": "", "SpecificCharacterSet": "ISO_IR 192", **keys}
        found = [answer.StudyInstanceUID for answer in made.client.find("STUDY", **asked)]
        assert sorted(found) == sorted(d.StudyInstanceUID for d in datasets if wanted(d)), keys


def test_a_list_of_uids_finds_those_that_are_there(files: tuple[World, list[Dataset]]) -> None:
    made, datasets = files
    wanted = [d.StudyInstanceUID for d in random.Random(3).sample(datasets, 12)]
    found = made.client.find("STUDY", StudyInstanceUID="\\".join([*wanted, "1.2.3"]))
    assert sorted(answer.StudyInstanceUID for answer in found) == sorted(wanted)


@pytest.mark.parametrize(
    ("vr", "key", "matching", "other"),
    [
        (
            "TM",
            "115959-120000",
            ["115959", "115959.5", "120000", "12", "11:59:59.9"],
            ["120000.1", "115958.9", ""],
        ),
        ("TM", "-115959", ["115959", "000000"], ["115959.5", "12"]),
        ("TM", "1030", ["1030", "103000", "103000.0"], ["103001", "10"]),
        ("DA", "20240101-20240131", ["20240101", "20240131", "2024.01.15"], ["20240201", "", "20231231"]),
        ("DA", '""', [""], ["20240101"]),
        ("DA", "20240101", ["20240101"], ["20240102"]),
        ("LO", '""', [""], ["x"]),
        ("LO", "a.c", ["a.c"], ["abc"]),
        ("LO", "[ab]?", ["[ab]c"], ["ac"]),
        ("CS", "CT", ["CT", "CT\\MR", "MR\\CT"], ["MR", "CTX"]),
        ("UI", "1.2\\1.3", ["1.2", "1.3"], ["1.20", "1"]),
        ("IS", "5", ["5", "05", "+5"], ["50", ""]),
        ("PN", "doe^john", ["Doe^John", "DOE^JOHN^^^", "X=Doe^John"], ["Doe^Johnny", "Doe"]),
        ("PN", "doe*", ["Doe^John", "Doe"], ["John^Doe"]),
    ],
)
def test_a_value_matches_as_the_standard_says(
    vr: str, key: str, matching: Iterable[str], other: Iterable[str]
) -> None:
    matches = matcher(vr, key)
    assert matches is not None
    assert [text for text in matching if not matches(text)] == []
    assert [text for text in other if matches(text)] == []


@pytest.mark.parametrize(("vr", "key"), [("LO", ""), ("LO", "*"), ("PN", "**"), ("DA", "")])
def test_an_empty_key_or_a_lone_asterisk_matches_everything(vr: str, key: str) -> None:
    assert matcher(vr, key) is None
