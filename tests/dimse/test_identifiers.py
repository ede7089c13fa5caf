"""Keys to bytes and answers to text."""

from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import config
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.dsutils import encode

from vna.dimse.identifiers import decode_identifier, encode_identifier

BOTH = pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian], ids=["explicit", "implicit"]
)


def encoded(dataset: Dataset, syntax: UID) -> bytes:
    data = encode(dataset, syntax.is_implicit_VR, syntax.is_little_endian)
    assert data is not None
    return data


@BOTH
def test_every_kind_of_value_is_text_with_several_values_joined(syntax: UID) -> None:
    answer = Dataset()
    answer.StudyInstanceUID = "1.2.3"
    answer.ModalitiesInStudy = ["CT", "SR"]
    answer.StudyDate = "20240229"
    answer.AccessionNumber = ""
    answer.NumberOfStudyRelatedInstances = 12
    answer.Rows = 512
    answer.add_new(0x00091001, "LO", "private")
    answer.PatientName = "Test^Person"
    texts = decode_identifier(encoded(answer, syntax), syntax)
    assert texts == {
        "StudyInstanceUID": "1.2.3",
        "ModalitiesInStudy": "CT\\SR",
        "StudyDate": "20240229",
        "AccessionNumber": "",
        "NumberOfStudyRelatedInstances": "12",
        "Rows": "512",
        "00091001": "private",
        "PatientName": "Test^Person",
    }


@BOTH
def test_a_sequence_in_an_answer_is_left_out_and_the_rest_read(syntax: UID) -> None:
    answer = Dataset()
    answer.StudyInstanceUID = "1.2.3"
    answer.ReferencedStudySequence = Sequence([Dataset()])
    answer.ReferencedStudySequence[0].StudyDescription = "inside"
    answer.StudyID = "7"
    texts = decode_identifier(encoded(answer, syntax), syntax)
    assert texts["StudyID"] == "7"
    assert "StudyDescription" not in texts


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("ISO_IR 100", "Müller^Änne"),
        ("ISO_IR 192", "Łucja^山田"),
        ("ISO_IR 144", "Люкceмбypг"),
        ("GB18030", "Wang^XiaoDong=王^小东"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        (["ISO 2022 IR 6", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
    ],
)
def test_an_answer_is_read_by_its_own_character_set(charset: str | list[str], name: str) -> None:
    answer = Dataset()
    answer.SpecificCharacterSet = charset
    answer.PatientName = name
    answer.StudyDescription = "plain"
    texts = decode_identifier(encoded(answer, ExplicitVRLittleEndian), ExplicitVRLittleEndian)
    assert texts["PatientName"] == name
    assert texts["StudyDescription"] == "plain"


def test_a_character_set_nobody_knows_or_that_lies_does_not_lose_the_study() -> None:
    data = b"\x08\x00\x05\x00CS\x06\x00KLINGO\x10\x00\x10\x00PN\x04\x00M\xfcll\x10\x00\x20\x00LO\x02\x0012"
    texts = decode_identifier(data, ExplicitVRLittleEndian)
    assert texts["PatientID"] == "12"
    assert texts["PatientName"].startswith("M")


@BOTH
def test_padding_is_no_part_of_a_value(syntax: UID) -> None:
    answer = Dataset()
    for keyword, vr, value in (("StudyInstanceUID", "UI", "1.2.3\0\0"), ("StudyID", "SH", "12  ")):
        answer.add(DataElement(keyword, vr, value, validation_mode=config.IGNORE))
    assert decode_identifier(encoded(answer, syntax), syntax) == {
        "StudyInstanceUID": "1.2.3",
        "StudyID": "12",
    }


@pytest.mark.parametrize(
    "garbage", [b"", b"\0", b"HTTP/1.1 400", b"\x08\x00\x05\x00CS\xff\xff12", b"\xff" * 64]
)
@BOTH
def test_what_is_no_data_set_is_an_error(garbage: bytes, syntax: UID) -> None:
    with pytest.raises(ValueError):
        decode_identifier(garbage, syntax)


@given(data=st.binary(max_size=200), syntax=st.sampled_from([ExplicitVRLittleEndian, ImplicitVRLittleEndian]))
def test_hostile_bytes_are_text_or_one_error(data: bytes, syntax: UID) -> None:
    try:
        texts = decode_identifier(data, syntax)
    except ValueError:
        return
    assert all(isinstance(text, str) for text in texts.values())


def test_keys_that_are_not_ascii_are_sent_in_utf8_and_told_so() -> None:
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        keys = {
            "PatientName": "Mü*",
            "StudyDate": "20240101-",
            "00091001": "x",
            "StudyInstanceUID": "1.2\\1.3",
        }
        sent = read_dataset(
            BytesIO(encode_identifier(keys, syntax).read()), syntax.is_implicit_VR, syntax.is_little_endian
        )
        assert sent.SpecificCharacterSet == "ISO_IR 192"
        assert str(sent.PatientName) == "Mü*"
        assert sent.StudyDate == "20240101-"
        assert sent.StudyInstanceUID == ["1.2", "1.3"]


def test_plain_keys_tell_no_character_set() -> None:
    data = encode_identifier({"PatientID": "1"}, ExplicitVRLittleEndian).read()
    assert "SpecificCharacterSet" not in decode_identifier(data, ExplicitVRLittleEndian)


@BOTH
def test_a_nul_inside_a_value_is_replaced_since_no_database_takes_one(syntax: UID) -> None:
    answer = Dataset()
    for keyword, vr in (("StudyDate", "DA"), ("StudyInstanceUID", "UI"), ("StudyDescription", "LO")):
        element = DataElement(keyword, vr, "1\0002\000", validation_mode=config.IGNORE)
        answer.add(element)
    texts = decode_identifier(encoded(answer, syntax), syntax)
    assert set(texts.values()) == {"1\ufffd2"}
