"""An association from its A-ASSOCIATE-RQ on: which presentation contexts it gets, and the library's object for it.

The request was read and judged before (`listening`, `admission`); the library starts as if it had read it itself,
and sends our answer. Which contexts are accepted is decided here, each by itself, not by the library: storage has no
list of SOP classes, and a peer may name the same SOP class in several contexts with different transfer syntaxes.
"""

import contextlib
import functools
import logging
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.fsm import InvalidEventError
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE, SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext, build_role
from pynetdicom.service_class import (
    NonPatientObjectStorageServiceClass,
    ServiceClass,
    StorageServiceClass,
)
from pynetdicom.sop_class import uid_to_service_class
from pynetdicom.transport import AddressInformation, AssociationSocket

from vna.dimse.admission import Reason
from vna.dimse.callers import Caller
from vna.dimse.pdata import hang_up
from vna.dimse.services import Services
from vna.dimse.tally import log_breach
from vna.errors import where_it_happened
from vna.platform import wait_readable

_log = logging.getLogger(__name__)

VERIFICATION = "1.2.840.10008.1.1"
EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
DATASET_SYNTAXES = (EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN)
"""What the services speak for identifiers; the first that a context proposes."""

_ACCEPTED, _USER_REJECTION, _ABSTRACT_SYNTAX_NOT_SUPPORTED, _TRANSFER_SYNTAXES_NOT_SUPPORTED = 0, 1, 3, 4
_REFUSED_WORDS = {
    _USER_REJECTION: "refused, it may not do this here",
    _ABSTRACT_SYNTAX_NOT_SUPPORTED: "refused, the service is not offered",
    _TRANSFER_SYNTAXES_NOT_SUPPORTED: "refused, none of these transfer syntaxes is accepted",
}
_ASSOCIATE_RQ_RECEIVED, _CLOSED_BY_PEER = "Evt6", "Evt17"
_APPLICATION_CONTEXT, _PRESENTATION_CONTEXT, _USER_INFORMATION, _SUB_ITEMS = 0x10, 0x20, 0x50, -1
_FIXED_FIELDS = 74
_MOST_ITEMS = {_APPLICATION_CONTEXT: 1, _PRESENTATION_CONTEXT: 128, _USER_INFORMATION: 1}
_MOST_UNKNOWN = 1
_MOST_SUB_ITEMS = 128 * 65 + 1024
"""128 contexts with every transfer syntax there is, and roles and extended negotiations of each."""

_STORAGE = (StorageServiceClass, NonPatientObjectStorageServiceClass, ServiceClass)

Roles = Mapping[str, tuple[bool, bool]]
"""SOP class to the requester's proposed (or our accepted) SCU and SCP role (PS3.7 D.3.3.4)."""


def decoded(pdu: bytes) -> tuple[A_ASSOCIATE_RQ, A_ASSOCIATE]:
    """An A-ASSOCIATE-RQ and what it asks for; raises whatever the library's decoder does, `ValueError` among it."""
    _check_items(pdu)
    request = A_ASSOCIATE_RQ()
    request.decode(pdu)
    return request, request.to_primitive()


def _check_items(pdu: bytes) -> None:
    """Raise `ValueError` for an A-ASSOCIATE-RQ with more items than one can have (PS3.8 9.3.2).

    The library makes an object of each, which for a MiB of empty ones takes seconds; this looks at their heads only.
    """
    kinds: Counter[int] = Counter()
    for kind, start, end in _items(pdu, _FIXED_FIELDS, len(pdu)):
        kinds[kind] += 1
        most = _MOST_ITEMS.get(kind, _MOST_UNKNOWN)
        if kinds[kind] > most:
            raise ValueError(f"more than {most} items of type {kind:#04x}")
        for _ in _items(pdu, start + 4 if kind == _PRESENTATION_CONTEXT else start, end):
            kinds[_SUB_ITEMS] += 1
            if kinds[_SUB_ITEMS] > _MOST_SUB_ITEMS:
                raise ValueError(f"more than {_MOST_SUB_ITEMS} sub-items")


