"""C-FIND as SCP: form and status of answers, cancel, and requesters that leave; what matches is the index's matter."""

import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from arranging_receiver import EXPLICIT, Sender, echo_command, element, p_data, pdv
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dsutils import encode

from vna.dimse import HeldInstance, Query
from vna.dimse.answering_find import FindService, _refuse_wrong_moments  # pyright: ignore[reportPrivateUsage]
from vna.dimse.receiver import Receiver
from vna.errors import CatalogRefused, CatalogUnavailable
from vna.spool import Spool

PATIENT_ROOT, STUDY_ROOT = "1.2.840.10008.5.1.4.1.2.1.1", "1.2.840.10008.5.1.4.1.2.2.1"
KEYWORDS = frozenset(
    {"PatientName", "PatientID", "StudyInstanceUID", "StudyDescription", "Rows", "StudyDate"}
)
JANE = {"PatientName": "Doe^Jane", "PatientID": "P1", "StudyInstanceUID": "1.2.3", "Rows": "512"}


@dataclass
class OneAnswer:
    """An `InstanceIndex` that answers what it is told to, and remembers what it was asked."""

    answers: Callable[[], Iterator[Mapping[str, str]]] = lambda: iter([JANE])
    asked: list[Query] = field(default_factory=list)
    supported_keywords: Mapping[str, frozenset[str]] = field(
        default_factory=lambda: dict.fromkeys(("PATIENT", "STUDY", "SERIES", "IMAGE"), KEYWORDS)
    )

    def matches(self, query: Query) -> Iterator[Mapping[str, str]]:
        self.asked.append(query)
        return self.answers()

    def held(self, query: Query) -> Iterator[HeldInstance]:
        raise NotImplementedError

    def count(self, query: Query) -> int:
        raise NotImplementedError

    def verified(self, sop_instance_uids: Collection[str]) -> Mapping[str, str]:
        raise NotImplementedError


@pytest.fixture
def index() -> OneAnswer:
    return OneAnswer()


@pytest.fixture
def port(index: OneAnswer, tmp_path: Path) -> Iterator[int]:
    spool = Spool(tmp_path / "spool", reserve_bytes=0)
    with Receiver(spool, aet="BACKUPDR", host="127.0.0.1", port=0, services=(FindService(index),)) as server:
        yield server.port


@contextlib.contextmanager
def asking(
    port: int, model: str = STUDY_ROOT, syntax: str = ExplicitVRLittleEndian
) -> Generator[Association]:
    entity = AE("WORKSTATION")
    entity.add_requested_context(model, syntax)
    entity.add_requested_context("1.2.840.10008.1.1")
    association = entity.associate("127.0.0.1", port, ae_title="BACKUPDR")
    assert association.is_established
    try:
        yield association
    finally:
        association.release()


def identifier(level: str | None = "STUDY", **keys: Any) -> Dataset:
    dataset = Dataset()
    if level is not None:
        dataset.QueryRetrieveLevel = level
    for keyword, key in {"PatientName": "", **keys}.items():
        setattr(dataset, keyword, key)
    return dataset


def ask(
    association: Association, query: Dataset, model: str = STUDY_ROOT
) -> list[tuple[Dataset, Dataset | None]]:
    return list(association.send_c_find(query, model))


def statuses(responses: list[tuple[Dataset, Dataset | None]]) -> list[int]:
    return [status.Status for status, _ in responses]


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_an_answer_has_what_was_asked_for_its_level_and_who_to_retrieve_from(
    port: int, index: OneAnswer, syntax: str
) -> None:
    with asking(port, syntax=syntax) as association:
        first, last = ask(association, identifier(Rows=None))
    status, answer = first
    assert (status.Status, last[0].Status) == (0xFF00, 0x0000)
    assert answer is not None
    assert answer.PatientName == "Doe^Jane"
    assert answer.Rows == 512
    assert answer.QueryRetrieveLevel == "STUDY"
    assert answer.RetrieveAETitle == "BACKUPDR"
    assert "SpecificCharacterSet" not in answer
    assert last[1] is None
    assert index.asked == [Query("STUDY", {"PatientName": "", "Rows": ""}, patient_root=False)]


def test_keys_that_are_not_supported_are_told_by_the_pending_status_and_left_out(port: int) -> None:
    sequence = Dataset()
    sequence.CodeValue = ""
    private = identifier()
    private.add_new(0x00091001, "LO", "")
    with asking(port) as association:
        for query in (identifier(PatientWeight=""), identifier(ProcedureCodeSequence=[sequence]), private):
            (status, answer), _ = ask(association, query)
            assert status.Status == 0xFF01
            assert answer is not None
            assert "PatientWeight" not in answer
            assert "ProcedureCodeSequence" not in answer


