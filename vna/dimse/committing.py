"""What storage commitment may be said of, and the report that says it (PS3.4 J.3.2.1.3, J.3.3).

Committed is an instance of which a copy was read back and digest-checked, never one that was only received. One that
still waits in the spool is waited for, and after that time reported as what it is: not committed.
"""

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO

from pydicom.uid import UID
from pynetdicom.dimse_primitives import N_EVENT_REPORT

from vna.dimse.commitment_information import encode_event_information
from vna.dimse.index import InstanceIndex, Query
from vna.identity import is_valid_uid, safe_name
from vna.spool import CommitmentRequest, Reference, Spool, TakenCommitment

STORAGE_COMMITMENT = UID("1.2.840.10008.1.20.1")
STORAGE_COMMITMENT_INSTANCE = UID("1.2.840.10008.1.20.1.1")

PROCESSING_FAILURE, NO_SUCH_INSTANCE, CLASS_INSTANCE_CONFLICT = 0x0110, 0x0112, 0x0119
"""Failure Reasons (PS3.3 C.14.1.1)."""

_ALL_COMMITTED, _SOME_FAILED = 1, 2
_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is committed, and what is not with its Failure Reason."""

    committed: tuple[Reference, ...]
    failed: tuple[tuple[Reference, int], ...]


class Judge:
    """Asks the index and the spool. Used by several threads, one at a time, as a request may name very many.

    `wait_seconds()` = how long an instance in the spool is waited for, from when commitment was asked.
    """

    def __init__(self, index: InstanceIndex, spool: Spool, wait_seconds: Callable[[], float]) -> None:
        self._index = index
        self._spool = spool
        self._wait_seconds = wait_seconds
        self._one_at_a_time = threading.Lock()

    def judge(self, taken: TakenCommitment) -> Judgement | None:
        """What can be said now; None while an instance waits to be placed and may be waited for.

        Raises `CatalogUnavailable` and `SpoolUnusable`.
        """
        references = taken.request.references
        has_waited = time.time() - taken.first_asked >= self._wait_seconds()
        with self._one_at_a_time:
            # first: what is placed after this look is in the catalog by then. An instance that came once more
            # since it was verified may be another version, so it waits too.
            pending = self._spool.pending({instance for _, instance in references}, for_certain=True)
            if pending and not has_waited:
                return None
            pending |= self._set_aside({instance for _, instance in references})
            committed: list[Reference] = []
            failed: list[tuple[Reference, int]] = []
            for some in _chunks(references):
                reasons = self._reasons(some, pending)
                committed += [reference for reference in some if reference not in reasons]
                failed += reasons.items()
            return Judgement(tuple(committed), tuple(failed))

    def _reasons(self, references: list[Reference], pending: set[str]) -> dict[Reference, int]:
        """Those that are not committed, and why."""
        asked = {instance for _, instance in references if is_valid_uid(instance)} - pending
        verified = self._index.verified(asked)
        known = pending | self._known(asked - verified.keys())
        reasons: dict[Reference, int] = {}
        for sop_class, instance in references:
            if verified.get(instance) == sop_class:
                continue
            if instance in verified:
                reason = CLASS_INSTANCE_CONFLICT
            else:
                reason = PROCESSING_FAILURE if instance in known else NO_SUCH_INSTANCE
            reasons[sop_class, instance] = reason
        return reasons

    def _set_aside(self, instances: set[str]) -> set[str]:
        """Those of which a content was acknowledged that could not be placed: an older version in a storage unit does
        not stand for it. Not so once the same content came again and is the current one.
        """
        contents: dict[str, set[str]] = {}
        names = {safe_name(instance): instance for instance in instances}
        for entry in self._spool.aside():
            instance = names.get(safe_name(entry.sop_instance_uid))
            if instance is not None:
                contents.setdefault(instance, set()).add(entry.path.name.partition(".")[0])
        return {instance for instance, digests in contents.items() if digests - self._held_contents(instance)}

    def _held_contents(self, instance: str) -> set[str]:
        held = self._index.held(Query("IMAGE", {"SOPInstanceUID": instance}))
        return {file.dataset_sha256 for version in held for file in version.files}

    def _known(self, instances: set[str]) -> set[str]:
        """Those we have heard of, whatever became of their copies."""
        if not instances:
            return set()
        query = Query("IMAGE", {"SOPInstanceUID": "\\".join(sorted(instances))})
        return {answer["SOPInstanceUID"] for answer in self._index.matches(query)}


def _chunks(references: Iterable[Reference]) -> Iterator[list[Reference]]:
    rest = iter(references)
    while some := list(itertools.islice(rest, _AT_ONCE)):
        yield some


def report_of(
    request: CommitmentRequest, judgement: Judgement, transfer_syntax: UID, message_id: int
) -> N_EVENT_REPORT:
    """The N-EVENT-REPORT request: event type 1 where all is committed, else 2."""
    report = N_EVENT_REPORT()
    report.MessageID = message_id
    report.AffectedSOPClassUID = STORAGE_COMMITMENT
    report.AffectedSOPInstanceUID = STORAGE_COMMITMENT_INSTANCE
    report.EventTypeID = _SOME_FAILED if judgement.failed else _ALL_COMMITTED
    report.EventInformation = BytesIO(
        encode_event_information(
            request.transaction_uid,
            judgement.committed,
            judgement.failed,
            is_implicit=transfer_syntax.is_implicit_VR,
            is_little=transfer_syntax.is_little_endian,
        )
    )
    return report


def told(request: CommitmentRequest, judgement: Judgement) -> str:
    """That the requester has the report, for the log."""
    outcome = f"{len(judgement.committed)} instances committed, {len(judgement.failed)} not"
    if not judgement.failed:
        outcome = f"all {len(judgement.committed)} instances committed"
    return f"{request.calling_aet} was told of storage commitment {request.transaction_uid}: {outcome}"
