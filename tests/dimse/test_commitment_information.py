"""Action and Event Information: as the library writes and reads them, and nothing hostile does more than be refused."""

import random
import struct
import tracemalloc
from io import BytesIO

import pytest
from dimse.arranging_commitment import CT, MR, action
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.dsutils import encode

from vna.dimse.commitment_information import (
    ActionInformation,
    decode_action_information,
    encode_event_information,
)

SYNTAXES = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]


def encoded(information: Dataset, syntax: UID = ExplicitVRLittleEndian) -> bytes:
    data = encode(information, syntax.is_implicit_VR, syntax.is_little_endian)
    assert data is not None
    return data


def decoded(data: bytes, syntax: UID = ExplicitVRLittleEndian) -> ActionInformation:
    return decode_action_information(
        data, is_implicit=syntax.is_implicit_VR, is_little=syntax.is_little_endian
    )


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("is_undefined", [False, True], ids=["defined", "undefined"])
def test_a_request_is_read_in_every_syntax_with_defined_and_undefined_lengths(
    syntax: UID, is_undefined: bool
) -> None:
    information = action((CT, "1.5.1"), (MR, "1.5.22"), (CT, "1.5.1"), transaction="1.2.3.4")
    information.StorageMediaFileSetID = "SET"
    information.ReferencedStudySequence = [action((CT, "9.9.9"))]
    inner = information.ReferencedSOPSequence[0]
    inner.PurposeOfReferenceCodeSequence = [action((CT, "9.9.8"))]
    inner.RetrieveURL = "http://pacs"
    for sequence in (information["ReferencedSOPSequence"], inner["PurposeOfReferenceCodeSequence"]):
        sequence.is_undefined_length = is_undefined
        for item in sequence.value:
            item.is_undefined_length_sequence_item = is_undefined
    assert decoded(encoded(information, syntax), syntax) == ActionInformation(
        "1.2.3.4", ((CT, "1.5.1"), (MR, "1.5.22"))
    )


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_report_is_read_by_the_library_as_it_was_meant(syntax: UID) -> None:
    data = encode_event_information(
        "1.2.3",
        [(CT, "1.5.1"), (MR, "1.5.22")],
        [((CT, "1.5.3"), 0x0112)],
        is_implicit=syntax.is_implicit_VR,
        is_little=syntax.is_little_endian,
    )
    report = read_dataset(BytesIO(data), syntax.is_implicit_VR, syntax.is_little_endian)
    committed = [(i.ReferencedSOPClassUID, i.ReferencedSOPInstanceUID) for i in report.ReferencedSOPSequence]
    assert (report.TransactionUID, committed) == ("1.2.3", [(CT, "1.5.1"), (MR, "1.5.22")])
    (failed,) = report.FailedSOPSequence
    assert (failed.ReferencedSOPInstanceUID, failed.FailureReason) == ("1.5.3", 0x0112)
    assert data == encoded(report, syntax)


def test_a_sequence_without_items_is_not_sent() -> None:
    data = encode_event_information("1.2.3", [], [((CT, "1.5.3"), 0x0112)], is_implicit=True, is_little=True)
    assert "ReferencedSOPSequence" not in read_dataset(BytesIO(data), True, True)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "no Transaction UID"),
        (b"\x08\x00\x95\x11UI", "ends in an element"),
        (b"\x08\x00\x95\x11UI\xff\xff1.2", "ends in a value"),
        (encoded(action(transaction="1.2.3")), "no instance"),
        (b"\x08\x00\x95\x11UI\x42\0" + b"1." + b"2" * 64, "more than 64 characters"),
        (encoded(action((CT, ""))), "without its class or instance UID"),
        (b"\x08\x00\x99\x11SQ\0\0\x08\0\0\0" + b"\x08\x00\x95\x11UI\0\0", "something else than items"),
    ],
)
def test_what_cannot_be_read_is_refused_in_words(data: bytes, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        decoded(data)


@pytest.mark.parametrize("tag", [0x00081199, 0x00081115])
def test_sequences_nested_without_end_are_refused_without_recursion(tag: int) -> None:
    """Field note 27."""
    level = struct.pack("<HHI", tag >> 16, tag & 0xFFFF, 0xFFFFFFFF) + struct.pack(
        "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    with pytest.raises(ValueError, match="ends in an element"):
        decoded(level * 100_000, ImplicitVRLittleEndian)


def test_damaged_requests_are_read_or_refused_and_nothing_else() -> None:
    chance = random.Random(5)
    good = {syntax: encoded(action((CT, "1.5.1"), (MR, "1.5.2")), syntax) for syntax in SYNTAXES}
    refused = 0
    for _ in range(5_000):
        syntax = chance.choice(SYNTAXES)
        data = bytearray(good[syntax])
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.choice((0, 0xFF, chance.randrange(256)))
        try:
            decoded(bytes(data[: chance.randint(1, len(data))]), syntax)
        except ValueError:
            refused += 1
    assert refused > 1_000


def test_a_request_of_very_many_instances_is_read_in_a_few_times_its_size() -> None:
    items = b"".join(_item(f"1.2.826.0.1.3680043.10.1081.4.1.{n}") for n in range(20_000))
    data = struct.pack("<HHI", 0x0008, 0x1199, len(items)) + items
    data = struct.pack("<HHI6s", 0x0008, 0x1195, 6, b"1.2.3\0") + data
    tracemalloc.start()
    try:
        found = decoded(data, ImplicitVRLittleEndian)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found.references) == 20_000
    assert peak < 5 * len(data)


def _item(instance: str) -> bytes:
    uids = [(0x1150, CT.encode()), (0x1155, instance.encode())]
    content = b"".join(
        struct.pack("<HHI", 0x0008, number, len(uid) + len(uid) % 2) + uid + b"\0" * (len(uid) % 2)
        for number, uid in uids
    )
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content
