"""Associations we open: agreed in time or refused in one sentence, released at the end, aborted on an error.

The library negotiates (PS3.8); what it only logs when something goes wrong (the reason of a failed
connection, a TLS alert, rubbish instead of an answer) is kept here and becomes an error that names the peer.
"""

# The library is partly untyped; and its reactor is paused as its own services pause it.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportPrivateUsage=false

import contextlib
import queue
import socket
import ssl
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any, cast

from pynetdicom import _config, evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_ABORT, A_ASSOCIATE, A_P_ABORT, SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import T_CONNECT, AddressInformation, AssociationSocket

from vna.dimse.node import OurNode
from vna.errors import (
    AnswerInvalid,
    AssociationAborted,
    AssociationRejected,
    PeerError,
    PeerTimeout,
    RemoteUnreachable,
    ServiceNotAccepted,
    TlsFailed,
)
from vna.site import RemoteServer, Tls
from vna.spool import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

# The library prints every identifier it sends or receives, patient data included, and takes half of the time
# of a query to do so.
_config.LOG_HANDLER_LEVEL = "none"
_config.LOG_REQUEST_IDENTIFIERS = False
_config.LOG_RESPONSE_IDENTIFIERS = False

Handler = tuple[Any, ...]
"""(event, function) or (event, function, arguments), as the library binds them."""


@contextlib.contextmanager
def associate(
    remote: RemoteServer,
    node: OurNode,
    contexts: Sequence[PresentationContext],
    *,
    roles: Sequence[SCP_SCU_RoleSelectionNegotiation] = (),
    during: str,
    handlers: Sequence[Handler] = (),
) -> Generator[Association]:
    """An established association with at least one accepted context; `during` says in errors what it is for.

    Released when the block ends, aborted when it ends with an exception. Raises `RemoteUnreachable`, `TlsFailed`,
    `AssociationRejected`, `ServiceNotAccepted` (no context accepted), `PeerTimeout`, `AssociationAborted` or
    `AnswerInvalid` (the peer does not speak DICOM). One association serves one thread only.
    """
    association = _open(remote, node, contexts, roles, during, handlers)
    try:
        yield association
    except BaseException:
        if is_rubbish(association.dul.peek_next_pdu()):
            _hang_up(association)
        association.abort()
        raise
    else:
        if association.is_established:
            association.release()
    finally:
        association.kill()


class _PeerSocket(AssociationSocket):
    """The library's socket with our deadlines: TCP, then TLS, each with its own error kept in `failure`."""

    failure: Exception | None = None
    handshaking = False

    def connect(self, primitive: T_CONNECT) -> None:
        try:
            self._connect(cast(socket.socket, self.socket), primitive.address_info)
            primitive.result = "Evt2"
        except (OSError, ValueError) as error:  # ValueError: a host name that TLS cannot check
            self.failure = error
            if self.socket:
                self._shutdown_socket()
                self.socket.close()
                self.socket = None
            primitive.result = "Evt17"
        finally:
            self.provider_queue.put(primitive)
            self._ready.set()

    def _connect(self, plain: socket.socket, address: AddressInformation) -> None:
        plain.settimeout(self.assoc.connection_timeout)
        plain.connect(address.as_tuple)
        # without it every message waits 40 ms for the peer's delayed acknowledgement
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # a peer that lost power while it works in silence is noticed after two minutes
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
            if hasattr(socket, option):  # not on every platform
                plain.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        connected = plain
        if self.tls_args:
            context, host = self.tls_args
            self.handshaking = True
            connected = self.socket = context.wrap_socket(plain, server_hostname=host)
        # a peer that stops in the middle of a PDU must not hold the thread that reads it for ever
        connected.settimeout(self.assoc.network_timeout)
        self.assoc.requestor.address_info = AddressInformation.from_tuple(connected.getsockname())
        self._is_connected = True
        evt.trigger(self.assoc, evt.EVT_CONN_OPEN, {"address": address.as_tuple})


class _OurEntity(ApplicationEntity):
    """The library's AE with our socket."""

    def _create_socket(
        self, assoc: Association, address: AddressInformation, tls_args: tuple[ssl.SSLContext, str] | None
    ) -> AssociationSocket:
        opened = _PeerSocket(assoc, address=address)
        opened.tls_args = tls_args
        self.opened = opened
        return opened


def _open(
    remote: RemoteServer,
    node: OurNode,
    contexts: Sequence[PresentationContext],
    roles: Sequence[SCP_SCU_RoleSelectionNegotiation],
    during: str,
    handlers: Sequence[Handler],
) -> Association:
    entity = _OurEntity(node.aet)
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    entity.connection_timeout = node.connect_timeout
    entity.acse_timeout = node.acse_timeout
    entity.dimse_timeout = node.dimse_timeout
    entity.network_timeout = node.network_timeout
    tls = (_tls_context(remote.name, remote.tls), remote.host) if remote.tls else None
    aborts: list[A_ABORT | A_P_ABORT] = []

    def remember(event: Any) -> None:
        if isinstance(event.primitive, (A_ABORT, A_P_ABORT)):
            aborts.append(event.primitive)

    try:
        association = entity.associate(
            remote.host,
            remote.port,
            contexts=list(contexts),
            ae_title=remote.aet,
            max_pdu=node.max_pdu,
            ext_neg=list(roles),
            tls_args=tls,
            evt_handlers=[(evt.EVT_ACSE_RECV, remember), (evt.EVT_ESTABLISHED, _rest), *handlers],
        )
    except OSError as error:  # the name of the host is looked up here
        raise RemoteUnreachable(remote.name, remote.host, remote.port, _reason(error)) from error
    if association.is_established:
        association.unbind(evt.EVT_ACSE_RECV, remember)
        return association
    _hang_up(association)
    association.kill()
    raise _why_not(remote, node, association, entity.opened, aborts, during)


