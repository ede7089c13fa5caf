"""The DICOM receiver: C-ECHO and C-STORE of every SOP class straight into the spool, and the services it is given.

Connections come through the door (`listening`), are admitted by the site's rules (`admission`), and get an association
of the library's (`accepting`) whose data is ours (`pdata`, `storing`). Whatever people change in the site holds from
the next association on; those that are open go on as they were agreed.
"""

import contextlib
import logging
import socket
import ssl
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE

from vna.dimse.accepting import (
    context_text,
    decoded,
    negotiate,
    new_association,
    proposed_roles,
    storage_syntax,
)
from vna.dimse.admission import (
    INVALID_PARAMETER,
    Knock,
    Reason,
    Refusal,
    Rules,
    abort_pdu,
    admit,
    is_ourselves,
    rules_of,
    subject_text,
    version_refused,
)
from vna.dimse.callers import Caller, caller_of, remember_caller
from vna.dimse.listening import NEGOTIATION_SECONDS, Door, Visitor
from vna.dimse.pdata import Loop, attach, chosen_loop, hang_up
from vna.dimse.places import Limits, Place, Places
from vna.dimse.ports import listen
from vna.dimse.server_tls import ServerTls, TlsFiles
from vna.dimse.services import Service, Services
from vna.dimse.storing import Arrivals, Messages
from vna.dimse.tally import ReceiverCounts, Tally
from vna.errors import SettingsError, where_it_happened
from vna.identity import Receipt
from vna.settings import Settings
from vna.site import Site, unsolicited_unit
from vna.spool import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, OpenAssociation, Spool

_log = logging.getLogger(__name__)

_QUIET_LOOKS = 5
"""How often a tenth of a second apart an association must be between two messages to count as idle."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for the next association: who may talk, how many, and what is agreed. Bytes and seconds."""

    rules: Rules
    limits: Limits
    max_pdu: int
    network_timeout: float


