"""Reports of storage commitment on associations of our own (PS3.4 J.3.3, J.3.4).

What no report could be made of where it was asked for waits in the spool. Here it is reported to the requester as a
registered remote server, by the AE title of ours that it asked (field note 41), again and again with growing pauses,
until it has taken the report or a day has passed.
"""

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.dimse_primitives import N_EVENT_REPORT
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import build_context, build_role

from vna.checkpoints import checkpoint
from vna.dimse.associations import associate, exchange, next_message, send
from vna.dimse.committing import STORAGE_COMMITMENT, Judge, Judgement, report_of, told
from vna.dimse.node import OurNode
from vna.errors import (
    BackupError,
    PeerError,
    ReportRefused,
    RequesterUnknown,
    ServiceNotAccepted,
    StoreError,
    peers_words,
    where_it_happened,
)
from vna.site import RemoteServer
from vna.spool import Commitments, TakenCommitment

GIVE_UP_SECONDS = 86400.0
"""How long a report is tried, from when commitment was last asked."""

_LOOK_SECONDS = 1.0
_SWEEP_SECONDS = 3600.0
_PLACING, _CATALOG, _PEER = (1.0, 15.0), (2.0, 60.0), (5.0, 900.0)
"""The first and the longest pause in seconds: while instances are placed, after an error here, of the peer."""

_DURING = "the report of a storage commitment"
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Pause:
    until: float = 0.0
    seconds: float = 0.0

    def grow(self, limits: tuple[float, float]) -> None:
        first, longest = limits
        self.seconds = min(max(self.seconds * 2, first), longest)
        self.until = time.monotonic() + self.seconds

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self.until


class Reporter:
    """The thread that reports what nobody has reported yet. Several processes may each have one."""

    def __init__(
        self,
        commitments: Commitments,
        judge: Judge,
        node: OurNode,
        requesters: Callable[[str], RemoteServer | None],
    ) -> None:
        self._commitments = commitments
        self._judge = judge
        self._node = node
        self._requesters = requesters
        self._pauses: dict[str, _Pause] = {}
        self._peers: dict[str, _Pause] = {}
        self._told: dict[str, str] = {}
        self._sweep_at = 0.0

    def run(self, stop: threading.Event) -> None:
        """Report until `stop` is set; what is being reported then comes to its end."""
        while not stop.is_set():
            try:
                self._look(stop)
            except StoreError as error:  # the spool itself
                self._tell("", str(error))
            stop.wait(_LOOK_SECONDS)

    def _look(self, stop: threading.Event) -> None:
        if time.monotonic() >= self._sweep_at:
            self._sweep_at = time.monotonic() + _SWEEP_SECONDS
            self._commitments.sweep()
        keys = set(self._commitments.waiting())
        for key in self._pauses.keys() - keys:
            del self._pauses[key]
            self._told.pop(key, None)
        for key in keys:
            if stop.is_set():
                return
            pause = self._pauses.setdefault(key, _Pause())
            if pause.is_over:
                self._take(key, pause)

    def _take(self, key: str, pause: _Pause) -> None:
        try:
            if (taken := self._commitments.take(key)) is not None:
                with taken:
                    self._attempt(taken, pause)
        except StoreError as error:  # one folder that cannot be read must not hold up the others
            pause.grow(_CATALOG)
            self._tell(key, str(error))

    def _attempt(self, taken: TakenCommitment, pause: _Pause) -> None:
        """Report it if that can be done now, else say why not and when it is tried next."""
        calling_aet = taken.request.calling_aet
        peer = self._peers.setdefault(calling_aet, _Pause())
        if not peer.is_over:
            pause.until = peer.until  # one that cannot be reached must not hold up the others
            return
        try:
            if (judgement := self._judge.judge(taken)) is None:
                pause.grow(_PLACING)
                return
            self._report(taken, judgement)
            del self._peers[calling_aet]
            self._told.pop(calling_aet, None)
            return
        except ReportRefused as error:  # it takes others perhaps
            pause.grow(_PEER)
            problem = str(error)
        except PeerError as error:
            peer.grow(_PEER)
            pause.until = peer.until
            problem = str(error)
        except BackupError as error:
            pause.grow(_CATALOG)
            problem = str(error)
        except Exception as error:  # noqa: BLE001 - this thread is the only one that reports
            pause.grow(_PEER)
            problem = f"the report failed: {where_it_happened(error)}"
        self._tell(calling_aet, f"Storage commitment asked by {calling_aet} is not reported yet. {problem}")
        if time.time() - taken.request.requested_at >= GIVE_UP_SECONDS:
            self._give_up(taken)

    def _tell(self, subject: str, sentence: str) -> None:
        """Once, until something else is in the way."""
        if self._told.get(subject) != sentence:
            self._told[subject] = sentence
            _log.warning("%s", sentence)

    def _give_up(self, taken: TakenCommitment) -> None:
        request = taken.request
        taken.give_up()
        _log.error(
            "%s was not told of storage commitment %s (%d instances) within a day; it is given up. "
            "It has to be asked for again there.",
            *(request.calling_aet, request.transaction_uid, len(request.references)),
        )

    def _report(self, taken: TakenCommitment, judgement: Judgement) -> None:
        """Raises a `PeerError` that says what is in the way."""
        calling_aet = taken.request.calling_aet
        checkpoint("commitment.judged")
        remote = self._requesters(calling_aet)
        if remote is None:
            raise RequesterUnknown(calling_aet)
        try:
            # the standard wants it of an SCP that opens the association
            self._deliver(remote, taken, judgement, [build_role(STORAGE_COMMITMENT, scp_role=True)])
        except ServiceNotAccepted:  # some refuse the context for a role that they would play all the same
            self._deliver(remote, taken, judgement, [])
        checkpoint("commitment.reported")
        taken.acknowledged()
        _log.info("%s", told(taken.request, judgement))

    def _deliver(
        self,
        remote: RemoteServer,
        taken: TakenCommitment,
        judgement: Judgement,
        roles: Sequence[SCP_SCU_RoleSelectionNegotiation],
    ) -> None:
        node = dataclasses.replace(self._node, aet=taken.request.called_aet)
        context = build_context(STORAGE_COMMITMENT, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
        with associate(remote, node, [context], roles=roles, during=_DURING) as association:
            (accepted,) = association.accepted_contexts
            report = report_of(taken.request, judgement, accepted.transfer_syntax[0], 1)
            with exchange(association):
                send(association, report, accepted)
                answer: Any = next_message(association, remote.name, _DURING, node.dimse_timeout)
        if not isinstance(answer, N_EVENT_REPORT) or answer.Status is None:
            raise ReportRefused(remote.name, None)
        if answer.Status != 0:
            raise ReportRefused(remote.name, int(answer.Status), peers_words(str(answer.ErrorComment or "")))
