"""C-FIND as SCP, Patient Root and Study Root (PS3.4 C.4.1): answers come as they are found, straight to the connection.

Relational queries are answered like hierarchical ones. Memory does not grow with the number of answers, and a requester
that takes them slowly is waited for. Nothing of what is asked for or answered is logged.
"""

import logging
import re
import struct
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydicom.charset import python_encoding
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.uid import UID
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext

from vna.dimse.borrowing import Connection, PeerGone, Piece, borrowed
from vna.dimse.callers import caller_of
from vna.dimse.channel import C_CANCEL_RQ, encode_response
from vna.dimse.identifiers import decode_identifier
from vna.dimse.index import InstanceIndex, Query
from vna.dimse.pdata import CONTROL_SECONDS
from vna.errors import CatalogUnavailable, StoreError, where_it_happened

_log = logging.getLogger(__name__)

_PATIENT_ROOT, _STUDY_ROOT = "1.2.840.10008.5.1.4.1.2.1.1", "1.2.840.10008.5.1.4.1.2.2.1"
_LEVELS = ("PATIENT", "STUDY", "SERIES", "IMAGE")

SUCCESS, CANCELLED = 0x0000, 0xFE00
PENDING, PENDING_WITHOUT_SOME = 0xFF00, 0xFF01
OUT_OF_RESOURCES, IDENTIFIER_DOES_NOT_MATCH, UNABLE_TO_PROCESS = 0xA700, 0xA900, 0xC000
_C_FIND_RSP = 0x8020

_AT_ONCE_BYTES, _AT_ONCE_SECONDS = 32 * 1024, 0.05
"""Answers are sent together where they come quickly; the first goes at once."""

_OURS = frozenset({"QueryRetrieveLevel", "SpecificCharacterSet", "RetrieveAETitle"})
"""In an identifier, and no keys to be matched."""


class FindService:
    """C-FIND over whatever keeps the images."""

    sop_classes = frozenset({_PATIENT_ROOT, _STUDY_ROOT})

    def __init__(self, index: InstanceIndex) -> None:
        self._index = index

    def serve(self, association: Association, message: Any, context: PresentationContext) -> None:
        """Answer one C-FIND request, to its last response."""
        caller = caller_of(association)
        who = f"{caller.calling_aet} at {caller.address}: C-FIND"
        ours: Any = association
        try:
            with borrowed(association) as connection:
                request = _Request(connection, message, context, who, caller.called_aet)
                request.is_cancelled = request.message_id in ours.dimse.cancel_req  # it came at once
                request.answer(self._index)
        except PeerGone:
            _log.warning("%s: the requester left before it was answered", who)


class _Refused(Exception):
    """The identifier cannot be answered: a status and its comment."""

    def __init__(self, status: int, comment: str) -> None:
        self.status, self.comment = status, comment
        super().__init__(comment)


