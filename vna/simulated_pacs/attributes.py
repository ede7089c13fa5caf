"""The attributes the simulated PACS knows at each level, how their text is read from files and queries, and how
it is written into answers (PS3.4 C.6, PS3.5 6.1 and 6.2).
"""
# pyright: reportUnknownMemberType=false

import struct
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from pydicom.charset import convert_encodings, decode_bytes, encode_string
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.valuerep import PersonName

LEVELS = ("PATIENT", "STUDY", "SERIES", "IMAGE")

_STORED: Mapping[str, str] = {
    "PATIENT": "PatientName PatientID IssuerOfPatientID PatientBirthDate PatientBirthTime PatientSex OtherPatientIDs "
    "EthnicGroup PatientComments",
    "STUDY": "StudyInstanceUID StudyDate StudyTime AccessionNumber StudyID ReferringPhysicianName StudyDescription "
    "NameOfPhysiciansReadingStudy AdmittingDiagnosesDescription PatientAge PatientSize PatientWeight Occupation",
    "SERIES": "SeriesInstanceUID Modality SeriesNumber SeriesDescription SeriesDate SeriesTime BodyPartExamined "
    "ProtocolName Laterality PerformingPhysicianName OperatorsName Manufacturer InstitutionName "
    "InstitutionalDepartmentName StationName ManufacturerModelName PerformedProcedureStepStartDate "
    "PerformedProcedureStepStartTime",
    "IMAGE": "SOPInstanceUID SOPClassUID InstanceNumber ContentDate ContentTime AcquisitionDate AcquisitionTime "
    "AcquisitionNumber InstanceCreationDate InstanceCreationTime ImageType NumberOfFrames Rows Columns BitsAllocated",
}
_COMPUTED: Mapping[str, str] = {
    "PATIENT": "NumberOfPatientRelatedStudies NumberOfPatientRelatedSeries NumberOfPatientRelatedInstances",
    "STUDY": "ModalitiesInStudy SOPClassesInStudy NumberOfStudyRelatedSeries NumberOfStudyRelatedInstances",
    "SERIES": "NumberOfSeriesRelatedInstances",
    "IMAGE": "AvailableTransferSyntaxUID",
}


def tag_of(keyword: str) -> int:
    """The tag of a keyword of the dictionary."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    return tag


def _tags(table: Mapping[str, str]) -> dict[int, int]:
    return {tag_of(keyword): LEVELS.index(level) for level, text in table.items() for keyword in text.split()}


STORED: Mapping[int, int] = MappingProxyType(_tags(_STORED))
"""Tags read from files, each with the index of its level in `LEVELS`."""
COMPUTED: Mapping[int, int] = MappingProxyType(_tags(_COMPUTED))
"""Tags summed up over what lies below."""
COUNTS = frozenset(tag for tag in COMPUTED if dictionary_VR(tag) == "IS")
VRS: Mapping[int, str] = MappingProxyType({tag: dictionary_VR(tag) for tag in (*STORED, *COMPUTED)})

CHARACTER_SET, QUERY_LEVEL, RETRIEVE_AET, AVAILABILITY = 0x00080005, 0x00080052, 0x00080054, 0x00080056
STUDY_DATE, STUDY_TIME, SOP_CLASS_UID, SOP_INSTANCE_UID = 0x00080020, 0x00080030, 0x00080016, 0x00080018
MODALITY, MODALITIES_IN_STUDY, SOP_CLASSES_IN_STUDY = 0x00080060, 0x00080061, 0x00080062
PATIENT_NAME, PATIENT_ID, STUDY_UID, SERIES_UID = 0x00100010, 0x00100020, 0x0020000D, 0x0020000E
INSTANCE_NUMBER, AVAILABLE_SYNTAX, TRANSFER_SYNTAX_UID = 0x00200013, 0x00083002, 0x00020010

UNIQUE_KEYS: Mapping[str, int] = MappingProxyType(
    {"PATIENT": PATIENT_ID, "STUDY": STUDY_UID, "SERIES": SERIES_UID, "IMAGE": SOP_INSTANCE_UID}
)
_CHARSET_VRS = frozenset({"SH", "LO", "ST", "PN", "LT", "UC", "UT"})
_DELIMITERS = {0x0A, 0x0C, 0x0D, 0x5C}
_NAME_DELIMITERS = {0x5E, 0x3D, *_DELIMITERS}


def text_of(vr: str, value: bytes, charset: str, order: str = "<") -> str:
    """A raw value as text, several values apart by backslash; what cannot be read is replaced, never refused."""
    if vr == "US":
        return "\\".join(map(str, struct.unpack(f"{order}{len(value) // 2}H", value[: len(value) // 2 * 2])))
    if vr in _CHARSET_VRS and charset and (not value.isascii() or b"\x1b" in value):
        encodings = convert_encodings(charset.split("\\"))
        text = decode_bytes(value, encodings, _NAME_DELIMITERS if vr == "PN" else _DELIMITERS)
    else:
        text = value.decode("ascii" if value.isascii() else "latin-1")
    return text.rstrip(" \0") if vr in {"UT", "ST", "LT"} else text.strip(" \0")


def bytes_of(vr: str, text: str, charset: str) -> bytes:
    """Text as a raw value in a character set; characters it does not have become question marks."""
    if vr == "US":
        return struct.pack(f"<{text.count(chr(92)) + 1}H", *map(int, text.split("\\"))) if text else b""
    if text.isascii():
        return text.encode("ascii")
    if vr not in _CHARSET_VRS:
        return text.encode("latin-1", "replace")
    encodings = convert_encodings(charset.split("\\") if charset else None)
    if len(encodings) == 1:
        return text.encode(encodings[0], "replace")
    if vr == "PN":
        name = PersonName(text)
        return name.encode(encodings) if name else b""
    return b"\\".join(_encoded(part, encodings) for part in text.split("\\"))


def _encoded(text: str, encodings: Sequence[str]) -> bytes:
    return encode_string(text, encodings)
