"""How associations are agreed (PS3.8 9.3, PS3.7 annex D), on both sides, with pynetdicom's PDUs.

Every transfer syntax of a stored object is accepted as proposed: this server never transcodes.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import socket
import struct
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from pydicom.uid import UID
from pynetdicom import PYNETDICOM_IMPLEMENTATION_UID
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
)
from pynetdicom.presentation import PresentationContext

from vna.simulated_pacs.channel import LARGEST_PDU, Channel, Context, PeerGone, read_exactly
from vna.simulated_pacs.elements import EXPLICIT_LITTLE, IMPLICIT_LITTLE

VERIFICATION = "1.2.840.10008.1.1"
_PATIENT_ROOT, _STUDY_ROOT = "1.2.840.10008.5.1.4.1.2.1", "1.2.840.10008.5.1.4.1.2.2"
FIND = frozenset({f"{_PATIENT_ROOT}.1", f"{_STUDY_ROOT}.1"})
MOVE = frozenset({f"{_PATIENT_ROOT}.2", f"{_STUDY_ROOT}.2"})
GET = frozenset({f"{_PATIENT_ROOT}.3", f"{_STUDY_ROOT}.3"})
QUERY_RETRIEVE = FIND | MOVE | GET

_APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
_LARGEST_REQUEST = 1 << 20
_ACCEPTED, _NO_SYNTAX, _NO_SERVICE = 0, 4, 3
_BY_USER, _BY_PRESENTATION = 1, 3


def is_patient_root(abstract_syntax: str) -> bool:
    """Whether a query/retrieve SOP class is of the Patient Root model (PS3.4 C.6.1)."""
    return abstract_syntax.startswith(_PATIENT_ROOT + ".")


def is_storage(abstract_syntax: str) -> bool:
    """Whether it is a storage SOP class; one that the standard does not know is taken for a private one."""
    uid = UID(abstract_syntax)
    if not uid.type:
        return True
    return uid.type == "SOP Class" and "Storage" in uid.name and "Commitment" not in uid.name


@dataclass(frozen=True, slots=True)
class Rejection:
    """A-ASSOCIATE-RJ: result, source and reason as PS3.8 table 9-21 has them."""

    result: int
    source: int
    reason: int


UNKNOWN_CALLED_AET = Rejection(1, _BY_USER, 7)
BUSY = Rejection(2, _BY_PRESENTATION, 2)


def accept(
    connection: socket.socket, judge: Callable[[str], Rejection | None], refused: Collection[str]
) -> Channel:
    """Answer an A-ASSOCIATE-RQ; `judge` sees the called AE title, `refused` = SOP classes not offered.

    Raises `PeerGone` when there was none, or it was rejected.
    """
    request = _read_primitive(connection, A_ASSOCIATE_RQ(), 1)
    rejection = judge(str(request.called_ae_title).strip())
    if rejection is not None:
        _reject(connection, rejection)
        raise PeerGone
    roles = {
        str(item.sop_class_uid): item
        for item in request.user_information
        if isinstance(item, SCP_SCU_RoleSelectionNegotiation)
    }
    results = [_result(proposed, refused) for proposed in request.presentation_context_definition_list]
    answer = _primitive(str(request.calling_ae_title).strip(), str(request.called_ae_title).strip())
    answer.result, answer.result_source = 0, 1
    answer.presentation_context_definition_results_list = results
    accepted = [result for result in results if result.result == _ACCEPTED]
    classes = {str(result.abstract_syntax) for result in accepted}
    answer.user_information = _user_information(
        role for uid, role in roles.items() if uid in classes and is_storage(uid)
    )
    pdu = A_ASSOCIATE_AC()
    pdu.from_primitive(answer)
    _write(connection, pdu.encode())
    contexts = {
        result.context_id or 0: Context(
            str(result.abstract_syntax),
            str(result.transfer_syntax[0]),
            we_may_send=bool(
                (role := roles.get(str(result.abstract_syntax))) is not None
                and role.scp_role
                and is_storage(str(result.abstract_syntax))
            ),
        )
        for result in accepted
    }
    return Channel(connection, contexts, _peer_maximum(request), str(request.calling_ae_title).strip())


def request(
    connection: socket.socket,
    calling_aet: str,
    called_aet: str,
    proposed: Iterable[tuple[str, str]],
) -> Channel:
    """Open an association to store over, one context for each (SOP class, transfer syntax), at most 128.

    Raises `PeerGone` where it is not accepted.
    """
    wanted = {1 + 2 * index: pair for index, pair in enumerate(proposed)}
    primitive = _primitive(calling_aet, called_aet)
    definitions: list[PresentationContext] = []
    for context_id, (abstract_syntax, transfer_syntax) in wanted.items():
        context = PresentationContext()
        context.context_id = context_id
        context.abstract_syntax = UID(abstract_syntax)
        context.transfer_syntax = [transfer_syntax]
        definitions.append(context)
    primitive.presentation_context_definition_list = definitions
    primitive.user_information = _user_information(())
    pdu = A_ASSOCIATE_RQ()
    pdu.from_primitive(primitive)
    _write(connection, pdu.encode())
    answer = _read_primitive(connection, A_ASSOCIATE_AC(), 2)
    contexts = {
        result.context_id: Context(*wanted[result.context_id], we_may_send=True)
        for result in answer.presentation_context_definition_results_list
        if result.result == _ACCEPTED and result.context_id in wanted
    }
    return Channel(connection, contexts, _peer_maximum(answer), called_aet)


def _result(proposed: PresentationContext, refused: Collection[str]) -> PresentationContext:
    abstract_syntax = str(proposed.abstract_syntax)
    syntaxes = [str(uid) for uid in proposed.transfer_syntax]
    offered = (
        abstract_syntax == VERIFICATION or abstract_syntax in QUERY_RETRIEVE or is_storage(abstract_syntax)
    )
    result = PresentationContext()
    result.context_id = proposed.context_id
    result.abstract_syntax = proposed.abstract_syntax
    chosen = syntaxes[0]
    if not offered or abstract_syntax in refused:
        result.result = _NO_SERVICE
    elif abstract_syntax == VERIFICATION or abstract_syntax in QUERY_RETRIEVE:
        known = [uid for uid in (EXPLICIT_LITTLE, IMPLICIT_LITTLE) if uid in syntaxes]
        result.result = _ACCEPTED if known else _NO_SYNTAX
        chosen = known[0] if known else chosen
    else:
        result.result = _ACCEPTED
    result.transfer_syntax = [chosen]
    return result


def _primitive(calling_aet: str, called_aet: str) -> A_ASSOCIATE:
    primitive = A_ASSOCIATE()
    primitive.application_context_name = UID(_APPLICATION_CONTEXT)
    primitive.calling_ae_title = calling_aet
    primitive.called_ae_title = called_aet
    return primitive


def _user_information(roles: Iterable[SCP_SCU_RoleSelectionNegotiation]) -> list[object]:
    largest = MaximumLengthNotification()
    largest.maximum_length_received = LARGEST_PDU
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = PYNETDICOM_IMPLEMENTATION_UID
    return [largest, implementation, *roles]


def _peer_maximum(primitive: A_ASSOCIATE) -> int:
    for item in primitive.user_information:
        if isinstance(item, MaximumLengthNotification):
            return item.maximum_length_received or 0
    return 0


def _reject(connection: socket.socket, rejection: Rejection) -> None:
    primitive = A_ASSOCIATE()
    primitive.result, primitive.result_source = rejection.result, rejection.source
    primitive.diagnostic = rejection.reason
    pdu = A_ASSOCIATE_RJ()
    pdu.from_primitive(primitive)
    _write(connection, pdu.encode())


def _read_primitive(
    connection: socket.socket, pdu: A_ASSOCIATE_RQ | A_ASSOCIATE_AC, number: int
) -> A_ASSOCIATE:
    head = read_exactly(connection, 6)
    found, length = struct.unpack(">BxI", head)
    if found != number or length > _LARGEST_REQUEST:
        raise PeerGone
    body = read_exactly(connection, length)
    try:
        pdu.decode(head + body)
        return pdu.to_primitive()
    except Exception as error:  # whatever a peer's rubbish makes the parser raise
        raise PeerGone from error


def _write(connection: socket.socket, data: bytes) -> None:
    try:
        connection.sendall(data)
    except OSError as error:
        raise PeerGone from error
