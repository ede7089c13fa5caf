"""Storage Commitment Push Model as SCP (PS3.4 annex J): who sent us images may delete them, once we say so.

A request is durable in the spool before it is accepted. The report follows on the same association while that stays
open and is free, else on one of our own (`reporting_commitment`). It is not forgotten before the requester has taken
it, so a kill at any moment costs at most a second report of the same.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_CANCEL, N_ACTION, N_EVENT_REPORT
from pynetdicom.presentation import PresentationContext

from vna.checkpoints import checkpoint
from vna.dimse.callers import caller_of
from vna.dimse.commitment_information import decode_action_information
from vna.dimse.committing import (
    STORAGE_COMMITMENT,
    STORAGE_COMMITMENT_INSTANCE,
    Judge,
    report_of,
    told,
)
from vna.dimse.index import InstanceIndex
from vna.dimse.node import OurNode
from vna.dimse.reporting_commitment import Reporter
from vna.errors import CommitmentBacklog, DiskFull, StoreError
from vna.identity import is_valid_uid
from vna.site import RemoteServer
from vna.spool import CommitmentRequest, Commitments, Spool, TakenCommitment

SAME_ASSOCIATION_SECONDS = 30.0
"""How long a report is tried on the association on which it was asked for."""

_SETTLE_SECONDS = 0.25
"""Most requesters release as soon as they are answered; a report would cross with that."""

_LOOK_SECONDS = 0.02
_REQUEST_STORAGE_COMMITMENT = 1

# PS3.7 10.1.4.1.10
_PROCESSING_FAILURE, _NO_SUCH_INSTANCE, _INVALID_ARGUMENT = 0x0110, 0x0112, 0x0115
_NO_SUCH_CLASS, _NO_SUCH_ACTION, _UNRECOGNISED, _RESOURCES = 0x0118, 0x0123, 0x0211, 0x0213

_log = logging.getLogger(__name__)


class CommitmentService:
    """Storage commitment on every association of one receiver, and the thread that reports the rest.

    `requesters` = the remote server that calls by an AE title, or None; `wait_seconds()` = how long an instance
    that waits in the spool is waited for before it is reported as not committed.
    """

    sop_classes: frozenset[str] = frozenset({str(STORAGE_COMMITMENT)})

    def __init__(
        self,
        index: InstanceIndex,
        spool: Spool,
        node: OurNode,
        requesters: Callable[[str], RemoteServer | None],
        *,
        wait_seconds: Callable[[], float],
    ) -> None:
        self._commitments = Commitments(spool)
        self._judge = Judge(index, spool, wait_seconds)
        self._reporter = Reporter(self._commitments, self._judge, node, requesters)
        self._answer_seconds = min(node.dimse_timeout, SAME_ASSOCIATION_SECONDS)
        self._stop = threading.Event()

    def run(self, stop: threading.Event) -> None:
        """Report what was not reported where it was asked for, until `stop` is set; for a thread of its own.

        Any number of processes may run it. Once `stop` is set, `serve` leaves what it waits for to the next start.
        """
        self._stop = stop
        self._reporter.run(stop)

    def serve(self, association: Association, message: Any, context: PresentationContext) -> None:
        """Answer a request, and report on this association while nothing else is asked on it."""
        _Conversation(
            association,
            context,
            self._commitments,
            self._judge,
            self._answer_seconds,
            self._is_stopping,
        ).hold(message)

    def _is_stopping(self) -> bool:
        return self._stop.is_set()


class _Refused(Exception):
    """A request that is answered with a failure status."""

    def __init__(self, status: int, comment: str) -> None:
        self.status, self.comment = status, comment
        super().__init__(comment)


class _Conversation:
    """One requester's association from its first N-ACTION until its reports are taken or it goes on to something
    else; in the association's own thread.
    """

    def __init__(
        self,
        association: Association,
        context: PresentationContext,
        commitments: Commitments,
        judge: Judge,
        answer_seconds: float,
        is_stopping: Callable[[], bool],
    ) -> None:
        self._association: Any = association  # its queues are looked at, as the library's own services do
        self._context_id = int(context.context_id or 0)
        self._syntax = context.transfer_syntax[0]
        self._caller = caller_of(association)
        self._commitments = commitments
        self._judge = judge
        self._answer_seconds = answer_seconds
        self._is_stopping = is_stopping
        self._held: list[TakenCommitment] = []
        self._sent = 0

    def hold(self, message: Any) -> None:
        """Answer `message` and what follows it; what cannot be reported here is left to the reporter."""
        try:
            self._answer(message)
            until = time.monotonic() + SAME_ASSOCIATION_SECONDS
            while self._held and time.monotonic() < until and self._listen():
                self._report()
        finally:
            for taken in self._held:
                taken.release()

    # -- requests

    def _answer(self, message: Any) -> None:
        if isinstance(message, C_CANCEL):  # nothing here can be cancelled, and it has no answer
            return
        response = type(message)()
        response.MessageIDBeingRespondedTo = message.MessageID
        try:
            taken = self._accept(message)
        except _Refused as refusal:
            response.Status, response.ErrorComment = refusal.status, refusal.comment
            _log.warning("%s: storage commitment refused: %s", self._caller.calling_aet, refusal.comment)
            self._send(response)
            return
        response.AffectedSOPClassUID = STORAGE_COMMITMENT
        response.AffectedSOPInstanceUID = STORAGE_COMMITMENT_INSTANCE
        response.ActionTypeID = _REQUEST_STORAGE_COMMITMENT
        response.Status = 0x0000
        if taken is not None:
            self._held.append(taken)
        self._send(response)

    def _accept(self, message: Any) -> TakenCommitment | None:
        """Make the request durable; None where another process reports the same just now. Raises `_Refused`."""
        if not isinstance(message, N_ACTION):
            raise _Refused(_UNRECOGNISED, "only N-ACTION is answered here")
        if message.RequestedSOPClassUID != STORAGE_COMMITMENT:
            raise _Refused(_NO_SUCH_CLASS, "not the Storage Commitment Push Model")
        if message.RequestedSOPInstanceUID != STORAGE_COMMITMENT_INSTANCE:
            raise _Refused(_NO_SUCH_INSTANCE, "not its well-known SOP Instance UID")
        if message.ActionTypeID != _REQUEST_STORAGE_COMMITMENT:
            raise _Refused(_NO_SUCH_ACTION, "the only action type is 1")
        request = self._request(message)
        try:
            taken = self._commitments.add(request)
        except (DiskFull, CommitmentBacklog) as error:
            _log.error("%s", error)
            raise _Refused(_RESOURCES, "no room to keep the request; ask again later") from error
        except StoreError as error:
            _log.error("%s", error)
            raise _Refused(_PROCESSING_FAILURE, "the request cannot be kept") from error
        words = (request.calling_aet, len(request.references), request.transaction_uid)
        _log.info("%s asks for storage commitment of %d instances, transaction %s", *words)
        return taken

    def _request(self, message: N_ACTION) -> CommitmentRequest:
        if message.ActionInformation is None:
            raise _Refused(_INVALID_ARGUMENT, "no Action Information")
        try:
            asked = decode_action_information(
                message.ActionInformation.getvalue(),
                is_implicit=self._syntax.is_implicit_VR,
                is_little=self._syntax.is_little_endian,
            )
        except ValueError as error:
            raise _Refused(_INVALID_ARGUMENT, str(error)) from error
        message.ActionInformation = None  # megabytes perhaps, which the library would keep while we report
        if not is_valid_uid(asked.transaction_uid):
            raise _Refused(_INVALID_ARGUMENT, "the Transaction UID is no UID")
        return CommitmentRequest(
            transaction_uid=asked.transaction_uid,
            calling_aet=self._caller.calling_aet,
            called_aet=self._caller.called_aet,
            requested_at=time.time(),
            references=asked.references,
        )

    # -- reports

    def _report(self) -> None:
        """Report what can be said by now; what the requester does not take here is tried anew elsewhere."""
        for taken in list(self._held):
            try:
                judgement = self._judge.judge(taken)
            except StoreError:  # the reporter tells it, when it is its turn
                continue
            if judgement is None:
                continue
            checkpoint("commitment.judged")
            self._sent += 1
            self._send(report_of(taken.request, judgement, self._syntax, self._sent))
            self._held.remove(taken)
            try:
                if self._is_taken(self._sent):
                    checkpoint("commitment.reported")
                    taken.acknowledged()
                    _log.info("%s", told(taken.request, judgement))
            except StoreError as error:  # it is told once more
                _log.error("%s", error)
            finally:
                taken.release()

    def _is_taken(self, message_id: int) -> bool:
        """Whether the requester answers this report with success; what else it asks meanwhile has its turn later."""
        until = time.monotonic() + self._answer_seconds
        others: list[tuple[int, Any]] = []
        try:
            while time.monotonic() < until and not self._is_over:
                context_id, message = self._association.dimse.get_msg(block=False)
                if message is None:
                    time.sleep(_LOOK_SECONDS)
                elif isinstance(message, N_EVENT_REPORT) and message.MessageIDBeingRespondedTo is not None:
                    if message.MessageIDBeingRespondedTo == message_id:
                        return message.Status == 0x0000
                else:
                    others.append((context_id, message))
            return False
        finally:
            for other in others:
                self._association.dimse.msg_queue.put(other)

    # -- the association

    def _listen(self) -> bool:
        """Answer further requests until none came for a moment; False when the association is over, is to end, or
        something else is asked on it.
        """
        until = time.monotonic() + _SETTLE_SECONDS
        while time.monotonic() < until:
            if self._is_over or self._is_stopping():
                return False
            context_id, message = self._association.dimse.peek_msg()
            if message is None:
                time.sleep(_LOOK_SECONDS)
                continue
            if not isinstance(message, N_ACTION) or context_id != self._context_id:
                return False
            if not message.is_valid_request:  # a response, or without what a request must have
                return False
            self._association.dimse.get_msg(block=False)
            self._answer(message)
            until = time.monotonic() + _SETTLE_SECONDS
        return True

    @property
    def _is_over(self) -> bool:
        """Whether a release or abort waits for the library, which has its turn after us."""
        dul = self._association.dul
        return not self._association.is_established or not dul.is_alive() or dul.peek_next_pdu() is not None

    def _send(self, message: Any) -> None:
        self._association.dimse.send_msg(message, self._context_id)
