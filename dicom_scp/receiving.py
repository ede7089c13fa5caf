"""One process that receives: the receiver, the services on it, and what it says of itself every few seconds."""

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

from dicom_scp.holdings import services_of
from vna.dimse.receiver import Receiver
from vna.dimse.status import EVERY_SECONDS, RefusedAssociation, ScpStatus, remove_status, write_status
from vna.settings import Settings
from vna.site import Site, WatchedSite
from vna.spool import Spool

_log = logging.getLogger(__name__)

GRACE_SECONDS = 20.0
"""How long an ending server lets senders finish what they are sending."""

OUR_LOGGERS = ("vna", "dicom_scp")


def log_plainly(settings: Settings) -> None:
    """Log to standard error as an operator reads it. The library logs every PDU and identifier, patient data with
    it, and is silenced.
    """
    from pynetdicom import _config

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    _config.LOG_HANDLER_LEVEL = "none"
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it tells of each plugin when it is imported
    set_log_level(settings.log_level)


def set_log_level(level: str) -> None:
    """`level` is info or debug; only for what we log ourselves."""
    for name in OUR_LOGGERS:
        logging.getLogger(name).setLevel(level.upper())


class ReceivingProcess:
    """The receiver of one process, which may share its sockets and limits with others of the same server.

    `share` = how many processes there are; each takes its part of the associations served at once. `indexer` tells
    how the indexer beside it is, empty where there is none.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        open_to_loopback: bool = False,
        share: int = 1,
        plain: socket.socket | None = None,
        tls: socket.socket | None = None,
        indexer: Callable[[], str] = str,
    ) -> None:
        self._settings = settings
        self._watched = WatchedSite(settings)
        self._indexer = indexer
        self._started = time.time()
        self._told_problem = ""
        self._log_level = settings.log_level
        self._stop, self._ended = threading.Event(), threading.Event()
        self._saying = threading.Lock()
        self._reporter = threading.Thread(target=self._report, name="status", daemon=True)
        self._services = services_of(
            settings, self._watched, Spool(settings.spool_path, settings.reserve_bytes)
        )
        self._commitments = threading.Thread(
            target=self._services.commitment.run, args=(self._stop,), name="commitments", daemon=True
        )
        self.receiver = Receiver.from_settings(
            settings,
            self._watched,
            services=self._services.every,
            open_to_loopback=open_to_loopback,
            socket=plain,
            tls_socket=tls,
            processes=share,
        )

    def start(self) -> None:
        """Listen. Raises `SpoolUnusable` and `PortInUse`."""
        self.receiver.start()
        self._reporter.start()
        self._commitments.start()

    def stop_listening(self) -> None:
        """Take no new association; those that are open go on. What commitment waits for is left to the next start."""
        self.receiver.stop_listening()
        self._stop.set()
        if self._reporter.is_alive():
            self._say()

    def drain(self, grace_seconds: float) -> None:
        """Let what is being received come to its end, then end the rest."""
        self.stop_listening()
        ends = time.monotonic() + grace_seconds
        self.receiver.drain(grace_seconds)
        self._ended.set()
        for thread in (self._reporter, self._commitments):
            if thread.is_alive():
                thread.join(max(0.5, ends - time.monotonic()))  # a report half made is made again
        remove_status(self._settings, os.getpid())

    # -- what it says of itself

    def _report(self) -> None:
        while True:
            self._follow_log_level(self._watched())
            if self._watched.problem != self._told_problem:
                self._told_problem = self._watched.problem
                if self._told_problem:
                    _log.error("%s The last good one stays in use.", self._told_problem)
            self._say()
            if self._ended.wait(EVERY_SECONDS):
                return
            if self.receiver.is_broken:
                self._end_with_error()

    def _say(self) -> None:
        with (
            self._saying,
            contextlib.suppress(OSError),  # a full disk: whoever asks then sees that nobody says anything
        ):
            write_status(self._settings, self._status())

    def _end_with_error(self) -> NoReturn:
        """A process that lets nobody in is of no use; whoever started it starts another."""
        _log.critical("this process of the DICOM server ends, because its door broke")
        try:
            self.receiver.drain(GRACE_SECONDS)
            remove_status(self._settings, os.getpid())
        finally:
            os._exit(1)

    def _follow_log_level(self, site: Site) -> None:
        level = site.server.log_level or self._settings.log_level
        if level != self._log_level:
            self._log_level = level
            set_log_level(level)
            _log.info("the log level is %s now", level)

    def _status(self) -> ScpStatus:
        counts, tls = self.receiver.counts, self.receiver.tls
        return ScpStatus(
            pid=os.getpid(),
            at=time.time(),
            started=self._started,
            processes=1,
            ending=self._stop.is_set(),
            associations=counts.open_associations,
            full=int(counts.is_full),
            waiting=counts.waiting,
            accepted=counts.accepted,
            refused={reason.value: count for reason, count in counts.refused.items()},
            last_refusals=tuple(map(RefusedAssociation.model_validate, counts.last_refused)),
            instances=counts.received_instances,
            bytes=counts.received_bytes,
            refused_instances={
                f"0x{status:04X}": count for status, count in counts.refused_instances.items()
            },
            certificate_ends="" if tls is None else tls.expires_at.isoformat(timespec="seconds"),
            indexer=self._indexer(),
            problems=tuple(self._problems()),
        )

    def _problems(self) -> Iterator[str]:
        if self._watched.problem:
            yield f"{self._watched.problem} The last good one stays in use."
        if self.receiver.tls is not None and self.receiver.tls.problem:
            yield f"{self.receiver.tls.problem} The last good certificate stays in use."
