"""C-MOVE: ask the source to send instances to our DICOM server (PS3.4 C.4.2, PS3.7 9.1.4).

What it counts is no proof of anything (field note 11); what arrived is seen in the spool. A source may be silent
for long while it sends, so arrivals count as a sign of life.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_MOVE
from pynetdicom.presentation import build_context

from vna.dimse.associations import associate, exchange, next_message, send
from vna.dimse.gate import pause
from vna.dimse.identifiers import encode_identifier
from vna.dimse.node import OurNode
from vna.errors import AnswerInvalid, MoveDestinationUnknown, RetrieveFailed, peers_words
from vna.identity import FoundInstance
from vna.site import RemoteServer

STUDY_ROOT_MOVE = UID("1.2.840.10008.5.1.4.1.2.2.2")
UIDS_PER_REQUEST = 50
_PENDING, _SUCCESS, _SOME_FAILED = 0xFF00, 0x0000, 0xB000
_DESTINATION_UNKNOWN = 0xA801

Keys = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class MoveOutcome:
    """What the source said of a retrieve, never what arrived: `sentence` is its complaint, empty if it has none."""

    sentence: str = ""
    requests: int = 0
    completed: int = 0
    failed: int = 0
    warnings: int = 0


def move(
    remote: RemoteServer,
    node: OurNode,
    study_instance_uid: str,
    instances: Sequence[FoundInstance],
    destination_aet: str,
    *,
    whole: Sequence[FoundInstance],
    is_alive: Callable[[], bool] = lambda: False,
) -> MoveOutcome:
    """Ask for `instances` of a study (none: for the study as it is) to be sent to `destination_aet`.

    The whole study is asked for as such, a part by series and by lists of UIDs; where the source refuses a list, one
    by one, then whole series, then the study. `is_alive()` true = something arrived: the wait for the next
    response starts anew. Raises `MoveDestinationUnknown`, `RetrieveFailed` when no request succeeded, and what an
    association raises; a source that stays silent is a `PeerTimeout`.
    """
    context = build_context(STUDY_ROOT_MOVE, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    with associate(remote, node, [context], during="C-MOVE (Study Root)") as association:
        session = _Session(remote, node, association, study_instance_uid, destination_aet, is_alive)
        for level, keys in _requests(study_instance_uid, instances, whole):
            session.request(level, keys)
    return session.outcome(len(instances))


def _requests(
    study_instance_uid: str, instances: Sequence[FoundInstance], whole: Sequence[FoundInstance]
) -> Iterator[tuple[str, dict[str, str]]]:
    """Level and unique keys of each request; full unique keys, as relational retrieves are rare (field note 10)."""
    study = {"StudyInstanceUID": study_instance_uid}
    wanted, all_of_series = _by_series(instances), _by_series(whole)
    if all(wanted.get(series, set()) >= members for series, members in all_of_series.items()):
        yield "STUDY", study
        return
    for series, members in wanted.items():
        keys = {**study, "SeriesInstanceUID": series}
        if members >= all_of_series.get(series, set()):
            yield "SERIES", keys
            continue
        uids = sorted(members)
        for start in range(0, len(uids), UIDS_PER_REQUEST):
            yield "IMAGE", {**keys, "SOPInstanceUID": "\\".join(uids[start : start + UIDS_PER_REQUEST])}


def _by_series(instances: Sequence[FoundInstance]) -> dict[str, set[str]]:
    series: dict[str, set[str]] = defaultdict(set)
    for instance in instances:
        series[instance.series_instance_uid].add(instance.sop_instance_uid)
    return dict(series)


@dataclass
class _Session:
    """The requests of one association, and what the source said of each."""

    remote: RemoteServer
    node: OurNode
    association: Association
    study_instance_uid: str
    destination: str
    is_alive: Callable[[], bool]
    requests: int = 0
    completed: int = 0
    failed: int = 0
    warnings: int = 0
    complaints: list[str] = field(default_factory=list[str])
    refusals: list[RetrieveFailed] = field(default_factory=list[RetrieveFailed])
    refused_levels: set[tuple[str, bool]] = field(default_factory=set[tuple[str, bool]])
    asked: set[tuple[str, ...]] = field(default_factory=set[tuple[str, ...]])

    def request(self, level: str, keys: Keys) -> None:
        """One request; where the source refuses its kind, the next coarser kind."""
        key = (level, *keys.values())
        if key in self.asked:
            return
        self.asked.add(key)
        kind = (level, "\\" in keys.get("SOPInstanceUID", ""))
        if kind not in self.refused_levels:
            refusal = self._send(level, keys)
            if refusal is None:
                return
            self.refusals.append(refusal)
            if level == "STUDY" or not _refuses_the_kind(refusal):
                return
            self.refused_levels.add(kind)
        for coarser_level, coarser in _coarser(level, keys):
            self.request(coarser_level, coarser)

    def _send(self, level: str, keys: Keys) -> RetrieveFailed | None:
        if self.requests:
            pause(self.remote)
        self.requests += 1
        (context,) = self.association.accepted_contexts
        request = C_MOVE()
        request.MessageID = self.requests % 65535 + 1
        request.AffectedSOPClassUID = STUDY_ROOT_MOVE
        request.Priority = 0
        request.MoveDestination = self.destination
        request.Identifier = encode_identifier(
            {"QueryRetrieveLevel": level, **keys}, context.transfer_syntax[0]
        )
        with exchange(self.association):
            send(self.association, request, context)
            answer = self._final_answer()
        return self._judge(answer)

    def _final_answer(self) -> Any:
        during = f"C-MOVE to {self.destination} (does the source know this destination?)"
        while True:
            answer = next_message(
                self.association, self.remote.name, during, self.node.dimse_timeout, self.is_alive
            )
            if not isinstance(answer, C_MOVE) or answer.Status is None:
                raise AnswerInvalid(self.remote.name, "something else than an answer to C-MOVE")
            if answer.Status != _PENDING:
                return answer
            during = f"C-MOVE to {self.destination}"

    def _judge(self, answer: Any) -> RetrieveFailed | None:
        """Note a success, whole or in part; return a refusal; raise where no other request can do better."""
        status, comment = int(answer.Status), peers_words(str(answer.ErrorComment or ""))
        completed = answer.NumberOfCompletedSuboperations or 0
        failed = answer.NumberOfFailedSuboperations or 0
        self.completed += completed
        self.failed += failed
        self.warnings += answer.NumberOfWarningSuboperations or 0
        if status == _DESTINATION_UNKNOWN:
            raise MoveDestinationUnknown(self.remote.name, self.destination)
        if status in {_SUCCESS, _SOME_FAILED} or status >> 12 == 0xB:
            if status or failed:
                told = f": {comment}" if comment else ""
                self.complaints.append(f"it could not send {failed} instances (status 0x{status:04X}){told}")
            return None
        if not completed and (status == 0xA900 or status >> 12 == 0xC):
            hint = f"it may not know the move destination {self.destination!r}"
            comment = f"{comment}; {hint}" if comment else hint
        return RetrieveFailed(self.remote.name, self.study_instance_uid, status, comment)

    def outcome(self, wanted: int) -> MoveOutcome:
        """The sum; raises the first refusal if no request was carried out."""
        if self.refusals and len(self.refusals) == self.requests:
            raise self.refusals[0]
        complaints = [*self.complaints]
        if self.completed < wanted and not self.complaints:
            complaints.append(f"it reported success for {self.completed} of {wanted} instances")
        if self.refusals and self.completed < wanted:
            complaints.append(str(self.refusals[-1]))
        sentence = f"{self.remote.name}: {'; '.join(dict.fromkeys(complaints))}" if complaints else ""
        return MoveOutcome(sentence, self.requests, self.completed, self.failed, self.warnings)


def _refuses_the_kind(refusal: RetrieveFailed) -> bool:
    """Identifier does not match, unable to process, or not supported: another kind of request may do."""
    return refusal.status == 0xA900 or refusal.status >> 12 in {0x0, 0xC}


def _coarser(level: str, keys: Keys) -> list[tuple[str, dict[str, str]]]:
    above = {key: value for key, value in keys.items() if key != "SOPInstanceUID"}
    uids = keys.get("SOPInstanceUID", "").split("\\")
    if level == "IMAGE" and len(uids) > 1:
        return [("IMAGE", {**above, "SOPInstanceUID": uid}) for uid in uids]
    if level == "IMAGE":
        return [("SERIES", above)]
    return [("STUDY", {"StudyInstanceUID": keys["StudyInstanceUID"]})]
