"""Files to be queried, queries made by chance, and what a plain filter over the files finds: nothing of it shares code
with what it is the control of.
"""

import fnmatch
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pydicom
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

UNIQUE = {
    "PATIENT": ["PatientID"],
    "STUDY": ["StudyInstanceUID"],
    "SERIES": ["StudyInstanceUID", "SeriesInstanceUID"],
    "IMAGE": ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"],
}
LEVELS = list(UNIQUE)
OF_LEVEL = {
    "PATIENT": ["PatientID", "PatientName", "PatientBirthDate", "PatientSex"],
    "STUDY": [
        *("StudyInstanceUID", "StudyDate", "StudyTime", "AccessionNumber", "StudyID", "StudyDescription"),
        *("ReferringPhysicianName", "ModalitiesInStudy", "SOPClassesInStudy"),
    ],
    "SERIES": ["SeriesInstanceUID", "Modality", "SeriesNumber", "SeriesDescription", "BodyPartExamined"],
    "IMAGE": ["SOPInstanceUID", "SOPClassUID", "InstanceNumber", "ContentDate", "Rows"],
}
COUNTS = {
    "PATIENT": [
        "NumberOfPatientRelatedStudies",
        "NumberOfPatientRelatedSeries",
        "NumberOfPatientRelatedInstances",
    ],
    "STUDY": ["NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances"],
    "SERIES": ["NumberOfSeriesRelatedInstances"],
    "IMAGE": [],
}
_NAMES = [  # of nobody: the standard's own examples (PS3.5 annexes H and J) and inventions
    ("", "Doe^Jane"),
    ("", "DOE^JOHN^Q^^Dr"),
    ("", "O'Sample^Finn"),
    ("", "Doering"),
    ("", ""),
    ("", "van der Beispiel^Jan^^Prof^PhD"),
    ("ISO_IR 100", "Müller-Höß^Jörg"),
    ("ISO_IR 100", "MÜLLER^Élodie"),
    ("ISO_IR 192", "Przykład^Łucja"),
    ("ISO_IR 144", "Примеров^Пётр"),
    ("\\ISO 2022 IR 87", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    ("GB18030", "Wang^XiaoDong=王^小东"),
]
_DESCRIPTIONS = ["CT Thorax", "Thorax [low]", "Head 100%", "head_neck", "Knee", "", "Lung*test"]
_CLASSES = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "SR": "1.2.840.10008.5.1.4.1.1.88.11",
}
_ROOT = "1.2.826.0.1.3680043.10.55"


def write_files(folder: Path, seed: int, patients: int = 30) -> list[Path]:
    """Headers without pixels: what a department sends, with dates that are missing, old or odd."""
    chance = random.Random(seed)
    paths: list[Path] = []
    for patient in range(patients):
        character_set, name = chance.choice(_NAMES)
        person = {
            "SpecificCharacterSet": character_set,
            "PatientName": name,
            "PatientID": f"{chance.choice('ABab')}{patient:03d}",
            "PatientBirthDate": chance.choice(["19600229", "19751231", "20010101", ""]),
            "PatientSex": chance.choice(["F", "M", "O", ""]),
        }
        for study in range(chance.randrange(1, 4)):
            paths += _write_study(folder, chance, person, f"{_ROOT}.{patient}.{study}")
    return paths


def _write_study(folder: Path, chance: random.Random, person: Mapping[str, str], uid: str) -> list[Path]:
    day = chance.choice(["20240131", "20240201", "20240229", "20231231", "2024.02.29", ""])
    study = {
        **person,
        "StudyInstanceUID": uid,
        "StudyDate": day,
        "StudyTime": chance.choice(
            ["115959", "115959.5", "120000", "0830", "08", "235959.999999", "08:15:30", ""]
        ),
        "AccessionNumber": chance.choice(
            ["", f"ACC{chance.randrange(50):02d}", f"acc{chance.randrange(50):02d}"]
        ),
        "StudyID": str(chance.randrange(20)),
        "StudyDescription": chance.choice(_DESCRIPTIONS),
        "ReferringPhysicianName": chance.choice(["House^Gregory", "HOUSE^G", "Watson", ""]),
    }
    paths = []
    for series in range(chance.randrange(1, 4)):
        modality = chance.choice([*_CLASSES])
        of_series = {
            **study,
            "SeriesInstanceUID": f"{uid}.{series}",
            "Modality": modality,
            "SOPClassUID": _CLASSES[modality],
            "SeriesNumber": chance.choice(["1", "01", "2", ""]),
            "SeriesDescription": chance.choice(_DESCRIPTIONS),
            "BodyPartExamined": chance.choice(["CHEST", "KNEE", ""]),
        }
        for instance in range(chance.randrange(1, 4)):
            of = {
                **of_series,
                "SOPInstanceUID": f"{uid}.{series}.{instance}",
                "InstanceNumber": f"{instance + 1:0{chance.choice([1, 3])}d}",
                "ContentDate": day,
            }
            rows = chance.choice([256, 512])
            syntax = chance.choice([ExplicitVRLittleEndian, ImplicitVRLittleEndian])
            paths.append(_write_file(folder, of, rows, syntax))
    return paths