class _Request:
    """One C-FIND request and its responses. Raises `PeerGone` when nobody listens."""

    def __init__(
        self,
        connection: Connection,
        message: Any,
        context: PresentationContext,
        who: str,
        retrieve_aet: str,
    ) -> None:
        self.message_id = int(message.MessageID)
        self.is_cancelled = False
        self._connection = connection
        self._identifier = message.Identifier.getvalue() if message.Identifier else b""
        self._sop_class = str(context.abstract_syntax)
        self._context_id = int(context.context_id or 0)
        self._syntax = UID(str(context.transfer_syntax[0]))
        self._who, self._retrieve_aet = who, retrieve_aet
        self._waiting: list[Piece] = []
        self._waiting_bytes = 0
        self._sent_at = 0.0

    def answer(self, index: InstanceIndex) -> None:
        """Answer to the last response, whatever happens here."""
        began = time.monotonic()
        answers = 0
        comment = ""
        try:
            query, asked = self._query()
            _refuse_wrong_moments(query, index.supported_keywords[query.level])
            encoder = _Encoder(self._syntax, asked, query, index, self._retrieve_aet)
            pending = self._command(encoder.status, with_data_set=True)
            for values in index.matches(query):
                if self.is_cancelled:
                    break
                self._send(pending, encoder.encode(values))
                answers += 1
            status = CANCELLED if self.is_cancelled else SUCCESS
        except PeerGone:
            raise
        except _Refused as refused:
            status, comment = refused.status, refused.comment
        except CatalogUnavailable as error:
            _log.warning("%s: %s", self._who, error)
            status, comment = OUT_OF_RESOURCES, "the catalog cannot be asked now"
        except StoreError as error:
            _log.warning("%s: %s", self._who, error)
            status, comment = UNABLE_TO_PROCESS, "the catalog cannot answer this query"
        except Exception as error:  # noqa: BLE001 - the requester gets a last response, whatever it is
            _log.error("%s: a query could not be answered\n%s", self._who, where_it_happened(error))
            status, comment = UNABLE_TO_PROCESS, "the query could not be processed"
        self._waiting += self._pdus(self._command(status, comment=comment), is_command=True)
        self._flush()
        taken = time.monotonic() - began
        _log.info("%s: %d answers in %.2f s, status 0x%04X", self._who, answers, taken, status)

    def _query(self) -> tuple[Query, dict[str, str]]:
        """The request's query, and all that is in its identifier (PS3.4 C.4.1.1.3.1)."""
        try:
            asked = decode_identifier(self._identifier, self._syntax, whole=True)
        except ValueError as error:
            raise _Refused(UNABLE_TO_PROCESS, "the identifier cannot be read") from error
        level = asked.get("QueryRetrieveLevel", "").strip().upper()
        is_patient_root = self._sop_class == _PATIENT_ROOT
        if level not in _LEVELS[0 if is_patient_root else 1 :]:
            raise _Refused(IDENTIFIER_DOES_NOT_MATCH, "QueryRetrieveLevel is none of this model")
        keys = {keyword: key for keyword, key in asked.items() if keyword not in _OURS and _is_known(keyword)}
        return Query(level, keys, is_patient_root), asked

    def _command(self, status: int, *, with_data_set: bool = False, comment: str = "") -> bytes:
        return encode_response(
            _C_FIND_RSP,
            self._sop_class,
            self.message_id,
            status,
            with_data_set=with_data_set,
            comment=comment,
        )

    def _pdus(self, data: bytes, *, is_command: bool) -> Iterable[Piece]:
        return self._connection.pdus(self._context_id, data, is_command=is_command)

    def _send(self, command: bytes, identifier: bytes) -> None:
        self._waiting += self._pdus(command, is_command=True)
        self._waiting += self._pdus(identifier, is_command=False)
        self._waiting_bytes += len(command) + len(identifier)
        if self._waiting_bytes >= _AT_ONCE_BYTES or time.monotonic() - self._sent_at > _AT_ONCE_SECONDS:
            self._flush()
            self._listen()

    def _flush(self) -> None:
        self._connection.send(self._waiting)
        self._waiting, self._waiting_bytes = [], 0
        self._sent_at = time.monotonic()

    def _listen(self) -> None:
        """Whether the requester takes the query back (PS3.7 9.3.2.3); only that may come before the last response."""
        while self._connection.is_waiting():
            message = self._connection.receive(CONTROL_SECONDS)
            if message.number(0x0100) != C_CANCEL_RQ:
                self._connection.cut()
                raise PeerGone("another request before this one was answered")
            self.is_cancelled = self.is_cancelled or message.number(0x0120) == self.message_id


def _is_known(keyword: str) -> bool:
    return tag_for_keyword(keyword) is not None


_MOMENT = {
    "DA": re.compile(r"(\d{4})(?:(\.?)(\d\d)(?:\2(\d\d))?)?"),
    "TM": re.compile(r"(\d\d)(?:(:?)(\d\d)(?:\2(\d\d)(?:\.\d+)?)?)?"),
}
"""A date or time as a key, also of the old form with dots or colons, also only its beginning."""
_LIMITS = {"DA": ((0, 9999), (1, 12), (1, 31)), "TM": ((0, 23), (0, 59), (0, 60))}


def _refuse_wrong_moments(query: Query, supported: frozenset[str]) -> None:
    """A date or time that is none would find nothing, and look like an answer. Raises `_Refused`."""
    for keyword in sorted(query.keys.keys() & supported):
        tag = tag_for_keyword(keyword)
        vr = "" if tag is None else dictionary_VR(tag)
        if vr in _MOMENT and not all(
            _is_moment(vr, value.strip()) for value in query.keys[keyword].split("\\")
        ):
            kind = "date" if vr == "DA" else "time"
            raise _Refused(IDENTIFIER_DOES_NOT_MATCH, f"{keyword} is no {kind} or range of {kind}s")


