"""Requests for storage commitment that are still to be answered: `commitment/<key>/<ulid>.jsonl`.

A request is durable before its requester hears that it was taken, and stays until the requester has taken the report.
The same request sent again is the same key: one that waits is answered once, one that is being reported at
that moment is reported once more, because nobody knows which of the two the requester means. Whoever reports holds
the lock of the key, so that any number of processes may try.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ulid import ULID

from vna.checkpoints import checkpoint
from vna.durable import make_folder, write_durably
from vna.errors import CommitmentBacklog, SpoolUnusable
from vna.platform import HeldLock, sync_folder, try_lock
from vna.spool.refusals import as_spool_error
from vna.spool.spool import Spool

MOST_WAITING = 10_000
"""Transactions that may wait at once; a requester that asks without end must not fill the disk."""

KEEP_GIVEN_UP_SECONDS = 30 * 86400.0

_KEY = re.compile(r"[0-9a-f]{40}\Z")
_LOCK, _GIVEN_UP = "reporting.lock", "given-up"
_ATTEMPTS = 20

_log = logging.getLogger(__name__)

Reference = tuple[str, str]
"""SOP Class UID and SOP Instance UID of one instance, as the requester wrote them."""


@dataclass(frozen=True, slots=True)
class CommitmentRequest:
    """One transaction (PS3.4 table J.3-1): who asked, by which AE title of ours, when (seconds since 1970), and
    for which instances.
    """

    transaction_uid: str
    calling_aet: str
    called_aet: str
    requested_at: float
    references: tuple[Reference, ...]


class TakenCommitment:
    """A transaction that only its holder reports, until it is released; a context manager, for one thread.

    `first_asked` = when it was asked for the first time since it was last reported, in seconds since 1970.
    """

    def __init__(self, folder: Path, lock: HeldLock, found: Sequence[tuple[Path, CommitmentRequest]]) -> None:
        self.key = folder.name
        requests = sorted((request for _, request in found), key=lambda request: request.requested_at)
        self.request = requests[-1]
        self.first_asked = requests[0].requested_at
        self._folder = folder
        self._lock = lock
        self._paths = [path for path, _ in found]

    def acknowledged(self) -> None:
        """The requester has the report: the request is forgotten, for good on return. Raises `SpoolUnusable`."""
        with as_spool_error(self._folder):
            for path in self._paths:
                path.unlink(missing_ok=True)
            sync_folder(self._folder)
        checkpoint("commitment.forgotten")

    def give_up(self) -> None:
        """Nobody takes the report: the request is kept apart for people. Raises `SpoolUnusable`."""
        apart = self._folder.parent / _GIVEN_UP
        with as_spool_error(apart):
            make_folder(apart)
            for path in self._paths:
                path.replace(apart / path.name)
            sync_folder(apart)
            sync_folder(self._folder)

    def release(self) -> None:
        """Let others have it; what was reported in the meantime leaves nothing behind."""
        _leave(self._folder, self._lock)

    def __enter__(self) -> "TakenCommitment":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Commitments:
    """The transactions of one spool. Used by any number of threads and processes."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._folder = spool.path / "commitment"
        self.given_up_path = self._folder / _GIVEN_UP

    def add(self, request: CommitmentRequest) -> TakenCommitment | None:
        """Make a request durable. Returns it taken, or None if another process is reporting the same just now.

        Raises `DiskFull`, `SpoolUnusable` or `CommitmentBacklog`; then nothing was kept.
        """
        content = _encode(request)
        self._spool.check_space(len(content))
        folder = self._folder / _key(request)
        with as_spool_error(folder):
            make_folder(self._folder)
            if not folder.exists() and len(self.waiting()) >= MOST_WAITING:
                raise CommitmentBacklog(str(self._folder), MOST_WAITING)
            for _ in range(_ATTEMPTS):
                # removed by whoever has just reported it; or removed between two looks of `mkdir`
                with contextlib.suppress(FileNotFoundError, FileExistsError):
                    return self._add(folder, request, content)
        raise SpoolUnusable(str(folder), "other processes keep removing it")

    def _add(self, folder: Path, request: CommitmentRequest, content: bytes) -> TakenCommitment | None:
        folder.mkdir(exist_ok=True)
        sync_folder(self._folder)
        lock = _lock_of(folder)
        try:
            found = [] if lock is None else _read_all(folder)
            if found:
                sync_folder(folder)  # whoever wrote the first may have been killed before that
            else:
                path = folder / f"{ULID()}.jsonl"
                write_durably(path, content)
                found = [(path, request)]
            checkpoint("commitment.requested")
            return None if lock is None else TakenCommitment(folder, lock, found)
        except BaseException:
            if lock is not None:
                _leave(folder, lock)
            raise

    def waiting(self) -> list[str]:
        """The transactions that wait, in no order. Raises `SpoolUnusable` if the folder cannot be listed."""
        with as_spool_error(self._folder):
            try:
                names = os.listdir(self._folder)  # noqa: PTH208 - looked at each second
            except FileNotFoundError:
                return []
            return [name for name in names if _KEY.match(name)]

    def take(self, key: str) -> TakenCommitment | None:
        """The transaction, if it still waits and nobody else reports it. Raises `SpoolUnusable`.

        A request whose file is damaged is given up, and told in the log.
        """
        folder = self._folder / key
        with as_spool_error(folder):
            lock = _lock_of(folder)
            if lock is None:
                return None
            try:
                found = _read_all(folder)
            except OSError:
                lock.release()
                raise
            if not found:
                _leave(folder, lock)
                return None
            return TakenCommitment(folder, lock, found)

    def given_up(self) -> int:
        """How many requests nobody took the report of. Raises `SpoolUnusable`."""
        with as_spool_error(self._folder):
            return sum(1 for _ in self.given_up_path.glob("*.jsonl"))

    def sweep(self) -> None:
        """Remove what was given up long ago. Raises `SpoolUnusable`."""
        with as_spool_error(self._folder):
            for path in self.given_up_path.glob("*.jsonl"):
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - path.stat().st_mtime > KEEP_GIVEN_UP_SECONDS:
                        path.unlink()


