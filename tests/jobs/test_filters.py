"""Filters: what people write, and which studies fit by the standard's rules (PS3.4 C.2.2.2)."""

import pytest

from vna.errors import FilterInvalid
from vna.jobs.filters import (
    REQUIRED_KEYWORDS,
    Match,
    judge,
    judge_deeper,
    make_filter,
    parse_filter,
    query_keys,
)


@pytest.mark.parametrize(
    ("condition", "value", "fits"),
    [
        ("PatientName=DOE^J*", "Doe^John", True),
        ("PatientName=DOE^JOHN", "DOE^JOHN^^^", True),
        ("PatientName=YAMADA^TAROU", "YAMADA^TAROU=山田^太郎", True),
        ("PatientName=山田*", "YAMADA^TAROU=山田^太郎", True),
        ("PatientName=DOE", "DOERING^A", False),
        ("PatientID=12?4", "1234", True),
        ("PatientID=12?4", "12345", False),
        ("PatientID=abc", "ABC", False),
        ("StudyDate=20240101-20240131", "20240131", True),
        ("StudyDate=20240101-20240131", "20240201", False),
        ("StudyDate=20240101-", "2024.01.02", True),
        ("StudyDate=-20240131", "", False),
        ("StudyTime=0800-1159", "115959.999", True),
        ("StudyTime=0800-1159", "120000", False),
        ("Modality=CT", "MR\\CT", True),
        ("Modality=CT\\US", "US", True),
        ("Modality=CT", "MR\\PR", False),
        ("0008,0080=North*", "North General", True),
        ("(0008,0080)=North*", "South General", False),
        ("SeriesNumber=3", "3.0", True),
        ("StudyInstanceUID=1.2.3\\1.2.4", "1.2.4", True),
    ],
)
def test_a_value_fits_a_condition_by_the_standards_rules(condition: str, value: str, fits: bool) -> None:
    assert parse_filter(condition).matches(value) is fits


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("PatientID", "write it as Keyword=value"),
        ("PatientID=", "no value"),
        ("Modalty=CT", "neither a DICOM keyword nor a tag"),
        ("PixelData=1", "no attribute that can be compared"),
        ("ReferencedStudySequence=1", "no attribute that can be compared"),
        ("StudyDate=20240230", "not a date"),
        ("StudyDate=-", "neither a first nor a last"),
        ("StudyDate=20240301-20240201", "before it begins"),
        ("StudyTime=25h", "not a time"),
        ("StudyInstanceUID=1.2.x", "not a UID"),
    ],
)
def test_a_condition_that_cannot_be_right_says_why(text: str, reason: str) -> None:
    with pytest.raises(FilterInvalid, match=reason):
        parse_filter(text)


def test_a_modality_is_asked_of_the_study_and_found_in_its_series() -> None:
    condition = make_filter("Modality", "CT")
    assert query_keys([condition]) == {"ModalitiesInStudy": "CT"}
    assert judge([condition], {"ModalitiesInStudy": ""})[0] is Match.unknown
    assert judge_deeper([condition], {"ModalitiesInStudy": ["MR", "CT"]}) is Match.yes
    assert judge_deeper([condition], {"ModalitiesInStudy": ["MR"]}) is Match.no


def test_an_empty_required_key_is_an_answer_and_an_empty_optional_one_is_not() -> None:
    by_date, by_description = parse_filter("StudyDate=20240101-"), parse_filter("StudyDescription=CHEST*")
    assert judge([by_date], {"StudyDate": ""})[0] is Match.no
    assert judge([by_description], {"StudyDescription": ""})[0] is Match.unknown
    told = REQUIRED_KEYWORDS | {"StudyDescription"}
    assert judge([by_description], {"StudyDescription": ""}, told)[0] is Match.no


def test_an_attribute_that_no_level_tells_stays_unknown() -> None:
    condition = parse_filter("InstitutionName=North*")
    assert judge([condition], {"InstitutionName": ""})[0] is Match.unknown
    assert judge([condition], {})[0] is Match.unknown
    assert judge_deeper([condition], {"InstitutionName": ["", ""]}) is Match.unknown
    assert judge_deeper([condition], {"InstitutionName": ["South", ""]}) is Match.unknown
    assert judge_deeper([condition], {"InstitutionName": ["South"]}) is Match.no


def test_only_study_level_keys_are_asked_and_of_two_on_one_key_the_first() -> None:
    wanted = [parse_filter(text) for text in ("PatientID=1*", "PatientID=*2", "StationName=CT2")]
    assert query_keys(wanted) == {"PatientID": "1*"}
    assert judge(wanted[:2], {"PatientID": "12"})[0] is Match.yes
    assert judge(wanted[:2], {"PatientID": "13"})[0] is Match.no