def _items(pdu: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Type of each item, and where its value starts and ends; what makes no sense is the library's to refuse."""
    while at + 4 <= end:
        kind, length = struct.unpack_from(">BxH", pdu, at)
        at += 4
        yield kind, at, min(at + length, end)
        at += length


@functools.lru_cache(maxsize=4096)
def is_storage(abstract_syntax: str) -> bool:
    """Whether C-STORE belongs to this SOP class; what nobody knows (private, retired, new) is taken for storage."""
    return uid_to_service_class(abstract_syntax) in _STORAGE


@dataclass(frozen=True, slots=True)
class Negotiated:
    """The answer to a request's presentation contexts, and to its role proposals."""

    contexts: tuple[PresentationContext, ...]
    roles: tuple[SCP_SCU_RoleSelectionNegotiation, ...]
    withheld: tuple[Reason, str] | None = None
    """What was asked for and is refused to this caller, as a sentence; None where there is nothing."""

    @property
    def only_verifies(self) -> bool:
        """Whether nothing but C-ECHO was asked for."""
        return all(str(context.abstract_syntax) == VERIFICATION for context in self.contexts)


def negotiate(
    proposed: Iterable[PresentationContext], roles: Roles, caller: Caller, services: Services
) -> Negotiated:
    """Answer each context by itself (PS3.8 9.3.3.2).

    Storage: every SOP class, the first transfer syntax of the caller's list that is proposed, or without a list the
    first proposed, because that is the one its sender need not transcode to. Where the caller is the SCP (C-GET), the
    proposed one that we keep most of.
    """
    contexts: dict[int, PresentationContext] = {}
    accepted: dict[str, tuple[bool, bool]] = {}
    for context in proposed:
        name, number = str(context.abstract_syntax or ""), context.context_id
        if number is None or number in contexts:
            raise ValueError("a presentation context ID that comes twice")
        role = roles.get(name)
        result, syntax, granted = _judge(name, context, role, caller, services)
        contexts[number] = _answer(context, result, syntax, granted)
        if result == _ACCEPTED and role is not None:
            accepted[name] = granted
    replies = tuple(build_role(name, scu_role=scu, scp_role=scp) for name, (scu, scp) in accepted.items())
    rejected = [str(each.abstract_syntax) for each in contexts.values() if each.result == _USER_REJECTION]
    return Negotiated(tuple(contexts.values()), replies, _withheld(rejected, roles, caller))


def _withheld(rejected: Iterable[str], roles: Roles, caller: Caller) -> tuple[Reason, str] | None:
    """Why a peer whose association was accepted gets nowhere; `rejected` are SOP classes."""
    asked: dict[Reason, str] = {}
    for name in rejected:
        # a requester that is only SCP for storage wants C-GET, whose own context is rejected too
        if is_storage(name) and not caller.may_store and roles.get(name, (True, False))[0]:
            asked[Reason.no_store] = "to store"
        elif not is_storage(name) and name != VERIFICATION and not caller.may_retrieve:
            asked[Reason.no_retrieve] = "to query, retrieve or for storage commitment"
    if not asked:
        return None
    reason = Reason.no_store if Reason.no_store in asked else Reason.no_retrieve
    wishes = " and ".join(asked[reason] for reason in sorted(asked, reverse=True))
    if caller.remote is not None:
        return reason, f"{caller.remote.name} asked {wishes}, which its settings do not allow"
    if caller.may_store:
        return reason, f"{caller.calling_aet} asked {wishes}, and callers unknown to this site may only store"
    return (
        reason,
        f"{caller.calling_aet} asked {wishes}, and our own AE title may only ask whether we are there",
    )


def _judge(
    name: str,
    context: PresentationContext,
    role: tuple[bool, bool] | None,
    caller: Caller,
    services: Services,
) -> tuple[int, str | None, tuple[bool, bool]]:
    """Result, transfer syntax and the requester's granted (SCU, SCP) roles."""
    proposed = [str(uid) for uid in context.transfer_syntax]
    scu, scp = role or (True, False)
    if not name:  # a context that names no SOP class: the others are none the worse
        return _ABSTRACT_SYNTAX_NOT_SUPPORTED, None, (False, False)
    if is_storage(name):
        granted = (scu and caller.may_store, scp and caller.may_retrieve and services.has_get)
        wanted = caller.transfer_syntaxes if granted[0] else ()  # what we send is not what we accept
    elif name == VERIFICATION:
        granted, wanted = (scu, False), ()
    elif name in services:
        granted, wanted = (scu and caller.may_retrieve, False), DATASET_SYNTAXES
    else:
        return _ABSTRACT_SYNTAX_NOT_SUPPORTED, None, (False, False)
    if not any(granted):
        return _USER_REJECTION, None, granted
    syntax = _chosen(proposed, wanted, by_proposal=name in services)
    if is_storage(name) and granted[1]:
        # of several it accepts by C-GET, that which we are likely to need: nothing is converted
        kept = services.syntaxes_kept(name)
        allowed = [uid for uid in proposed if not wanted or uid in wanted]
        syntax = next((uid for uid in kept if uid in allowed), syntax)
    return (_TRANSFER_SYNTAXES_NOT_SUPPORTED if syntax is None else _ACCEPTED), syntax, granted


def _chosen(proposed: list[str], wanted: tuple[str, ...], *, by_proposal: bool) -> str | None:
    if not wanted:
        return next(iter(proposed), None)
    if by_proposal:
        return next((uid for uid in proposed if uid in wanted), None)
    return next((uid for uid in wanted if uid in proposed), None)


def _answer(
    proposed: PresentationContext, result: int, syntax: str | None, granted: tuple[bool, bool]
) -> PresentationContext:
    context: Any = PresentationContext()
    context.context_id = proposed.context_id
    if proposed.abstract_syntax is not None:
        context.abstract_syntax = proposed.abstract_syntax
    # not significant where it is rejected, and yet there must be one (PS3.8 table 9-18)
    filler = next(iter(proposed.transfer_syntax), IMPLICIT_LITTLE_ENDIAN)
    context.transfer_syntax = [syntax or filler]
    context.result = result
    context._as_scp, context._as_scu = granted  # ours: the SCP where the requester is the SCU
    return context


def context_text(proposed: PresentationContext, answered: PresentationContext) -> str:
    """What was proposed and what became of it, for the log of who looks for why nothing is sent."""
    syntaxes = ", ".join(map(str, proposed.transfer_syntax))
    answer = _REFUSED_WORDS.get(answered.result or 0) or f"accepted with {answered.transfer_syntax[0]}"
    return f"context {proposed.context_id} for {proposed.abstract_syntax} in {syntaxes}: {answer}"


def storage_syntax(association: Association, context_id: int) -> str | None:
    """The transfer syntax of a context the peer may send instances on, None for any other."""
    context: PresentationContext | None = association._accepted_cx.get(context_id)  # pyright: ignore[reportPrivateUsage]
    if context is None or not context.as_scp or not is_storage(str(context.abstract_syntax)):
        return None
    return str(context.transfer_syntax[0])


def proposed_roles(request: Any) -> dict[str, tuple[bool, bool]]:
    """What an A-ASSOCIATE request proposes for each SOP class: (SCU, SCP) of the requester (PS3.7 D.3.3.4)."""
    return {
        str(item.sop_class_uid): (bool(item.scu_role), bool(item.scp_role))
        for item in request.user_information
        if isinstance(item, SCP_SCU_RoleSelectionNegotiation)
    }


class _Connection(AssociationSocket):
    """The library's, without its limit: it asks by select, which ends at descriptor 1023."""

    @property
    def ready(self) -> bool:
        """Whether there is something to read."""
        connection: Any = self.socket
        if connection is None or not self._is_connected:
            return False
        try:
            return bool(getattr(connection, "pending", int)()) or wait_readable(connection, 0)
        except (OSError, ValueError):
            self.event_queue.put(_CLOSED_BY_PEER)
            return False


class _ClosesConnection:
    """What is left of the library's server for its associations: how a connection is closed at the end."""

    @staticmethod
    def shutdown_request(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
        connection.close()


def new_association(
    entity: ApplicationEntity,
    connection: socket.socket,
    request: A_ASSOCIATE_RQ,
    *,
    called_aet: str,
    max_pdu: int,
    network_timeout: float,
    negotiated: Negotiated,
    ended: Callable[[Association], None],
) -> Association:
    """The library's association on a connection whose request was read; to be started. `ended` is called in the
    thread that reads from it, when that ends, however it ends.
    """
    association: Any = Association(entity, "acceptor")
    association._server = _ClosesConnection()
    association.network_timeout = network_timeout
    association.set_socket(_Connection(association, client_socket=connection))
    acceptor = association.acceptor
    acceptor.maximum_length = max_pdu
    acceptor.ae_title = called_aet
    acceptor.address_info = _address(connection.getsockname())
    acceptor.implementation_class_uid = entity.implementation_class_uid
    acceptor.implementation_version_name = entity.implementation_version_name
    association.requestor.address_info = _address(connection.getpeername())
    association.requestor.ae_title = request.calling_ae_title
    association.acse._negotiate_as_acceptor = functools.partial(_accept, association, negotiated)
    association.dul._recv_pdu.put(request)
    association.dul.event_queue.put(_ASSOCIATE_RQ_RECEIVED)
    _at_end_of_reading(association, functools.partial(ended, association))
    return association


def _accept(association: Any, negotiated: Negotiated) -> None:
    """In the place of `ACSE._negotiate_as_acceptor`, which also answers what we decided before or never offer."""
    accepted = [context for context in negotiated.contexts if context.result == _ACCEPTED]
    association._accepted_cx = {context.context_id: context for context in accepted}
    association._rejected_cx = [context for context in negotiated.contexts if context.result != _ACCEPTED]
    for role in negotiated.roles:
        association.acceptor.add_negotiation_item(role)
    association.acse.send_accept()
    association.is_established = True


def _address(name: Any) -> AddressInformation:
    return AddressInformation.from_tuple(name)


def _at_end_of_reading(association: Any, then: Callable[[], None]) -> None:
    """Call `then` in the DUL thread when it ends, however it ends: it is the thread that writes to the spool."""
    dul: Any = association.dul
    run, run_association = dul.run, association.run

    def run_then() -> None:
        try:
            run()
        except InvalidEventError:
            # the peer was gone before the library had answered it; its state machine has no row for that
            hang_up(association)
        except Exception as error:  # noqa: BLE001  the library raises whatever a hostile PDU makes it
            log_breach(association.requestor.address, type(error).__name__)
            hang_up(association)
        finally:
            try:
                then()
            finally:
                # with its buffer of a MiB; the library's objects hold each other until the collector comes by
                dul.__dict__.pop("_read_pdu_data", None)
                # else a connection that ended unheard is waited for until a timeout
                dul.to_user_queue.put(None)

    def run_association_then() -> None:
        try:
            run_association()
        except Exception as error:  # noqa: BLE001  nobody is left to end the connection when it is silent
            _log.error(
                "%s: its association failed: %s", association.requestor.address, where_it_happened(error)
            )
            hang_up(association)
            dul.kill_dul()
        finally:
            if not dul.is_alive():  # it may never have started: no more threads to be had
                hang_up(association)
                then()

    dul.run, association.run = run_then, run_association_then