def _key(request: CommitmentRequest) -> str:
    """What makes two requests the same: who asks whom for which instances in which transaction."""
    digest = hashlib.sha256()
    for part in (
        (request.calling_aet, request.called_aet, request.transaction_uid),
        *sorted(request.references),
    ):
        digest.update(json.dumps(part).encode() + b"\n")
    return digest.hexdigest()[:40]


def _lock_of(folder: Path) -> HeldLock | None:
    """None if another has it or the folder is gone."""
    if not folder.is_dir():  # the lock would make it
        return None
    with contextlib.suppress(FileNotFoundError, FileExistsError):  # removed, or made by another, just now
        return try_lock(folder / _LOCK)
    return None


def _request_paths(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix == ".jsonl")


def _read_all(folder: Path) -> list[tuple[Path, CommitmentRequest]]:
    """The requests of one key. Raises `OSError`."""
    found: list[tuple[Path, CommitmentRequest]] = []
    for path in _request_paths(folder):
        try:
            found.append((path, _read(path)))
        except ValueError as error:
            _log.error("A request for storage commitment cannot be answered: %s.", error)
            apart = folder.parent / _GIVEN_UP
            make_folder(apart)
            path.replace(apart / path.name)
    return found


def _encode(request: CommitmentRequest) -> bytes:
    """A line of what they have in common, then a line for each instance; there may be very many."""
    facts = {
        "transaction_uid": request.transaction_uid,
        "calling_aet": request.calling_aet,
        "called_aet": request.called_aet,
        "requested_at": request.requested_at,
        "instances": len(request.references),
    }
    content = bytearray(json.dumps(facts).encode() + b"\n")
    for reference in request.references:
        content += json.dumps(reference).encode() + b"\n"
    return bytes(content)


def _read(path: Path) -> CommitmentRequest:
    """Raises `OSError`, and `ValueError` if it is not what was written."""
    try:
        with path.open("rb") as lines:
            facts = json.loads(next(lines, b""))
            pairs = map(json.loads, lines)
            references = tuple((sys.intern(str(sop_class)), str(instance)) for sop_class, instance in pairs)
        if len(references) != facts["instances"]:
            raise ValueError("it lacks instances")
        return CommitmentRequest(
            transaction_uid=str(facts["transaction_uid"]),
            calling_aet=str(facts["calling_aet"]),
            called_aet=str(facts["called_aet"]),
            requested_at=float(facts["requested_at"]),
            references=references,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged") from error


def _leave(folder: Path, lock: HeldLock) -> None:
    """Free the lock; with it the folder, if no request is in it any more.

    The lock's file goes while it is held: whoever opened it before finds its name gone and locked nothing. One who
    writes a request meanwhile keeps the folder, or finds it gone and makes it anew.
    """
    with contextlib.suppress(OSError):
        if not _request_paths(folder):
            for path in folder.glob("*.tmp"):
                path.unlink(missing_ok=True)
            (folder / _LOCK).unlink(missing_ok=True)
    lock.release()
    with contextlib.suppress(OSError):  # not empty, nearly always
        folder.rmdir()
