"""One process that receives: the receiver, the services on it, and what it says of itself every few seconds."""

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable

from vna.dimse.receiver import Receiver
from vna.dimse.status import EVERY_SECONDS, ScpStatus, remove_status, write_status
from vna.settings import Settings
from vna.site import Site, WatchedSite

_log = logging.getLogger(__name__)

OUR_LOGGERS = ("vna", "dicom_scp")


def log_plainly(settings: Settings) -> None:
    """Log to standard error as an operator reads it. The library logs every PDU and identifier, patient data with
    it, and is silenced.
    """
    from pynetdicom import _config

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    _config.LOG_HANDLER_LEVEL = "none"
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
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
        self._share = share
        self._indexer = indexer
        self._started = time.time()
        self._told_problem = ""
        self._stop = threading.Event()
        self._reporter = threading.Thread(target=self._report, name="status", daemon=True)
        self.receiver = Receiver.from_settings(
            settings, self._site, open_to_loopback=open_to_loopback, socket=plain, tls_socket=tls
        )

    def start(self) -> None:
        """Listen. Raises `SpoolUnusable` and `PortInUse`."""
        self.receiver.start()
        self._reporter.start()

    def stop_listening(self) -> None:
        """Take no new association; those that are open go on."""
        self.receiver.stop_listening()

    def drain(self, grace_seconds: float) -> None:
        """Let what is being received come to its end, then end the rest."""
        self.receiver.drain(grace_seconds)
        self._stop.set()
        if self._reporter.is_alive():
            self._reporter.join()
        remove_status(self._settings, os.getpid())

    def _site(self) -> Site:
        """The site as it is now, with this process's part of the associations served at once."""
        site = self._watched()
        if self._share == 1:
            return site
        whole = site.server.max_associations or self._settings.max_associations
        server = site.server.model_copy(update={"max_associations": -(-whole // self._share)})
        return site.model_copy(update={"server": server})

    # -- what it says of itself

    def _report(self) -> None:
        while True:
            site = self._watched()
            set_log_level(site.server.log_level or self._settings.log_level)
            if self._watched.problem != self._told_problem:
                self._told_problem = self._watched.problem
                if self._told_problem:
                    _log.error("%s The last good one stays in use.", self._told_problem)
            with contextlib.suppress(
                OSError
            ):  # a full disk: whoever asks then sees that nobody says anything
                write_status(self._settings, self._status())
            if self._stop.wait(EVERY_SECONDS):
                return

    def _status(self) -> ScpStatus:
        problem = self._watched.problem
        return ScpStatus(
            pid=os.getpid(),
            at=time.time(),
            started=self._started,
            processes=1,
            indexer=self._indexer(),
            problems=(f"{problem} The last good one stays in use.",) if problem else (),
        )
