"""C-GET (PS3.4 C.4.3): instances come on our own association, and go to the spool like any that is received.

What arrived is what the spool has; the source's counts and its "success" are hints (field note 11). An instance
that comes though nobody asked for it is stored all the same.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_GET
from pynetdicom.dsutils import encode

from vna.dimse.accepting import is_storage
from vna.dimse.associations import associate, exchange, next_message, send
from vna.dimse.contexts import STUDY_ROOT_GET, ContextGroup, compressed_groups, retrieve_groups
from vna.dimse.node import OurNode
from vna.dimse.pdata import attach, chosen_loop
from vna.dimse.storing import Arrivals, Messages
from vna.errors import AnswerInvalid, RetrieveFailed, ServiceNotAccepted, StoreError, peers_words
from vna.identity import FoundInstance, Receipt
from vna.site import RemoteServer
from vna.spool import Spool

MOST_UIDS = 200
"""UIDs in one request: a UI value holds at most 64 KiB in explicit VR, and long lists upset some servers."""

_SUCCESS, _PENDING, _SOME_FAILED, _CANCELLED = 0x0000, 0xFF00, 0xB000, 0xFE00
_DURING = "C-GET"


@dataclass(frozen=True, slots=True)
class GetOutcome:
    """What a C-GET brought. `arrived` = instances durable in the spool; `completed`, `failed` and `warning` are the
    source's own counts; `sentence` is its complaint, empty if it had none.
    """

    sentence: str
    arrived: int
    completed: int
    failed: int
    warning: int


@dataclass(slots=True)
class _Retrieval:
    """One call of `get` while it lasts. `most_matches` = the most instances the source counted in one answer;
    `agreed` = SOP class to the transfer syntaxes it accepted.
    """

    remote: RemoteServer
    node: OurNode
    study_instance_uid: str
    spool: Spool
    arrived: set[str] = field(default_factory=set[str])
    completed: int = 0
    failed: int = 0
    warning: int = 0
    most_matches: int = 0
    agreed: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    complaints: list[str] = field(default_factory=list[str])
    failure: RetrieveFailed | None = None
    own_failure: StoreError | None = None

    def stored(self, receipt: Receipt) -> None:
        self.arrived.add(receipt.sop_instance_uid)

    @property
    def could_not_send(self) -> bool:
        """Whether the source itself says that it failed."""
        return self.own_failure is None and (self.failed > 0 or self.failure is not None)

    def refused(self, error: StoreError) -> None:
        self.own_failure = self.own_failure or error


def get(
    remote: RemoteServer,
    node: OurNode,
    study_instance_uid: str,
    instances: Sequence[FoundInstance],
    spool: Spool,
    *,
    whole: Sequence[FoundInstance],
    study_attributes: Mapping[str, str],
) -> GetOutcome:
    """Retrieve instances of a study into `spool`; all of it, unlisted, where `instances` and `whole` are empty.

    Asks at STUDY level when everything is wanted, else at IMAGE level with lists of UIDs. Raises `RetrieveFailed` if
    the source fails and nothing came, `DiskFull` or `SpoolUnusable` if our own disk is why something did not,
    and the errors of `associate`.
    """
    retrieval = _Retrieval(remote, node, study_instance_uid, spool)
    everything = {i.sop_instance_uid for i in instances} >= {i.sop_instance_uid for i in whole}
    for group in retrieve_groups(instances, whole, study_attributes):
        of_group = _of_group(instances, group)
        if instances and not _missing(of_group, retrieval.arrived):
            continue
        _get_group(retrieval, group, of_group, everything)
    if retrieval.could_not_send:
        _get_compressed(retrieval, instances)
    return _outcome(retrieval, instances)


def _get_compressed(retrieval: _Retrieval, instances: Sequence[FoundInstance]) -> None:
    """What failed once more without uncompressed contexts; why it failed was told the first time."""
    told = retrieval.failed, retrieval.failure, list(retrieval.complaints)
    for group in compressed_groups(retrieval.agreed):
        if missing := _missing(_of_group(instances, group), retrieval.arrived):
            _get_group(retrieval, group, missing, everything=False)
    retrieval.failed, retrieval.failure, retrieval.complaints = told


def _of_group(instances: Sequence[FoundInstance], group: ContextGroup) -> list[FoundInstance]:
    return [i for i in instances if not i.sop_class_uid or i.sop_class_uid in group.sop_classes]


def _outcome(retrieval: _Retrieval, instances: Sequence[FoundInstance]) -> GetOutcome:
    """What a group of contexts could not bring is no complaint if another one did."""
    arrived = len(retrieval.arrived)
    listed_came = bool(instances) and not _missing(instances, retrieval.arrived)
    counted_came = not instances and 0 < retrieval.most_matches <= arrived
    if listed_came or counted_came:
        return GetOutcome("", arrived, retrieval.completed, 0, retrieval.warning)
    if retrieval.own_failure is not None:
        raise retrieval.own_failure
    if retrieval.failure is not None:
        if not arrived:
            raise retrieval.failure
        retrieval.complaints.append(str(retrieval.failure))
    return GetOutcome(
        sentence=" ".join(dict.fromkeys(retrieval.complaints)),
        arrived=arrived,
        completed=retrieval.completed,
        failed=retrieval.failed,
        warning=retrieval.warning,
    )


def _missing(instances: Sequence[FoundInstance], arrived: Collection[str]) -> list[FoundInstance]:
    return [instance for instance in instances if instance.sop_instance_uid not in arrived]


def _get_group(
    retrieval: _Retrieval, group: ContextGroup, instances: Sequence[FoundInstance], everything: bool
) -> None:
    """One association: what its contexts allow."""
    remote, node = retrieval.remote, retrieval.node
    arrivals = Arrivals(
        lambda: retrieval.spool.open_association(
            calling_aet=remote.aet, called_aet=node.aet, peer_address=remote.host, listener="get"
        ),
        lambda: remote.aet,
        stored=retrieval.stored,
        refused=retrieval.refused,
    )
    try:
        with associate(remote, node, group.contexts, roles=group.roles, during=_DURING) as association:
            syntaxes = _accepted(association)
            if STUDY_ROOT_GET not in {str(cx.abstract_syntax) for cx in association.accepted_contexts}:
                raise ServiceNotAccepted(remote.name, _DURING)
            _remember_agreed(retrieval, association)
            _tell_refused_classes(retrieval, association, group, instances)
            if not syntaxes:
                return
            messages = attach(
                association,
                arrivals,
                syntaxes.get,
                loop=chosen_loop(),
                largest_pdu=node.max_pdu,
                timeout=node.network_timeout,
            )
            try:
                for identifier in _identifiers(retrieval.study_instance_uid, instances, everything):
                    _ask(retrieval, association, messages, identifier)
            finally:
                _end_reading(association, messages)
    finally:
        arrivals.close()


def _accepted(association: Association) -> dict[int, str]:
    """Context ID → transfer syntax of what may be stored on this association."""
    return {
        int(context.context_id): str(context.transfer_syntax[0])
        for context in association.accepted_contexts
        if context.context_id is not None and is_storage(str(context.abstract_syntax))
    }


def _remember_agreed(retrieval: _Retrieval, association: Association) -> None:
    for context in association.accepted_contexts:
        sop_class, syntax = str(context.abstract_syntax), str(context.transfer_syntax[0])
        if is_storage(sop_class):
            agreed = retrieval.agreed.setdefault(sop_class, [])
            if syntax not in agreed:
                agreed.append(syntax)


def _tell_refused_classes(
    retrieval: _Retrieval, association: Association, group: ContextGroup, instances: Sequence[FoundInstance]
) -> None:
    accepted = {str(context.abstract_syntax) for context in association.accepted_contexts}
    for sop_class in group.sop_classes:
        concerned = sum(1 for instance in instances if instance.sop_class_uid == sop_class)
        if sop_class not in accepted and concerned:
            name = UID(sop_class).name
            retrieval.complaints.append(
                f"{retrieval.remote.name}: accepted no presentation context for {name}"
                f"{'' if name == sop_class else f' ({sop_class})'}, {concerned} instances."
            )


def _identifiers(
    study_instance_uid: str, instances: Sequence[FoundInstance], everything: bool
) -> Iterator[Dataset]:
    if everything:
        identifier = Dataset()
        identifier.QueryRetrieveLevel = "STUDY"
        identifier.StudyInstanceUID = study_instance_uid
        yield identifier
        return
    by_series: dict[str, list[str]] = defaultdict(list)
    for instance in instances:
        by_series[instance.series_instance_uid].append(instance.sop_instance_uid)
    for series_instance_uid, uids in by_series.items():
        for start in range(0, len(uids), MOST_UIDS):
            yield _image_identifier(study_instance_uid, series_instance_uid, uids[start : start + MOST_UIDS])


def _image_identifier(
    study_instance_uid: str, series_instance_uid: str, sop_instance_uids: Sequence[str]
) -> Dataset:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "IMAGE"
    identifier.StudyInstanceUID = study_instance_uid
    identifier.SeriesInstanceUID = series_instance_uid
    identifier.SOPInstanceUID = list(sop_instance_uids)
    return identifier


def _ask(retrieval: _Retrieval, association: Association, messages: Messages, identifier: Dataset) -> None:
    """One request; where a list of UIDs is refused and brings nothing, each UID by itself."""
    before = len(retrieval.arrived)
    failure = _ask_once(retrieval, association, messages, identifier)
    asked = _listed(identifier)
    if failure is None or len(asked) < 2 or len(retrieval.arrived) > before:
        retrieval.failure = failure or retrieval.failure
        return
    for uid in asked:
        single = _image_identifier(identifier.StudyInstanceUID, identifier.SeriesInstanceUID, [uid])
        failure = _ask_once(retrieval, association, messages, single)
        retrieval.failure = failure or retrieval.failure


def _listed(identifier: Dataset) -> list[str]:
    uids: Any = identifier.get("SOPInstanceUID", [])
    return [uids] if isinstance(uids, str) else [str(uid) for uid in uids]


def _ask_once(
    retrieval: _Retrieval, association: Association, messages: Messages, identifier: Dataset
) -> RetrieveFailed | None:
    remote, node = retrieval.remote, retrieval.node
    seen = messages.fed

    def is_alive() -> bool:
        nonlocal seen
        before, seen = seen, messages.fed
        return seen != before

    with exchange(association):
        context = next(
            cx for cx in association.accepted_contexts if str(cx.abstract_syntax) == STUDY_ROOT_GET
        )
        send(association, _request(identifier, UID(str(context.transfer_syntax[0]))), context)
        while True:
            response = next_message(association, remote.name, _DURING, node.dimse_timeout, is_alive)
            if not isinstance(response, C_GET) or response.Status is None:
                raise AnswerInvalid(remote.name, f"{type(response).__name__} during {_DURING}")
            if response.Status != _PENDING:
                return _take_final(retrieval, response)


def _request(identifier: Dataset, syntax: UID) -> C_GET:
    request = C_GET()
    request.MessageID = 1
    request.AffectedSOPClassUID = STUDY_ROOT_GET
    request.Priority = 0
    encoded = encode(identifier, syntax.is_implicit_VR, syntax.is_little_endian)
    if encoded is None:
        raise ValueError("an identifier that cannot be encoded")
    request.Identifier = BytesIO(encoded)
    return request


def _take_final(retrieval: _Retrieval, response: Any) -> RetrieveFailed | None:
    """The counts, and the failure if it is one (PS3.4 table C.4-3)."""
    counts = (
        response.NumberOfCompletedSuboperations or 0,
        response.NumberOfFailedSuboperations or 0,
        response.NumberOfWarningSuboperations or 0,
    )
    retrieval.completed += counts[0]
    retrieval.failed += counts[1]
    retrieval.warning += counts[2]
    retrieval.most_matches = max(retrieval.most_matches, sum(counts))
    status = int(response.Status)
    comment = peers_words(str(response.ErrorComment or ""))
    if status == _SUCCESS:
        return None
    if status == _SOME_FAILED:
        failed = response.NumberOfFailedSuboperations
        retrieval.complaints.append(
            f"{retrieval.remote.name}: could not send {failed or 'some'} instances of study "
            f"{retrieval.study_instance_uid}{f' ({comment})' if comment else ''}."
        )
        return None
    return RetrieveFailed(retrieval.remote.name, retrieval.study_instance_uid, status, comment)


def _end_reading(association: Association, messages: Messages) -> None:
    """What is half received when an error ends the retrieve is forgotten before its folder closes."""
    if messages.between:
        return
    association.abort()
    messages.close()