@pytest.mark.parametrize(
    ("model", "level"),
    [(STUDY_ROOT, "PATIENT"), (STUDY_ROOT, "FRAME"), (PATIENT_ROOT, ""), (PATIENT_ROOT, None)],
)
def test_a_level_that_is_none_of_the_model_is_refused(
    port: int, index: OneAnswer, model: str, level: str | None
) -> None:
    with asking(port, model) as association:
        assert statuses(ask(association, identifier(level), model)) == [0xA900]
    assert index.asked == []


def test_a_patient_level_query_is_patient_roots(port: int, index: OneAnswer) -> None:
    with asking(port, PATIENT_ROOT) as association:
        assert statuses(ask(association, identifier("PATIENT"), PATIENT_ROOT)) == [0xFF00, 0x0000]
    assert index.asked[0].patient_root


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (CatalogUnavailable("it is away"), 0xA700),
        (CatalogRefused("too long"), 0xC000),
        (RuntimeError("Doe^Jane"), 0xC000),
    ],
)
def test_a_query_that_cannot_be_answered_ends_with_a_failure_and_the_association_goes_on(
    port: int, index: OneAnswer, error: Exception, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="vna")

    def fail() -> Iterator[Mapping[str, str]]:
        yield JANE
        raise error

    index.answers = fail
    with asking(port) as association:
        responses = ask(association, identifier(PatientName="DOE^JANE"))
        assert statuses(responses) == [0xFF00, status]
        assert responses[-1][0].ErrorComment
        index.answers = lambda: iter([JANE])
        assert statuses(ask(association, identifier())) == [0xFF00, 0x0000]
        assert association.send_c_echo().Status == 0x0000
    assert "jane" not in caplog.text.lower()


def test_what_is_no_identifier_is_refused(port: int) -> None:
    requester = Sender(port, [(STUDY_ROOT, [EXPLICIT]), ("1.2.840.10008.1.1", [EXPLICIT])])
    for rubbish in (b"\xff" * 30, b"\x08\x00\x05\x00CS\xff\xff"):
        requester.send(p_data(pdv(1, 3, find_command()), pdv(1, 2, rubbish)))
        assert requester.status() == 0xC000
    requester.send(p_data(pdv(3, 3, echo_command())))
    assert requester.status() == 0x0000
    requester.release()


def test_answers_come_as_they_are_found(port: int, index: OneAnswer) -> None:
    go_on = threading.Event()

    def slow() -> Iterator[Mapping[str, str]]:
        yield JANE
        assert go_on.wait(10)
        yield JANE

    index.answers = slow
    with asking(port) as association:
        answers = iter(association.send_c_find(identifier(), STUDY_ROOT))
        assert next(answers)[0].Status == 0xFF00  # while the second is not even looked for
        go_on.set()
        assert [status.Status for status, _ in answers] == [0xFF00, 0x0000]


def endless(index: OneAnswer) -> threading.Event:
    """Let the index find for ever; what is returned is set when nobody wants more."""
    ended = threading.Event()

    def answers() -> Iterator[Mapping[str, str]]:
        try:
            for number in itertools.count():
                yield {**JANE, "StudyInstanceUID": f"1.2.{number}"}
        finally:
            ended.set()

    index.answers = answers
    return ended


def test_a_cancelled_query_ends_with_its_own_status(port: int, index: OneAnswer) -> None:
    ended = endless(index)
    with asking(port) as association:
        answers = iter(association.send_c_find(identifier(), STUDY_ROOT, msg_id=7))
        assert next(answers)[0].Status == 0xFF00
        association.send_c_cancel(7, query_model=STUDY_ROOT)
        assert [status.Status for status, _ in answers][-1] == 0xFE00
        assert ended.wait(5)
        index.answers = lambda: iter([JANE])
        assert statuses(ask(association, identifier())) == [0xFF00, 0x0000]


def test_a_requester_that_leaves_ends_the_search(port: int, index: OneAnswer) -> None:
    ended = endless(index)
    with asking(port) as association:
        next(iter(association.send_c_find(identifier(), STUDY_ROOT)))
        association.abort()
    assert ended.wait(10)


def test_a_requester_that_takes_nothing_does_not_make_us_hoard_answers(port: int, index: OneAnswer) -> None:
    found = [0]
    ended = threading.Event()

    def answers() -> Iterator[Mapping[str, str]]:
        try:
            while True:
                found[0] += 1
                yield {**JANE, "StudyDescription": "x" * 1000}
        finally:
            ended.set()

    index.answers = answers
    requester = Sender(port, [(STUDY_ROOT, [EXPLICIT])])
    requester.send(p_data(pdv(1, 3, find_command()), pdv(1, 2, encoded(identifier()))))
    before = -1
    while found[0] != before:  # until it waits for the requester
        before = found[0]
        time.sleep(0.5)
    assert 0 < found[0] < 20_000  # what the network's buffers hold
    requester.close()
    assert ended.wait(10)


