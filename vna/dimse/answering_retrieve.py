"""C-MOVE and C-GET as SCP (PS3.4 C.4.2, C.4.3): what we keep is sent as it is kept, or not at all.

An instance that the receiving side does not accept as it is kept is a failed sub-operation, never a converted one.
Memory does not grow with what is asked for.
"""

import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydicom.uid import UID
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext

from vna.dimse.borrowing import Connection, PeerGone, borrowed
from vna.dimse.callers import caller_of
from vna.dimse.channel import (
    C_CANCEL_RQ,
    Channel,
    StoreOutcome,
    encode_response,
    number_value,
    store_each,
)
from vna.dimse.identifiers import decode_identifier, encode_identifier
from vna.dimse.index import HeldInstance, InstanceIndex, Query
from vna.dimse.node import OurNode
from vna.dimse.pdata import CONTROL_SECONDS
from vna.dimse.sending import sending
from vna.errors import InstanceRefused, NoGoodCopy, StoreError, SyntaxNotAccepted
from vna.site import RemoteServer

_log = logging.getLogger(__name__)

_PATIENT_ROOT, _STUDY_ROOT = "1.2.840.10008.5.1.4.1.2.1", "1.2.840.10008.5.1.4.1.2.2"
_UNIQUE_KEYS = {
    "PATIENT": "PatientID",
    "STUDY": "StudyInstanceUID",
    "SERIES": "SeriesInstanceUID",
    "IMAGE": "SOPInstanceUID",
}
_LEVELS = tuple(_UNIQUE_KEYS)

SUCCESS, PENDING, CANCELLED = 0x0000, 0xFF00, 0xFE00
CANNOT_COUNT, CANNOT_SEND, SOME_FAILED = 0xA701, 0xA702, 0xB000
DESTINATION_UNKNOWN, IDENTIFIER_DOES_NOT_MATCH = 0xA801, 0xA900
_IS_RESPONSE, _C_GET_RSP, _C_MOVE_RSP = 0x8000, 0x8010, 0x8021
_PENDING_SECONDS = 1.0
_KEPT_SECONDS, _WAIT_SECONDS, _FIRST_WAIT_SECONDS = 2.0, 1.0, 5.0
_LONGEST_UID_LIST = 60_000  # a UI value has at most 65,534 bytes in explicit VR
_MOST_COUNTED = 0xFFFF

Send = Callable[[Iterator[HeldInstance]], Iterator[tuple[HeldInstance, StoreOutcome]]]


class MoveService:
    """C-MOVE, Patient Root and Study Root, to registered destinations only.

    `destinations` gives the remote server of an AE title, None for one that is not registered or not the only one with
    it; a requester that asks for itself is known as whom it was admitted. The destination is called by the AE title of
    ours that the requester used.
    """

    sop_classes = frozenset({f"{_PATIENT_ROOT}.2", f"{_STUDY_ROOT}.2"})

    def __init__(
        self, index: InstanceIndex, node: OurNode, destinations: Callable[[str], RemoteServer | None]
    ) -> None:
        self._index, self._node, self._destinations = index, node, destinations

    def serve(self, association: Association, message: Any, context: PresentationContext) -> None:
        """Answer one C-MOVE request."""
        title = str(message.MoveDestination or "").strip()
        caller = caller_of(association)
        asks_for_itself = caller.remote is not None and caller.remote.aet == title
        remote = caller.remote if asks_for_itself else self._destinations(title)
        with _requested(association, message, context, f"C-MOVE to {title!r}", _C_MOVE_RSP) as request:
            if remote is None:
                request.refuse(DESTINATION_UNKNOWN, "the move destination is not registered here")
                return
            node = replace(self._node, aet=caller.called_aet)
            originator = caller.calling_aet, request.message_id
            with sending(remote, node) as destination:
                request.perform(
                    self._index,
                    lambda held: destination.store_each(
                        held, move_originator=originator, working=request.working
                    ),
                )


class GetService:
    """C-GET, Patient Root and Study Root: over the requester's association, where it selected the SCP role.

    `answer_seconds`: how long the requester may take to answer one C-STORE.
    """

    sop_classes = frozenset({f"{_PATIENT_ROOT}.3", f"{_STUDY_ROOT}.3"})

    def __init__(self, index: InstanceIndex, answer_seconds: float = 60.0) -> None:
        self._index, self._answer_seconds = index, answer_seconds
        self._kept = _KeptSyntaxes(index)

    def syntaxes_kept(self, sop_class: str) -> Sequence[str]:
        """The transfer syntaxes we keep instances of the SOP class in, the commonest first."""
        return self._kept.of(sop_class)

    def serve(self, association: Association, message: Any, context: PresentationContext) -> None:
        """Answer one C-GET request."""
        contexts = {
            (str(accepted.abstract_syntax), str(accepted.transfer_syntax[0])): int(accepted.context_id or 0)
            for accepted in association.accepted_contexts
            if accepted.as_scu  # PS3.7 D.3.3.4
        }
        name = caller_of(association).calling_aet
        with _requested(association, message, context, "C-GET", _C_GET_RSP) as request:
            channel = Channel(
                request.connection, name, contexts, self._answer_seconds, request.cancel_if_meant
            )
            request.perform(self._index, lambda held: store_each(channel, held, None, lambda: None))