def _write_file(folder: Path, of: Mapping[str, str], rows: int, syntax: str) -> Path:
    dataset = Dataset()
    for keyword, text in of.items():
        setattr(dataset, keyword, text.split("\\") if keyword == "SpecificCharacterSet" and text else text)
    dataset.Rows = rows
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = of["SOPClassUID"]
    dataset.file_meta.MediaStorageSOPInstanceUID = of["SOPInstanceUID"]
    path = folder / f"{of['SOPInstanceUID']}.dcm"
    dcmwrite(path, dataset, enforce_file_format=True)
    return path


# -- the control


class Files:
    """The files as a filter sees them: everything read by the library, everything compared one by one."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._instances = [_texts(pydicom.dcmread(path)) for path in paths]

    def entities(self, level: str) -> list[dict[str, str]]:
        """Every patient, study, series or instance with all that could be asked of it."""
        groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
        for one in self._instances:
            groups.setdefault(tuple(one[keyword] for keyword in UNIQUE[level]), []).append(one)
        return [self._entity(level, group[0]) for group in groups.values()]

    def _entity(self, level: str, one: dict[str, str]) -> dict[str, str]:
        study = [other for other in self._instances if other["StudyInstanceUID"] == one["StudyInstanceUID"]]
        patient = [other for other in self._instances if other["PatientID"] == one["PatientID"]]

        def distinct(group: list[dict[str, str]], keyword: str) -> list[str]:
            return sorted({other[keyword] for other in group} - {""})

        return {
            **one,
            "ModalitiesInStudy": "\\".join(distinct(study, "Modality")),
            "SOPClassesInStudy": "\\".join(distinct(study, "SOPClassUID")),
            "NumberOfPatientRelatedStudies": str(len(distinct(patient, "StudyInstanceUID"))),
            "NumberOfPatientRelatedSeries": str(len(distinct(patient, "SeriesInstanceUID"))),
            "NumberOfPatientRelatedInstances": str(len(patient)),
            "NumberOfStudyRelatedSeries": str(len(distinct(study, "SeriesInstanceUID"))),
            "NumberOfStudyRelatedInstances": str(len(study)),
            "NumberOfSeriesRelatedInstances": str(
                sum(other["SeriesInstanceUID"] == one["SeriesInstanceUID"] for other in study)
            ),
        }

    def answers(self, level: str, keys: Mapping[str, str]) -> list[dict[str, str]]:
        """What a query must be answered with: the keys asked for and the unique ones, in no order."""
        told = {*keys, *UNIQUE[level]}
        return [
            {keyword: entity[keyword] for keyword in told}
            for entity in self.entities(level)
            if all(is_match(keyword, key, entity[keyword]) for keyword, key in keys.items())
        ]


def _texts(dataset: Dataset) -> dict[str, str]:
    return {element.keyword: _text(element.value) for element in dataset if element.keyword}


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, (list, pydicom.multival.MultiValue)):
        return "\\".join(str(one) for one in value)
    return str(value).strip()


def is_match(keyword: str, key: str, value: str) -> bool:
    """PS3.4 C.2.2.2, as plainly as it can be said."""
    vr = dictionary_VR(keyword)
    if key == "" or keyword.startswith("NumberOf"):
        return True
    if key == '""':
        return value == ""
    wanted = key.split("\\")
    if vr == "UI" or keyword == "ModalitiesInStudy":
        return any(_is_like(one, text) for one in wanted for text in value.split("\\"))
    if vr in {"DA", "TM"}:
        return _is_within(vr, key, value)
    if vr in {"IS", "US"}:
        return value != "" and int(value) == int(key)
    if vr == "PN":
        return any(_is_name(one, value) for one in wanted)
    return any(_is_like(one, value) for one in wanted)


def _is_like(key: str, value: str) -> bool:
    pattern = key.replace("[", "[[]")  # to fnmatch a bracket is special, to DICOM it is not
    return re.match(fnmatch.translate(pattern), value) is not None


def _is_name(key: str, value: str) -> bool:
    """Without case; trailing empty components do not count, so the name may as well have them."""
    groups = value.casefold().split("=")
    keys = key.casefold().split("=")

    def is_group(wanted: str, group: str) -> bool:
        return any(_is_like(wanted, group.rstrip("^") + "^" * more) for more in range(5))

    if len(keys) == 1:
        return any(is_group(keys[0], group) for group in groups)
    groups += [""] * (len(keys) - len(groups))
    return all(wanted == "" or is_group(wanted, group) for wanted, group in zip(keys, groups, strict=False))


def _is_within(vr: str, key: str, value: str) -> bool:
    """Both ends belong to the range; what is not given of a time is any (`08` is the whole hour)."""
    if not value:
        return False
    first, last = key.split("-") if "-" in key else (key, key)
    length = 8 if vr == "DA" else 12
    moment = re.sub("[.:]", "", value).ljust(length, "0")
    low, high = first.replace(".", ""), last.replace(".", "")
    return moment[: len(low)] >= low and (not high or moment[: len(high)] <= high)


# -- queries


def queries(files: Files, count: int, seed: int) -> Iterator[tuple[str, dict[str, str]]]:
    """Queries at every level: one to three keys made of values that exist, and some that do not; (level, keys)."""
    chance = random.Random(seed)
    for number in range(count):
        level = LEVELS[number % len(LEVELS)]
        above = LEVELS[: LEVELS.index(level) + 1]
        keywords = [keyword for one in above for keyword in OF_LEVEL[one]]
        entities = files.entities(level)
        like = chance.choice(entities)
        keys: dict[str, str] = {}
        for keyword in chance.sample(keywords, chance.randrange(1, 4)):
            keys[keyword] = _key(chance, keyword, like, entities)
        asked = chance.sample(keywords, chance.randrange(0, 5)) + COUNTS[level]
        yield level, {**dict.fromkeys(asked, ""), **keys}


def _key(
    chance: random.Random, keyword: str, like: Mapping[str, str], entities: Sequence[Mapping[str, str]]
) -> str:
    vr, value = dictionary_VR(keyword), like[keyword]
    others = [chance.choice(entities)[keyword] for _ in range(3)]
    if vr == "UI":
        return "\\".join(dict.fromkeys(["1.2.3.4.5", *filter(None, [value, *others])]))
    if not value:
        return "" if vr in {"IS", "US"} else chance.choice(["", '""'])
    if vr == "DA":
        return chance.choice(
            ["20240229", "20240101-20240131", "20240201-", "-20240131", value.replace(".", "")]
        )
    if vr == "TM":
        return chance.choice(["0830-115959", "115959.5-", "-12", "08", "120000-235959", "115959"])
    if vr in {"IS", "US"}:
        return str(int(value))
    if vr == "PN":
        return _name_key(chance, value)
    start = chance.randrange(len(value))
    return chance.choice(
        [
            value,
            f"{value[:start]}*",
            f"*{value[start:]}",
            f"{value[:start]}?{value[start + 1 :]}",
            f"*{value[1:-1]}*",
        ]
        + ([f"{value}\\{others[0]}"] if others[0] and vr in {"CS", "SH", "LO"} else [])
    )


def _name_key(chance: random.Random, value: str) -> str:
    groups = value.split("=")
    group = chance.choice(groups)
    family, _, rest = group.partition("^")
    return chance.choice(
        [
            group.upper(),
            f"{family.lower()}^*",
            f"{family[:2]}*",
            f"*{family[-1]}^{rest[:1]}*" if rest else f"{family}^*^*",
            f"*^{rest}" if rest else family.swapcase(),
            f"{family[:1]}?{family[2:]}^*" if len(family) > 1 else "*",
            f"*{group[1:3]}*",
            f"={groups[1]}" if len(groups) > 1 else f"{family}^{rest}^^",
            value,
        ]
    )