class Receiver:
    """AE titles on one port, and on one for TLS, filling one spool. A context manager; `port` 0 = any free one.

    Without `terms` it is open to every caller of its AE title, as a test or a C-MOVE of our own wants it; the server
    of a home is made by `from_settings`. `unsolicited` names the storage unit for what nobody expects, as it is now.
    """

    def __init__(
        self,
        spool: Spool,
        *,
        aet: str,
        host: str,
        port: int,
        loop: Loop | None = None,
        max_pdu: int = 131072,
        max_associations: int = 64,
        network_timeout: float = 60.0,
        listener: str = "scp",
        services: Sequence[Service] = (),
        tls: TlsFiles | None = None,
        tls_port: int | None = None,
        tls_only: bool = False,
        terms: Callable[[], Terms] | None = None,
        unsolicited: Callable[[], str] = str,
        sockets: tuple[socket.socket | None, socket.socket | None] = (None, None),
    ) -> None:
        self.spool = spool
        self.aet = aet
        self.host = host
        self.port = port
        self.tls_port = tls_port
        self.tls = ServerTls(tls) if tls is not None else None
        self._tls_only = tls_only
        self._sockets = sockets
        self._loop = loop or chosen_loop()
        self._listener, self._unsolicited = listener, unsolicited
        self._services = Services(services)
        everybody = Rules((aet,), open_to_all=True)
        fixed = Terms(everybody, Limits(max_associations, max_associations), max_pdu, network_timeout)
        self._terms = terms or (lambda: fixed)
        self._places, self._tally = Places(), Tally()
        self._door: Door | None = None
        self._messages: dict[Association, Messages] = {}
        self._entity = _entity(aet)

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        site: Callable[[], Site],
        *,
        open_to_loopback: bool = False,
        services: Sequence[Service] = (),
        socket: "socket.socket | None" = None,
        tls_socket: "socket.socket | None" = None,
        processes: int = 1,
    ) -> "Receiver":
        """The server of a home. `site` is asked at each association, so that a change drops nobody.

        `open_to_loopback`: any calling AE on this machine may store and retrieve. `socket` and `tls_socket` listen
        already, where `processes` of us share them and the number of associations; else the settings say where to
        listen. Raises `SettingsError` if TLS is wanted and its files cannot be used.
        """

        def terms() -> Terms:
            now = site()
            server = now.server
            together = server.max_associations or settings.max_associations
            return Terms(
                rules_of(settings, now, open_to_loopback=open_to_loopback),
                Limits(-(-together // processes), server.associations_per_address),
                server.max_pdu or settings.max_pdu,
                server.network_timeout or settings.network_timeout,
            )

        return cls(
            Spool(settings.spool_path, settings.reserve_bytes),
            aet=settings.scp_aet,
            host=settings.scp_bind,
            port=settings.scp_port,
            services=services,
            tls=TlsFiles.from_settings(settings),
            tls_port=settings.scp_tls_port,
            tls_only=settings.scp_tls_only,
            terms=terms,
            unsolicited=lambda: unsolicited_unit(settings, site()),
            sockets=(socket, tls_socket),
        )

    @property
    def counts(self) -> ReceiverCounts:
        """What was done since the start, and what is open now."""
        waiting = self._door.waiting if self._door is not None else 0
        return self._tally.snapshot(self._places.taken, waiting, is_full=not self._has_room())

    @property
    def is_broken(self) -> bool:
        """Whether it takes nobody any more without having been told so: only a new start helps."""
        return self._door is not None and self._door.is_broken

    def start(self) -> None:
        """Listen. Raises `SpoolUnusable`, and `PortInUse` or another `SettingsError` if a port cannot be had."""
        self.spool.prepare()
        # Python keeps every text it has warned of: strangers' UIDs would fill the memory, and the log
        warnings.filterwarnings("ignore", category=UserWarning, module=r"pydicom\.")
        plain, tls = self._sockets
        if plain is None and not self._tls_only:
            plain = listen(self.host, self.port)
        if tls is None and self.tls_port is not None:
            try:
                tls = listen(self.host, self.tls_port)
            except SettingsError:
                if plain is not None:
                    plain.close()
                raise
        if plain is not None:
            self.port = int(plain.getsockname()[1])
        if tls is not None:
            self.tls_port = int(tls.getsockname()[1])
        is_shared = any(shared is not None for shared in self._sockets)
        self._door = Door(
            plain,
            tls,
            self.tls,
            judge=self._judge,
            turned_away=self._turned_away,
            has_room=self._has_room if is_shared else None,
        )
        self._door.open()

    def stop_listening(self) -> None:
        """Take no new association; those that are open go on."""
        door, self._door = self._door, None
        if door is not None:
            door.close()

    def drain(self, grace_seconds: float) -> None:
        """Take no new association, let what is being received or answered come to its end, then end the rest."""
        self.stop_listening()
        deadline = time.monotonic() + grace_seconds
        quiet: dict[Association, int] = {}
        while (open_now := dict(self._messages)) and time.monotonic() < deadline:
            for association, messages in open_now.items():
                idle = messages.between and not self._services.is_busy(association)
                quiet[association] = quiet.get(association, 0) + 1 if idle else 0
                if quiet[association] == _QUIET_LOOKS and association.is_established:
                    association._abort_nonblocking()  # pyright: ignore[reportPrivateUsage]
            time.sleep(0.1)
        for association in list(self._messages):
            hang_up(association)

    def stop(self) -> None:
        """End now; what is acknowledged is safe, the rest is sent again."""
        self.drain(0)

    def __enter__(self) -> "Receiver":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -- from the door to an association

    def _has_room(self) -> bool:
        return self._places.has_room(self._terms().limits)

    def _judge(self, visitor: Visitor) -> Refusal | bytes | None:
        """Decode a request, admit or refuse its sender, and start its association. Called by the door's threads."""
        try:
            request, asked = decoded(bytes(visitor.request))
        except Exception as error:  # noqa: BLE001  the library's decoder raises whatever a hostile PDU makes it
            self._turned_away(visitor, Reason.not_dicom, f"its request is malformed ({type(error).__name__})")
            return abort_pdu(INVALID_PARAMETER)
        knock = Knock(
            calling_aet=request.calling_ae_title.strip(" "),
            called_aet=request.called_ae_title.strip(" "),
            address=visitor.address,
            tls_subject=_tls_subject(visitor.connection),
            by_tls=visitor.by_tls,
            called_address=_called_address(visitor.connection),
        )
        terms = self._terms()
        caller = version_refused(int(request.protocol_version)) or admit(terms.rules, knock)
        request.protocol_version = 1  # the library takes no other
        if not isinstance(caller, Refusal):
            ourselves = is_ourselves(terms.rules, knock)
            place = self._places.take(visitor.address, terms.limits, ourselves=ourselves)
            if isinstance(place, Place):
                return self._welcome(visitor, request, asked, caller, terms, place)
            caller = place
        self._tally.refused(
            caller.reason,
            caller.sentence,
            address=visitor.address,
            calling_aet=knock.calling_aet,
            called_aet=knock.called_aet,
        )
        return caller

    def _welcome(
        self,
        visitor: Visitor,
        request: A_ASSOCIATE_RQ,
        asked: A_ASSOCIATE,
        caller: Caller,
        terms: Terms,
        place: Place,
    ) -> bytes | None:
        """Start the association of a caller that has its place; whatever keeps it from starting, the place is free."""
        proposed = asked.presentation_context_definition_list
        try:
            with contextlib.ExitStack() as unless_started:
                unless_started.callback(place.give_back)
                negotiated = negotiate(proposed, proposed_roles(asked), caller, self._services)
                # our own look at ourselves, every few seconds, tells nobody anything
                is_our_look = caller.calling_aet in terms.rules.our_aets and negotiated.only_verifies
                level = logging.DEBUG if is_our_look else logging.INFO
                visitor.connection.setblocking(True)
                association = new_association(
                    self._entity,
                    visitor.connection,
                    request,
                    called_aet=caller.called_aet,
                    max_pdu=terms.max_pdu,
                    network_timeout=terms.network_timeout,
                    negotiated=negotiated,
                    ended=lambda association: self._on_end(association, place, level),
                )
                remember_caller(association, caller)
                unless_started.callback(self._messages.pop, association, None)
                self._attend(association, terms)
                association.start()
                unless_started.pop_all()
        except (ValueError, OSError, RuntimeError) as error:  # hostile; already gone; no more threads
            why = f"it could not be served ({type(error).__name__})"
            self._turned_away(visitor, Reason.failure, why)
            return abort_pdu(INVALID_PARAMETER)
        self._tally.accepted(caller, negotiated.withheld)
        _log.log(level, "%s at %s: association accepted", caller.calling_aet, caller.address)
        if _log.isEnabledFor(logging.DEBUG):
            for text in map(context_text, proposed, negotiated.contexts):
                _log.debug("%s at %s: %s", caller.calling_aet, caller.address, text)
        return None

    def _attend(self, association: Association, terms: Terms) -> None:
        """Before the association's threads start: its bytes are ours from the first on."""
        caller = caller_of(association)
        arrivals = Arrivals(
            lambda: self._open_folder(caller),
            lambda: caller.calling_aet,
            stored=self._on_stored,
            failed=self._tally.refused_instance,
        )
        messages = attach(
            association,
            arrivals,
            lambda context_id: storage_syntax(association, context_id),
            loop=self._loop,
            largest_pdu=terms.max_pdu,
            timeout=terms.network_timeout,
        )
        self._services.attach(association)
        self._messages[association] = messages

    def _open_folder(self, caller: Caller) -> OpenAssociation:
        return self.spool.open_association(
            calling_aet=caller.calling_aet,
            called_aet=caller.called_aet,
            peer_address=caller.address,
            tls_subject=caller.tls_subject,
            listener=self._listener,
            unit=self._unsolicited(),
        )

    def _on_stored(self, receipt: Receipt) -> None:
        _log.debug("%s: instance %s, %d bytes", receipt.association, receipt.sop_instance_uid, receipt.size)
        self._tally.received(receipt.size)

    def _on_end(self, association: Association, place: Place, level: int) -> None:
        """Called by the thread that read from it, or by the association's own, or by both."""
        messages = self._messages.pop(association, None)
        try:
            if messages is not None:
                messages.close()
        except Exception as error:  # noqa: BLE001  what is acknowledged is durable; tidying is done at the next start
            _log.error("what an association received could not be tidied: %s", where_it_happened(error))
        finally:
            place.give_back()
        if messages is not None:
            caller = caller_of(association)
            _log.log(level, "%s at %s: association ended", caller.calling_aet, caller.address)

    def _turned_away(self, visitor: Visitor, reason: Reason, sentence: str) -> None:
        self._tally.refused(reason, sentence, address=visitor.address)


def _entity(aet: str) -> ApplicationEntity:
    """The library's idea of us, which each association asks for its timers and locks."""
    entity = ApplicationEntity(aet)
    entity.acse_timeout = NEGOTIATION_SECONDS
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    return entity


def _called_address(connection: socket.socket) -> str:
    try:
        return str(connection.getsockname()[0])
    except OSError:  # already gone
        return ""


def _tls_subject(connection: socket.socket) -> str:
    if not isinstance(connection, ssl.SSLSocket):
        return ""
    certificate: Any = connection.getpeercert() or {}
    return subject_text(certificate.get("subject", ()))