class _KeptSyntaxes:
    """In which transfer syntaxes each SOP class is kept, as of the association that is being agreed.

    The catalog is asked by a thread of its own and waited for a moment, for longer where it is only being opened:
    what is agreed must not depend on a database.
    """

    def __init__(self, index: InstanceIndex) -> None:
        self._index = index
        self._lock = threading.Lock()
        self._known: Mapping[str, Sequence[str]] = {}
        self._asked_at = self._wait_until = 0.0
        self._told: threading.Event | None = None

    def of(self, sop_class: str) -> Sequence[str]:
        with self._lock:
            now, told = time.monotonic(), self._told
            if told is None or (told.is_set() and now - self._asked_at > _KEPT_SECONDS):
                wait = _FIRST_WAIT_SECONDS if told is None else _WAIT_SECONDS
                self._asked_at, self._wait_until = now, now + wait
                told = self._told = threading.Event()
                threading.Thread(target=self._ask, args=(told,), name="kept-syntaxes", daemon=True).start()
            wait_until = self._wait_until
        told.wait(max(0.0, wait_until - now))
        return self._known.get(sop_class, ())

    def _ask(self, told: threading.Event) -> None:
        try:
            self._known = self._index.syntaxes_held()
        except StoreError as error:
            _log.warning("Which transfer syntaxes are kept is not known now: %s", error)
        finally:
            told.set()


@contextlib.contextmanager
def _requested(
    association: Association, message: Any, context: PresentationContext, what: str, response: int
) -> Generator["_Request"]:
    """The connection is ours while a request is answered; a requester that leaves ends it, which is no error."""
    caller = caller_of(association)
    ours: Any = association
    who = f"{caller.calling_aet} at {caller.address}: {what}"
    try:
        with borrowed(association) as connection:
            request = _Request(connection, message, context, who, response)
            if request.message_id in ours.dimse.cancel_req:  # it came at once
                request.is_cancelled = True
            yield request
    except (PeerGone, _RequesterGone):
        _log.warning("%s: the requester left before it was answered", who)


class _RequesterGone(Exception):
    """Whoever asked has left: nobody wants the rest."""


@dataclass(slots=True)
class _Tally:
    """The sub-operations of one retrieve as its responses count them (PS3.7 9.1.4.1)."""

    total: int
    completed: int = 0
    warned: int = 0
    failed: int = 0
    failed_uids: list[str] = field(default_factory=list[str])
    reasons: Counter[str] = field(default_factory=Counter[str])
    _size: int = 0

    def count(self, instance: HeldInstance, outcome: StoreOutcome) -> bool:
        """Whether its failure is the first of its kind."""
        if outcome.error is None:
            if outcome.status == SUCCESS:
                self.completed += 1
            else:
                self.warned += 1
            return False
        self.failed += 1
        self._size += len(instance.sop_instance_uid) + 1
        if self._size < _LONGEST_UID_LIST:
            self.failed_uids.append(instance.sop_instance_uid)
        reason = _reason(outcome)
        self.reasons[reason] += 1
        return self.reasons[reason] == 1

    @property
    def remaining(self) -> int:
        return max(self.total - self.completed - self.warned - self.failed, 0)

    def elements(self, *, remaining: bool) -> list[tuple[int, bytes]]:
        numbers = [(0x1020, self.remaining)] if remaining else []
        numbers += [(0x1021, self.completed), (0x1022, self.failed), (0x1023, self.warned)]
        return [(element, number_value(min(number, _MOST_COUNTED))) for element, number in numbers]

    @property
    def comment(self) -> str:
        return "; ".join(f"{count} {reason}" for reason, count in self.reasons.most_common())

    @property
    def status(self) -> int:
        """At the end (PS3.4 tables C.4-2 and C.4-3)."""
        if not self.failed and not self.warned:
            return SUCCESS
        return SOME_FAILED if self.completed or self.warned else CANNOT_SEND


def _reason(outcome: StoreOutcome) -> str:
    """Why, in a few words: all of a response's comment has 64 characters."""
    error = outcome.error
    if isinstance(error, SyntaxNotAccepted):
        return "kept in a syntax not accepted"
    if isinstance(error, NoGoodCopy):
        return "without a good copy"
    if isinstance(error, InstanceRefused):
        return f"refused (0x{error.status:04X})"
    return "not sent, destination away"


