"""An association's folder: who sent what it holds, and the lock that says more may come."""

import dataclasses
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vna.checkpoints import checkpoint
from vna.durable import write_durably
from vna.errors import SpoolUnusable
from vna.platform import HeldLock, KeptFolder, sync_folder, try_lock
from vna.spool.refusals import as_spool_error
from vna.spool.writing import InstanceWriter

if TYPE_CHECKING:
    from vna.spool.spool import Spool

RECORD_NAME = "association.json"
RECEIVING_LOCK = "receiving.lock"
INDEXER_LOCK = "indexer.lock"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AssociationRecord:
    """Who sent, to whom and when; `opened_at` is UTC in ISO 8601, `listener` the service that received.

    `server` and `episode` name a recovery listener's server and recovery, empty otherwise. `unit` is the storage unit
    that what nobody expects belonged to at that time, empty where it was not told.
    """

    ulid: str
    calling_aet: str
    called_aet: str
    peer_address: str
    tls_subject: str
    opened_at: str
    listener: str
    server: str = ""
    episode: str = ""
    unit: str = ""


def read_association(folder: Path) -> AssociationRecord:
    """The record of an association's folder; raises `OSError` if there is none, `ValueError` if it is damaged."""
    values = json.loads((folder / RECORD_NAME).read_bytes())
    names = {field.name for field in dataclasses.fields(AssociationRecord)}
    try:
        return AssociationRecord(**{name: str(value) for name, value in values.items() if name in names})
    except (AttributeError, TypeError) as error:
        raise ValueError(f"{folder / RECORD_NAME} is no association record") from error


class OpenAssociation:
    """A folder that is being filled; one association and one thread at a time.

    Made by `Spool.open_association`, as a context manager. When it closes, a folder without a complete file
    goes; any other is the indexer's from then on.
    """

    def __init__(self, spool: "Spool", record: AssociationRecord, lock: HeldLock) -> None:
        self.spool = spool
        self.record = record
        self.path = spool.path / record.ulid
        self._lock = lock
        self._kept = KeptFolder(self.path)
        self._begun = 0

    def begin(
        self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, source_aet: str
    ) -> InstanceWriter:
        """Start one instance. Raises `DiskFull` below the reserve and `SpoolUnusable` if the disk refuses."""
        self.spool.check_space()
        self._begun += 1
        return InstanceWriter(
            self.path,
            self._kept,
            f"{self._begun:06d}.part",
            self.spool.check_space,
            self.spool.count,
            sop_class_uid=sop_class_uid,
            sop_instance_uid=sop_instance_uid,
            transfer_syntax_uid=transfer_syntax_uid,
            source_aet=source_aet,
        )

    def close(self) -> None:
        """Let go of the folder; what is complete in it stays.

        Never raises for tidying: everything received is durable, and what cannot be tidied now is left to the indexer.
        """
        for let_go in (self._kept.close, self._lock.release, lambda: self.spool.sweep(self.path)):
            try:
                let_go()
            except (OSError, SpoolUnusable) as error:
                _log.warning(
                    "%s was not tidied after its association, the indexer will: %s", self.path, error
                )

    def __enter__(self) -> "OpenAssociation":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_folder(spool: "Spool", record: AssociationRecord) -> OpenAssociation | None:
    """Make and lock the folder, and write its record, all of it durable on return. None if somebody who looked
    for leftovers took the new folder before it was locked: then it is theirs to remove.
    """
    folder = spool.path / record.ulid
    with as_spool_error(folder):
        folder.mkdir()
        lock = try_lock(folder / RECEIVING_LOCK)
        if lock is None:
            return None
        try:
            write_durably(folder / RECORD_NAME, json.dumps(dataclasses.asdict(record), indent=1).encode())
            sync_folder(spool.path)
            opened = OpenAssociation(spool, record, lock)
        except OSError:
            lock.release()
            raise
    checkpoint("spool.opened")
    return opened
