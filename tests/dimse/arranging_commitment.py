"""What the commitment tests arrange: an index in memory, and a requester that asks and takes reports."""

import contextlib
import ssl
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.association import Association

from vna.dimse import OurNode
from vna.dimse.answering_commitment import CommitmentService
from vna.dimse.index import HeldInstance, Query
from vna.dimse.pdata import Loop
from vna.dimse.receiver import Receiver
from vna.errors import CatalogUnavailable
from vna.site import RemoteServer
from vna.spool import Spool

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
PUSH_MODEL, PUSH_MODEL_INSTANCE = "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1"
SYNTAXES = ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"]


@dataclass
class MemoryIndex:
    """An index of what it is told: `good` = SOP Instance UID to class, `damaged` = known without a good copy."""

    good: dict[str, str] = field(default_factory=dict)
    damaged: set[str] = field(default_factory=set)
    is_away: bool = False
    supported_keywords: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def verified(self, sop_instance_uids: Collection[str]) -> Mapping[str, str]:
        self._answer()
        return {uid: self.good[uid] for uid in sop_instance_uids if uid in self.good}

    def matches(self, query: Query) -> Iterator[Mapping[str, str]]:
        self._answer()
        assert query.level == "IMAGE"
        for uid in query.keys["SOPInstanceUID"].split("\\"):
            if uid in self.damaged or uid in self.good:
                yield {"SOPInstanceUID": uid}

    def held(self, query: Query) -> Iterator[HeldInstance]:
        raise AssertionError("commitment is no retrieve")

    def count(self, query: Query) -> int:
        raise AssertionError("commitment is no retrieve")

    def _answer(self) -> None:
        if self.is_away:
            raise CatalogUnavailable("away for a test")


@dataclass(frozen=True)
class Report:
    """One N-EVENT-REPORT as a requester took it: UIDs of the committed, and of the failed with their reasons."""

    transaction: str
    event_type: int
    committed: list[str]
    failed: dict[str, int]
    calling_aet: str
    called_aet: str
    our_roles: dict[str, tuple[bool, bool]]


class Requester:
    """A modality: it asks, and takes reports on the asking association or on its own port."""

    def __init__(self, aet: str = "CT_1", statuses: Collection[int] = ()) -> None:
        self.aet = aet
        self.reports: list[Report] = []
        self.statuses = list(statuses)
        """The answers to its next reports; then success."""
        self.before_taking: Callable[[], None] = lambda: None
        self._entity = AE(aet)
        self._entity.add_requested_context(PUSH_MODEL, SYNTAXES)
        self._entity.add_requested_context("1.2.840.10008.1.1")
        self._new = threading.Condition()

    def take(self, event: evt.Event) -> tuple[int, None]:
        association: Association = event.assoc
        info = event.event_information
        roles = {
            str(uid): (r.scu_role, r.scp_role) for uid, r in association.requestor.role_selection.items()
        }
        report = Report(
            transaction=str(info.TransactionUID),
            event_type=event.request.EventTypeID,
            committed=[str(item.ReferencedSOPInstanceUID) for item in info.get("ReferencedSOPSequence", [])],
            failed={
                str(i.ReferencedSOPInstanceUID): i.FailureReason for i in info.get("FailedSOPSequence", [])
            },
            calling_aet=association.requestor.ae_title,
            called_aet=str(association.acceptor.ae_title),
            our_roles=roles,
        )
        with self._new:
            self.reports.append(report)
            self._new.notify_all()
        self.before_taking()
        return (self.statuses.pop(0) if self.statuses else 0x0000), None

    @contextlib.contextmanager
    def listening(
        self,
        port: int = 0,
        roles: tuple[bool, bool] | None = (True, True),
        tls: ssl.SSLContext | None = None,
    ) -> Generator[RemoteServer]:
        """Its own port; `roles` = SCU and SCP role it grants us, None = it knows no role selection."""
        entity = AE(self.aet)
        if roles is None:
            entity.add_supported_context(PUSH_MODEL, SYNTAXES)
        else:
            entity.add_supported_context(PUSH_MODEL, SYNTAXES, *roles)
        handlers: list[Any] = [(evt.EVT_N_EVENT_REPORT, self.take)]
        server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers, ssl_context=tls)
        try:
            yield self.remote(server.server_address[1])
        finally:
            server.shutdown()

    def remote(self, port: int) -> RemoteServer:
        return RemoteServer(name="modality", aet=self.aet, host="127.0.0.1", port=port)

    @contextlib.contextmanager
    def asking(self, port: int, called: str = "BACKUPDR") -> Generator[Association]:
        """An association to us on which it takes reports too."""
        handlers: list[Any] = [(evt.EVT_N_EVENT_REPORT, self.take)]
        self._entity.acse_timeout = self._entity.dimse_timeout = 10
        association = self._entity.associate("127.0.0.1", port, ae_title=called, evt_handlers=handlers)
        assert association.is_established
        try:
            yield association
        finally:
            if self.reports:
                time.sleep(0.1)  # the library answers when its handler has ended, and not while it releases
            if association.is_established:
                association.release()

    def ask(
        self, port: int, *references: tuple[str, str], transaction: str = "1.2.3", called: str = "BACKUPDR"
    ) -> int | None:
        """Ask and hang up, as most do; returns the status, None for no answer."""
        with self.asking(port, called) as association:
            return ask_on(association, *references, transaction=transaction)

    def report(self, number: int = 1, seconds: float = 20) -> Report:
        """The report of this number, once it has come."""
        with self._new:
            assert self._new.wait_for(lambda: len(self.reports) >= number, seconds), "no report came"
            return self.reports[number - 1]


def ask_on(association: Association, *references: tuple[str, str], transaction: str = "1.2.3") -> int | None:
    status, _ = association.send_n_action(
        action(*references, transaction=transaction), 1, PUSH_MODEL, PUSH_MODEL_INSTANCE
    )
    return status.get("Status")


def action(*references: tuple[str, str], transaction: str = "1.2.3") -> Dataset:
    information = Dataset()
    information.TransactionUID = transaction
    information.ReferencedSOPSequence = [_item(*reference) for reference in references]
    return information


def _item(sop_class: str, instance: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, instance
    return item


@contextlib.contextmanager
def committing(
    spool: Spool,
    index: MemoryIndex,
    *remotes: RemoteServer,
    aet: str = "BACKUPDR",
    wait_seconds: float = 60.0,
    loop: Loop | None = None,
) -> Generator[Any]:
    """Our receiver with the service: `port`, `receiver`, `stop` of the service's thread, and `remotes` by calling AE
    title, to be changed at will.
    """
    node = OurNode("BACKUPDR", connect_timeout=2, acse_timeout=2, dimse_timeout=3, network_timeout=5)
    known = {remote.aet: remote for remote in remotes}
    service = CommitmentService(index, spool, node, known.get, wait_seconds=lambda: wait_seconds)
    stop = threading.Event()
    thread = threading.Thread(target=service.run, args=(stop,))
    with Receiver(spool, aet=aet, host="127.0.0.1", port=0, services=[service], loop=loop) as receiver:
        thread.start()
        try:
            yield SimpleNamespace(port=receiver.port, receiver=receiver, stop=stop, remotes=known)
        finally:
            stop.set()
            thread.join(20)
            assert not thread.is_alive()


def until(condition: Any, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
