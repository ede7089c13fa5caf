"""The DICOM receiver: C-ECHO and C-STORE of every SOP class on one port, straight into the spool.

Negotiation, association control and C-ECHO are pynetdicom's; the data is ours (`pdata`, `storing`). A context
gets the first transfer syntax its proposer names, because that is the one it need not transcode to.
"""

import contextlib
import functools
import logging
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.fsm import InvalidEventError
from pynetdicom.presentation import build_context
from pynetdicom.service_class import (
    NonPatientObjectStorageServiceClass,
    ServiceClass,
    StorageServiceClass,
)
from pynetdicom.sop_class import uid_to_service_class
from pynetdicom.transport import ThreadedAssociationServer

from vna.dimse.pdata import Loop, attach, chosen_loop, hang_up
from vna.dimse.services import Service, Services
from vna.dimse.storing import Arrivals, Messages
from vna.errors import PortInUse
from vna.settings import Settings
from vna.site import Site
from vna.spool import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, OpenAssociation, Spool

_log = logging.getLogger(__name__)

NEGOTIATION_SECONDS = 5.0
"""A connection that says nothing for so long is closed: silent sockets use up associations (field note 23)."""

_QUIET_LOOKS = 5
"""How often a tenth of a second apart an association must be between two messages to count as idle."""

_UNCOMPRESSED = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2")

_STORAGE = (StorageServiceClass, NonPatientObjectStorageServiceClass, ServiceClass)


@functools.lru_cache(maxsize=4096)
def is_storage(abstract_syntax: str) -> bool:
    """Whether C-STORE belongs to this SOP class; what nobody knows (private, retired, new) is taken for storage."""
    return uid_to_service_class(abstract_syntax) in _STORAGE


class _Server(ThreadedAssociationServer):
    """The library's server, ready for a department that connects all at once (field note 38)."""

    request_queue_size = 128
    daemon_threads = True


class Receiver:
    """One AE title on one port, filling one spool. A context manager; `port` may be 0 for any free one."""

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
    ) -> None:
        self.spool = spool
        self.aet = aet
        self.host = host
        self.port = port
        self._loop = loop or chosen_loop()
        self._network_timeout = network_timeout
        self._listener = listener
        self._services = Services(services)
        self._server: _Server | None = None
        self._messages: dict[Association, Messages] = {}
        self._ae: Any = ApplicationEntity(aet)
        self._ae.require_called_aet = True
        self._ae.maximum_pdu_size = max_pdu
        self._ae.maximum_associations = max_associations
        self._ae.acse_timeout = NEGOTIATION_SECONDS
        self._ae.network_timeout = network_timeout
        self._ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        self._ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        self._ae.add_supported_context("1.2.840.10008.1.1")

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
    ) -> "Receiver":
        """The server of a home. `site` is asked at each association, so that a change drops nobody.

        `open_to_loopback`: any calling AE on this machine may store and retrieve. `socket` and `tls_socket` listen
        already, where several processes share them; else the settings say where to listen.
        """
        return cls(
            Spool(settings.spool_path, settings.reserve_bytes),
            aet=settings.scp_aet,
            host=settings.scp_bind,
            port=settings.scp_port,
            max_pdu=settings.max_pdu,
            max_associations=settings.max_associations,
            network_timeout=settings.network_timeout,
            services=services,
        )

    def start(self) -> None:
        """Listen. Raises `SpoolUnusable`, and `PortInUse` if another program has the port."""
        self.spool.prepare()
        handlers: list[Any] = [
            (evt.EVT_CONN_OPEN, self._on_connection),
            (evt.EVT_REQUESTED, self._on_request),
            (evt.EVT_ACCEPTED, self._on_accepted),
            (evt.EVT_REJECTED, self._on_rejected),
        ]
        try:
            server: _Server = self._ae.make_server(
                (self.host, self.port), evt_handlers=handlers, server_class=_Server
            )
        except OSError as error:
            raise PortInUse(self.host, self.port) from error
        self._server = server
        self.port = int(server.server_address[1])
        self._ae._servers.append(server)  # its shutdown() takes itself out there
        threading.Thread(
            target=server.serve_forever, args=(0.05,), name=f"receiver-{self.port}", daemon=True
        ).start()

    def stop_listening(self) -> None:
        """Take no new association; those that are open go on."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()

    def drain(self, grace_seconds: float) -> None:
        """Take no new association, let what is being received come to its end, then end the rest."""
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

    # -- the library's events

    def _on_connection(self, event: evt.Event) -> None:
        """Before the association's threads start: its bytes are ours from the first on."""
        association = event.assoc
        arrivals = Arrivals(lambda: self._open(association), lambda: _who(association)[0])
        messages = attach(
            association,
            arrivals,
            lambda context_id: _storage_syntax(association, context_id),
            loop=self._loop,
            largest_pdu=self._ae.maximum_pdu_size,
            timeout=self._network_timeout,
        )
        self._messages[association] = messages
        self._services.attach(association)
        _at_end_of_reading(association, lambda: self._on_end(association))

    def _on_request(self, event: evt.Event) -> None:
        """Support exactly what is proposed, so that storage has no list of SOP classes or transfer syntaxes."""
        association: Any = event.assoc
        wanted: dict[str, list[str]] = {}
        for context in association.requestor.primitive.presentation_context_definition_list:
            name = str(context.abstract_syntax)
            if is_storage(name):
                syntaxes = wanted.setdefault(name, [])
                syntaxes += [str(uid) for uid in context.transfer_syntax if str(uid) not in syntaxes]
            elif name in self._services:
                wanted[name] = list(_UNCOMPRESSED)
        supported = list(association.acceptor.supported_contexts)
        for name, syntaxes in wanted.items():
            with contextlib.suppress(ValueError):  # an impossible UID: that context alone is not accepted
                supported.append(build_context(name, syntaxes))
        association.acceptor.supported_contexts = supported

    def _on_accepted(self, event: evt.Event) -> None:
        _log.info("%s at %s: association accepted", *_who(event.assoc))

    def _on_rejected(self, event: evt.Event) -> None:
        requestor: Any = event.assoc.requestor
        called = requestor.primitive.called_ae_title
        _log.warning("%s at %s: association for %s rejected", *_who(event.assoc), called)

    def _on_end(self, association: Association) -> None:
        messages = self._messages.pop(association, None)
        if messages is not None:
            messages.close()
            _log.info("%s at %s: association ended", *_who(association))

    def _open(self, association: Association) -> OpenAssociation:
        calling_aet, address = _who(association)
        return self.spool.open_association(
            calling_aet=calling_aet, called_aet=self.aet, peer_address=address, listener=self._listener
        )


def _who(association: Association) -> tuple[str, str]:
    requestor = association.requestor
    return str(requestor.ae_title), str(requestor.address)


def _storage_syntax(association: Association, context_id: int) -> str | None:
    context = association._accepted_cx.get(context_id)  # pyright: ignore[reportPrivateUsage]
    if context is None or not is_storage(str(context.abstract_syntax)):
        return None
    return str(context.transfer_syntax[0])


def _at_end_of_reading(association: Association, then: Callable[[], None]) -> None:
    """Call `then` in the DUL thread when it ends, however it ends: it is the thread that writes to the spool."""
    dul: Any = association.dul
    run = dul.run

    def run_then() -> None:
        try:
            run()
        except InvalidEventError:
            # the peer was gone before the library had answered it; its state machine has no row for that
            hang_up(association)
        finally:
            then()
            dul.to_user_queue.put(
                None
            )  # else a connection that ended unheard holds its place until a timeout

    dul.run = run_then