class _Request:
    """One C-MOVE or C-GET request and its responses. Raises `_RequesterGone` or `PeerGone` when nobody listens."""

    def __init__(
        self, connection: Connection, message: Any, context: PresentationContext, who: str, response: int
    ) -> None:
        self.connection = connection
        self.message_id = int(message.MessageID)
        self.is_cancelled = False
        self._identifier = message.Identifier.getvalue() if message.Identifier else b""
        self._sop_class = str(context.abstract_syntax)
        self._context_id = int(context.context_id or 0)
        self._syntax = UID(str(context.transfer_syntax[0]))
        self._who, self._response = who, response
        self._tally = _Tally(0)
        self._responded = time.monotonic()

    def perform(self, index: InstanceIndex, send: Send) -> None:
        """Find what is asked for, let `send` send it, and answer to the last response."""
        try:
            query = _query(self._identifier, self._syntax, self._sop_class)
        except ValueError as error:
            self.refuse(IDENTIFIER_DOES_NOT_MATCH, str(error))
            return
        try:
            self._tally = tally = _Tally(index.count(query))
        except StoreError as error:
            _log.warning("%s: %s", self._who, error)
            self.refuse(CANNOT_COUNT, "the catalog cannot be asked now")
            return
        self._respond(PENDING)
        status = None
        try:
            for instance, outcome in self._until_cancelled(send(index.held(query))):
                if tally.count(instance, outcome):
                    _log.warning("%s: %s", self._who, outcome.sentence)
                self._respond(PENDING)
        except StoreError as error:  # of the catalog, on the way
            _log.warning("%s: %s", self._who, error)
            status, tally.reasons = CANNOT_SEND, Counter({"sent, then the catalog was away": tally.completed})
        counts = tally.completed + tally.warned, tally.failed, tally.remaining
        _log.info("%s: %d sent, %d failed, %d left", self._who, *counts)
        if status is None:
            status = CANCELLED if self.is_cancelled else tally.status
        self._respond(status, comment=tally.comment)

    def _until_cancelled(
        self, outcomes: Iterator[tuple[HeldInstance, StoreOutcome]]
    ) -> Iterator[tuple[HeldInstance, StoreOutcome]]:
        self._listen()
        while not self.is_cancelled and (told := next(outcomes, None)) is not None:
            yield told
            self._listen()

    def refuse(self, status: int, comment: str) -> None:
        """Answer that nothing is done."""
        _log.warning("%s: refused with 0x%04X, %s", self._who, status, comment)
        self._respond(status, comment=comment)

    def working(self) -> None:
        """During a long sub-operation on another association: say so each second, and hear a cancel."""
        self._listen()
        if time.monotonic() - self._responded >= _PENDING_SECONDS:
            self._respond(PENDING)

    def cancel_if_meant(self, message_id: int | None) -> None:
        """A C-CANCEL came that names this Message ID."""
        self.is_cancelled = self.is_cancelled or message_id == self.message_id

    def _listen(self) -> None:
        try:
            while self.connection.is_waiting():
                message = self.connection.receive(CONTROL_SECONDS)
                command = message.number(0x0100)
                if command == C_CANCEL_RQ:
                    self.cancel_if_meant(message.number(0x0120))
                elif command is None or not command & _IS_RESPONSE:
                    # one operation at a time is agreed (PS3.7 D.3.3.3); unanswered it would wait for ever
                    self.connection.cut()
                    raise _RequesterGone
        except PeerGone as gone:
            raise _RequesterGone from gone

    def _respond(self, status: int, comment: str = "") -> None:
        failed = b""
        if status != PENDING and self._tally.failed_uids:
            uids = {"FailedSOPInstanceUIDList": "\\".join(self._tally.failed_uids)}
            failed = encode_identifier(uids, self._syntax).getvalue()
        counted = self._tally.total or status in {SUCCESS, PENDING}
        command = encode_response(
            self._response,
            self._sop_class,
            self.message_id,
            status,
            with_data_set=bool(failed),
            comment=comment,
            counts=self._tally.elements(remaining=status in {PENDING, CANCELLED}) if counted else (),
        )
        self._responded = time.monotonic()
        try:
            self.connection.send_message(self._context_id, command, failed)
        except PeerGone as gone:
            raise _RequesterGone from gone


def _query(identifier: bytes, syntax: UID, sop_class_uid: str) -> Query:
    """The unique keys of a retrieve (PS3.4 C.4.2.2.1); raises `ValueError` with a comment for the requester."""
    keys = decode_identifier(identifier, syntax)
    is_patient_root = sop_class_uid.startswith(f"{_PATIENT_ROOT}.")
    level = keys.get("QueryRetrieveLevel", "").strip().upper()
    levels = _LEVELS if is_patient_root else _LEVELS[1:]
    if level not in levels:
        raise ValueError("QueryRetrieveLevel is none of this model")
    unique: dict[str, str] = {}
    for above in levels[: levels.index(level) + 1]:
        keyword = _UNIQUE_KEYS[above]
        values = [value.strip() for value in keys.get(keyword, "").split("\\") if value.strip()]
        if not values or any(set(value) & {"*", "?"} for value in values):
            raise ValueError(f"{keyword} is missing or a wildcard")
        if len(values) > 1 and (above != level or above == "PATIENT"):  # only UIDs come as lists
            raise ValueError(f"{keyword} must have one value")
        unique[keyword] = "\\".join(values)
    return Query(level, unique, patient_root=is_patient_root)