def test_another_request_before_the_last_response_ends_the_association(port: int, index: OneAnswer) -> None:
    ended = endless(index)
    requester = Sender(port, [(STUDY_ROOT, [EXPLICIT])])
    request = p_data(pdv(1, 3, find_command())) + p_data(pdv(1, 2, encoded(identifier())))
    requester.send(request)
    assert requester.pdu()[0] == 4
    requester.send(request)
    while requester.pdu()[0] == 4:
        pass
    assert ended.wait(10)
    requester.close()


def find_command(message_id: int = 1) -> bytes:
    body = (
        element(0x0002, STUDY_ROOT.encode())
        + element(0x0100, b"\x20\0")
        + element(0x0110, message_id.to_bytes(2, "little"))
        + element(0x0700, b"\0\0")
        + element(0x0800, b"\1\0")
    )
    return element(0x0000, len(body).to_bytes(4, "little")) + body


def encoded(dataset: Dataset) -> bytes:
    return encode(dataset, False, True) or b""


@pytest.mark.parametrize(
    ("asked", "name", "told"),
    [
        ("", "Doe^Jane", ""),
        ("ISO_IR 100", "Doe^Jane", ""),
        ("ISO_IR 100", "Müller^Jörg", "ISO_IR 100"),
        ("ISO_IR 100", "Przykład^Łucja", "ISO_IR 192"),
        ("", "Müller^Jörg", "ISO_IR 192"),
        ("ISO_IR 192", "Yamada^Tarou=山田^太郎=やまだ^たろう", "ISO_IR 192"),
        ("ISO 2022 IR 6\\ISO 2022 IR 87", "Yamada^Tarou=山田^太郎=やまだ^たろう", "ISO_IR 192"),
        ("GB18030", "Wang^XiaoDong=王^小东", "GB18030"),
        ("ISO_IR 13", "Müller^Jörg", "ISO_IR 192"),
    ],
)
def test_answers_are_in_the_requesters_character_set_where_it_has_their_characters(
    port: int, index: OneAnswer, asked: str, name: str, told: str
) -> None:
    index.answers = lambda: iter([{**JANE, "PatientName": name}])
    query = identifier()
    if asked:
        query.SpecificCharacterSet = asked.split("\\")
    with asking(port) as association:
        (_, answer), _ = ask(association, query)
    assert answer is not None
    assert answer.get("SpecificCharacterSet", "") == told
    assert str(answer.PatientName) == name


def test_a_key_is_read_in_the_character_set_it_is_sent_in(port: int, index: OneAnswer) -> None:
    with asking(port) as association:
        ask(association, identifier(SpecificCharacterSet="ISO_IR 100", PatientName="MÜLLER*"))
    assert index.asked[0].keys["PatientName"] == "MÜLLER*"


@pytest.mark.parametrize(
    "key", ["gestern", "-", "20240102-20240101", "20241301", "2024-01-05", "20240101-morgen", "20240101\\x"]
)
def test_a_date_that_is_none_is_refused_by_its_name(port: int, index: OneAnswer, key: str) -> None:
    """Nothing found would look like an answer."""
    requester = Sender(port, [(STUDY_ROOT, [EXPLICIT])])
    value = key.encode() + b" " * (len(key) % 2)
    date = b"\x08\x00\x20\x00DA" + len(value).to_bytes(2, "little") + value
    level = b"\x08\x00\x52\x00CS\x06\x00STUDY "
    requester.send(p_data(pdv(1, 3, find_command()), pdv(1, 2, date + level)))
    response = requester.pdu()
    assert b"\x00\x00\x00\x09\x02\x00\x00\x00\x00\xa9" in response[1]
    assert b"StudyDate is no date" in response[1]
    requester.release()
    assert index.asked == []


@pytest.mark.parametrize(
    "key", ["", "*", '""', "20240229", "2024.02.29", "202402", "20240101-", "-20240101", "2024-202403"]
)
def test_a_date_a_range_and_a_star_are_asked_for(key: str) -> None:
    _refuse_wrong_moments(Query("STUDY", {"StudyDate": key}), KEYWORDS)


@pytest.mark.parametrize("key", ["", "*", "10", "1015-", "-10:15:30", "101530.5-1016", "235960"])
def test_a_time_is_asked_for_in_all_its_forms(key: str) -> None:
    _refuse_wrong_moments(Query("STUDY", {"StudyTime": key}), frozenset({"StudyTime"}))