def _is_moment(vr: str, value: str) -> bool:
    """Whether it is one date or time, a range, or a key for any value or for none (PS3.4 C.2.2.2)."""
    if not value.strip("*") or value == '""':
        return True
    first, dash, last = (part.strip() for part in value.partition("-"))
    ends = [_MOMENT[vr].fullmatch(end) for end in (first, last) if end]
    if not ends or not all(ends):
        return False
    numbers = [[int(part) for part in end.group(1, 3, 4) if part] for end in ends if end]
    if not dash:
        return all(low <= n <= high for n, (low, high) in zip(numbers[0], _LIMITS[vr], strict=False))
    if len(numbers) == 1:
        return True
    # the last moment of a range is the end of what it names: 2024-2024 is the whole year
    shorter = min(map(len, numbers))
    return numbers[0][:shorter] <= numbers[1][:shorter]


# -- answers as bytes


@dataclass(frozen=True, slots=True)
class _Element:
    keyword: str
    tag: int
    vr: str


_ENCODED_TEXT = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
_UTF8 = ("ISO_IR 192", "utf-8")
_CHARACTER_SET = _Element("SpecificCharacterSet", 0x00080005, "CS")
_LONGEST_VALUE = 0xFFFE


class _Encoder:
    """Answers of one query as data sets: what was asked for and is supported, in the order of the tags.

    `status` is that of each answer: 0xFF01 where a key is not supported here, which is then left out
    (PS3.4 table C.4-1).
    """

    def __init__(
        self, syntax: UID, asked: Mapping[str, str], query: Query, index: InstanceIndex, retrieve_aet: str
    ) -> None:
        self._is_explicit = not syntax.is_implicit_VR
        self._fixed = {"QueryRetrieveLevel": query.level, "RetrieveAETitle": retrieve_aet}
        supported = index.supported_keywords[query.level]
        ignored = {keyword for keyword in asked if not keyword.endswith("0000")} - supported - _OURS
        self.status = PENDING_WITHOUT_SOME if ignored else PENDING
        self._encoding = _encoding_of(asked.get("SpecificCharacterSet", ""))
        self._elements: dict[frozenset[str], list[_Element]] = {}

    def encode(self, values: Mapping[str, str]) -> bytes:
        """One answer; in the requester's character set where that has all its characters, else in UTF-8."""
        told = {**self._fixed, **values}
        if all(text.isascii() for text in told.values()):
            return self._encoded(told, ("", "ascii"))
        if self._encoding is not None:
            try:
                return self._encoded(told, self._encoding)
            except UnicodeEncodeError:
                pass
        return self._encoded(told, _UTF8)

    def _encoded(self, told: Mapping[str, str], encoding: tuple[str, str]) -> bytes:
        term, codec = encoding
        parts: list[bytes] = []
        for element in self._in_order(frozenset(told)):
            if element is _CHARACTER_SET:
                if term:
                    parts.append(self._element(element, term.encode()))
                continue
            parts.append(self._element(element, _value(element.vr, told[element.keyword], codec)))
        return b"".join(parts)

    def _in_order(self, keywords: frozenset[str]) -> list[_Element]:
        elements = self._elements.get(keywords)
        if elements is None:
            elements = [_element(keyword) for keyword in keywords]
            elements = sorted([*elements, _CHARACTER_SET], key=lambda element: element.tag)
            self._elements[keywords] = elements
        return elements

    def _element(self, element: _Element, value: bytes) -> bytes:
        value = value[:_LONGEST_VALUE]
        if len(value) % 2:
            value += b"\0" if element.vr == "UI" else b" "
        group, number = element.tag >> 16, element.tag & 0xFFFF
        if self._is_explicit:
            return struct.pack("<HH2sH", group, number, element.vr.encode(), len(value)) + value
        return struct.pack("<HHI", group, number, len(value)) + value


def _element(keyword: str) -> _Element:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    return _Element(keyword, tag, dictionary_VR(tag).split()[0])


def _value(vr: str, text: str, codec: str) -> bytes:
    if vr == "US":
        try:
            return struct.pack("<H", int(text)) if text else b""
        except (ValueError, struct.error):
            return b""
    if vr in _ENCODED_TEXT:
        return text.encode(codec)
    return text.encode("ascii", "replace")


def _encoding_of(character_set: str) -> tuple[str, str] | None:
    """The requester's character set and its codec, where it is a single one without code extensions (PS3.3 C.12.1.1.2).

    Of ISO_IR 13 Python knows only a relative that writes what it does not have.
    """
    term = character_set.strip()
    if not term or "\\" in term or term.startswith("ISO 2022") or term == "ISO_IR 13":
        return None
    codec = python_encoding.get(term)
    return None if codec is None else (term, codec)