def _hang_up(association: Association) -> None:
    """Without it the library reads on in the rubbish until the network timeout."""
    opened = association.dul.socket
    if opened is not None and opened.socket is not None:
        opened._shutdown_socket()


def _rest(event: evt.Event) -> None:
    """The library's reactor of an association of ours never runs: paused only for a request, as the library does
    it, it now and then takes the answer to a quick one.
    """
    event.assoc._reactor_checkpoint.clear()


def _why_not(
    remote: RemoteServer,
    node: OurNode,
    association: Association,
    opened: _PeerSocket,
    aborts: Sequence[A_ABORT | A_P_ABORT],
    during: str,
) -> PeerError:
    if opened.failure is not None:
        reason = _reason(opened.failure)
        if opened.handshaking:
            return TlsFailed(remote.name, reason, silent=isinstance(opened.failure, TimeoutError))
        return RemoteUnreachable(remote.name, remote.host, remote.port, reason)
    # a peer that refuses and closes at once may have gone when the library looks whether it is connected at all
    unread = list(association.dul.to_user_queue.queue)
    aborts = [*aborts, *(late for late in unread if isinstance(late, (A_ABORT, A_P_ABORT)))]
    answer = association.acceptor.primitive
    if answer is None:
        answer = next((late for late in unread if isinstance(late, A_ASSOCIATE)), None)
    if answer is not None and answer.result:
        reason = answer.reason_str[0].lower() + answer.reason_str[1:]
        return AssociationRejected(remote.name, node.aet, remote.aet, answer.result, reason)
    if answer is not None:
        return ServiceNotAccepted(remote.name, during)
    if not aborts:
        return PeerTimeout(remote.name, "the association request", node.acse_timeout)
    if is_rubbish(aborts[0]):
        return AnswerInvalid(remote.name, "something else than an answer to our association request")
    return AssociationAborted(remote.name, "the association request")


def is_rubbish(abort: object) -> bool:
    """Whether our side ended the association because what came was no DICOM PDU (PS3.8 9.2, action AA-8)."""
    return isinstance(abort, A_P_ABORT) and abort.provider_reason == 0x05


def _reason(error: Exception) -> str:
    if isinstance(error, socket.gaierror):
        return "unknown host name"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return (getattr(error, "strerror", None) or str(error)).lower()


def _tls_context(remote: str, tls: Tls) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=str(tls.ca_file) if tls.ca_file else None)
        context.check_hostname = tls.check_host
        if tls.cert_file:
            context.load_cert_chain(tls.cert_file, tls.key_file)
    except ssl.SSLError as error:
        raise TlsFailed(remote, f"our certificate files cannot be used: {_reason(error)}") from error
    except OSError as error:
        raise TlsFailed(remote, f"a certificate file cannot be read: {error.strerror}") from error
    return context


@contextlib.contextmanager
def exchange(association: Association) -> Generator[None]:
    """Around a request and its responses: they are ours, not the library's."""
    while not association._is_paused and association.is_alive():
        time.sleep(0.0005)
    yield


def send(association: Association, request: Any, context: PresentationContext) -> None:
    """Send one DIMSE message, within `exchange`."""
    association.dimse.send_msg(request, cast(int, context.context_id))


def next_message(
    association: Association,
    remote: str,
    during: str,
    seconds: float,
    is_alive: Callable[[], bool] = lambda: False,
) -> Any:
    """The next DIMSE message, within `exchange`; raises `PeerTimeout`, `AssociationAborted`, `AnswerInvalid`.

    Where messages may be far apart while the peer works, `is_alive()` being true starts the `seconds` anew.
    """
    deadline = time.monotonic() + seconds
    asked = time.monotonic()
    while True:
        try:
            _, message = association.dimse.msg_queue.get(timeout=min(0.25, seconds))
        except queue.Empty:
            message = None
            if association.dul.is_alive() and association.dul.peek_next_pdu() is None:
                now = time.monotonic()
                if now - asked >= min(1.0, seconds / 2):
                    asked = now
                    deadline = now + seconds if is_alive() else deadline
                if now > deadline:
                    raise PeerTimeout(remote, during, seconds) from None
                continue
        if message is not None:
            return message
        if is_rubbish(association.dul.peek_next_pdu()):
            raise AnswerInvalid(remote, f"no DICOM message during {during}")
        raise AssociationAborted(remote, during)
