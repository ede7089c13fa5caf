"""The services that answer on associations we accepted: query, retrieve, storage commitment.

C-ECHO stays the library's and C-STORE is the receiver's own; any other message goes to the service of its
presentation context, in the association's own thread, as the library would call a service class of its own.
"""

import logging
import threading
import traceback
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext

_log = logging.getLogger(__name__)


_GET_CLASSES = frozenset({"1.2.840.10008.5.1.4.1.2.1.3", "1.2.840.10008.5.1.4.1.2.2.3"})
"""C-GET of Patient Root and Study Root: where one is offered, a requester may be SCP for storage."""


class Service(Protocol):
    """One service as SCP. Used by several associations at once, each in its own thread."""

    sop_classes: frozenset[str]
    """The abstract syntaxes it answers on; the receiver accepts them from callers that may retrieve."""

    def serve(self, association: Association, message: Any, context: PresentationContext) -> None:
        """Answer one request, to the last response, before it returns.

        `message` is the library's primitive (C_FIND, C_MOVE, C_GET, N_ACTION, N_EVENT_REPORT…), `context` the
        accepted presentation context it came on. What the peer sends meanwhile waits in
        `association.dimse.msg_queue`, C-CANCEL requests in `association.dimse.cancel_req` by message ID. Whatever
        it raises ends the association.
        """
        ...


@runtime_checkable
class SendsAsKept(Protocol):
    """A service that sends instances on the requester's own association, and converts none."""

    def syntaxes_kept(self, sop_class: str) -> Sequence[str]:
        """The transfer syntaxes it has instances of the SOP class in, the likeliest first."""
        ...


class Services:
    """The services of one receiver, and which of its associations are being answered now."""

    def __init__(self, services: Iterable[Service] = ()) -> None:
        self._by_class = {uid: service for service in services for uid in service.sop_classes}
        self._lock = threading.Lock()
        self._busy: dict[Association, int] = {}

    def __contains__(self, abstract_syntax: object) -> bool:
        return abstract_syntax in self._by_class

    @property
    def has_get(self) -> bool:
        """Whether we send on the requester's own association."""
        return not _GET_CLASSES.isdisjoint(self._by_class)

    def syntaxes_kept(self, sop_class: str) -> Sequence[str]:
        """The transfer syntaxes in which a service would send instances of it by C-GET, the likeliest first."""
        for uid in _GET_CLASSES & self._by_class.keys():
            service = self._by_class[uid]
            if isinstance(service, SendsAsKept):
                return service.syntaxes_kept(sop_class)
        return ()

    def is_busy(self, association: Association) -> bool:
        """Whether a request is being answered on it."""
        return association in self._busy

    def attach(self, association: Association) -> None:
        """Let the services answer on an association we accept; before it is started."""
        ours: Any = association
        library = ours._serve_request

        def serve_request(message: Any, context_id: int) -> None:
            context: PresentationContext | None = ours._accepted_cx.get(context_id)
            service = None if context is None else self._by_class.get(str(context.abstract_syntax))
            if context is None or service is None:
                library(message, context_id)
            elif message.is_valid_request:  # a response nobody waits for any more is dropped
                self._serve(service, association, message, context)

        ours._serve_request = serve_request

    def _serve(
        self, service: Service, association: Association, message: Any, context: PresentationContext
    ) -> None:
        ours: Any = association
        ours.dimse.cancel_req = {}  # of earlier requests
        self._count(association, 1)
        try:
            service.serve(association, message, context)
        except Exception as error:  # noqa: BLE001  whatever a service does, only its association ends
            # where, not what: the sentence of a library's error may quote the data set
            where = traceback.extract_tb(error.__traceback__)[-1]
            names = (type(message).__name__, type(error).__name__, where.name, where.lineno)
            _log.error("%s: a %s could not be answered: %s in %s, line %s", ours.requestor.address, *names)
            ours._abort_nonblocking()
        finally:
            ours.dimse.cancel_req = {}
            ours.dul._idle_timer.restart()  # the requester is silent while it is answered, however long that takes
            self._count(association, -1)

    def _count(self, association: Association, change: int) -> None:
        with self._lock:
            number = self._busy.get(association, 0) + change
            self._busy.pop(association, None)
            if number:
                self._busy[association] = number
