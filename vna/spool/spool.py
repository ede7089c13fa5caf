"""The spool as a whole: its folders, locks, reserve, expectations and what was set aside."""

import contextlib
import datetime
import logging
import os
import re
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from ulid import ULID

from vna.durable import make_folder, sweep_temporaries
from vna.errors import SpoolUnusable
from vna.identity import safe_name
from vna.platform import (
    NETWORK_FILE_SYSTEMS,
    HeldLock,
    file_system_kind,
    is_locked,
    sync_folder,
    try_lock,
)
from vna.spool.aside import Aside, AsideEntry
from vna.spool.associations import (
    INDEXER_LOCK,
    RECEIVING_LOCK,
    RECORD_NAME,
    AssociationRecord,
    OpenAssociation,
    open_folder,
)
from vna.spool.expectations import Expectation, Expectations
from vna.spool.received import ReceivedFile, complete_files, complete_names, is_replaced, received_after
from vna.spool.refusals import refusing
from vna.spool.space import Reserve

_ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}\Z")
_OPEN_ATTEMPTS = 5


_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Waiting:
    """How many complete files wait in the spool, since when (seconds since 1970, when the association of the
    oldest was opened; None if there is none), and which folders cannot be read.
    """

    files: int
    oldest: float | None
    unreadable: tuple[SpoolUnusable, ...]


class Spool:
    """The spool at `path`. Holds no state that others need: any number of processes may use the same folder.

    Where the disk refuses, every method raises `SpoolUnusable`.
    `reserve_bytes` = free space that is always kept; by default the larger of 2 GiB and 2 %.
    """

    def __init__(self, path: Path, reserve_bytes: int | None = None) -> None:
        self.path = path
        self._reserve = Reserve(path, reserve_bytes)
        self._expectations = Expectations(path / "expect")
        self._aside = Aside(path / "aside")
        self._told: set[Path] = set()

    # -- whether it can be used

    @refusing
    def prepare(self) -> None:
        """Make the folder if absent. Raises `SpoolUnusable` if it is no folder on a local, writable disk."""
        make_folder(self.path)
        if (kind := file_system_kind(self.path)) in NETWORK_FILE_SYSTEMS:
            raise SpoolUnusable(
                str(self.path), f"it is on a network file system ({kind}); move it to a local disk"
            )
        probe = self.path / f".writable.{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
        for folder in ("expect", "aside"):
            sweep_temporaries(self.path / folder)

    @refusing
    def check(self) -> None:
        """As `prepare`, and also raise for an expectation that cannot be read: its study would go astray."""
        self.prepare()
        for path in self._expectations.unreadable():
            raise SpoolUnusable(
                str(self.path), f"{path.name} in expect/ is damaged; delete it and start its run again"
            )

    @property
    @refusing
    def reserve(self) -> int:
        """Free space that is always kept, in bytes."""
        return self._reserve.bytes_kept()

    @refusing
    def check_space(self, about_to_write: int = 0) -> None:
        """Raise `DiskFull` if less than the reserve would be free after writing that many bytes."""
        self._reserve.check(about_to_write)

    def count(self, about_to_write: int) -> int:
        """How many bytes all writers of this object have written since the last `check_space`, and will with these."""
        return self._reserve.count(about_to_write)

    @refusing
    def may_pull(self) -> None:
        """Raise `DiskFull` if less than twice the reserve is free: what is being sent to us comes first."""
        make_folder(self.path)
        self._reserve.check(times=2)

    # -- receiving

    @refusing
    def open_association(
        self,
        *,
        calling_aet: str,
        called_aet: str,
        peer_address: str,
        listener: str,
        tls_subject: str = "",
        server: str = "",
        episode: str = "",
        unit: str = "",
    ) -> OpenAssociation:
        """A new association's folder, locked and durable, with its record in it; a context manager.

        `unit` = the storage unit for what nobody expects, as it is now (`vna.site.unsolicited_unit`).
        """
        make_folder(self.path)
        for _ in range(_OPEN_ATTEMPTS):
            record = AssociationRecord(
                ulid=str(ULID()),
                calling_aet=calling_aet,
                called_aet=called_aet,
                peer_address=peer_address,
                tls_subject=tls_subject,
                opened_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
                listener=listener,
                server=server,
                episode=episode,
                unit=unit,
            )
            if (opened := open_folder(self, record)) is not None:
                return opened
        raise SpoolUnusable(str(self.path), "other processes keep taking every new folder in it")

    # -- what is there

    def folders(self) -> Iterator[Path]:
        """The associations' folders, oldest first. Raises `SpoolUnusable` if the spool cannot be listed."""
        try:
            with os.scandir(self.path) as entries:
                names = sorted(entry.name for entry in entries if _ULID.match(entry.name) and entry.is_dir())
        except FileNotFoundError:
            return
        except OSError as error:
            raise SpoolUnusable(str(self.path), error.strerror or str(error)) from error
        for name in names:
            yield self.path / name

    def opened_at(self, folder: Path) -> float:
        """When the association of a folder was opened, in seconds since 1970, as its name tells."""
        return ULID.from_str(folder.name).timestamp

    @refusing
    def has_record(self, folder: Path) -> bool:
        """Whether its association was opened in full: from then on its lock tells who fills it."""
        return (folder / RECORD_NAME).exists()

    @refusing
    def is_open(self, folder: Path) -> bool:
        """Whether a living receiver may still add to this folder."""
        return is_locked(folder / RECEIVING_LOCK)

    @refusing
    def received(self, folder: Path) -> list[ReceivedFile]:
        """The complete files of a folder by name; none if it is gone. Raises `SpoolUnusable` naming it."""
        return sorted(complete_files(folder), key=lambda file: file.path.name)

    @refusing
    def page(self, folder: Path, after: str = "", most: int = 4096) -> list[ReceivedFile]:
        """The first complete files by name behind the name `after`: a folder of any size in bounded memory.

        None if it is gone. Raises `SpoolUnusable` naming it.
        """
        return received_after(folder, after, most)

    @refusing
    def is_replaced(self, file: ReceivedFile) -> bool:
        """Whether a receiver gave its name to the same instance once more since we looked, or it is gone."""
        return is_replaced(file)

    @refusing
    def has_received(self, folder: Path, sop_instance_uids: Collection[str] | None = None) -> bool:
        """Whether there is a complete file in a folder, of these SOP Instance UIDs if some are given.

        Raises `SpoolUnusable` naming the folder.
        """
        wanted = None if sop_instance_uids is None else {safe_name(uid) for uid in sop_instance_uids}
        return any(wanted is None or name in wanted for name in complete_names(folder))

    @refusing
    def pending(self, sop_instance_uids: Collection[str], *, for_certain: bool = False) -> set[str]:
        """Which of these have a complete file that nobody has placed yet. Reads names only.

        A folder that cannot be read is passed over, and told in the log once: what it holds cannot be placed, so
        for a backup it has not come, and is asked for again. It stays where it is, and `waiting` names it.
        `for_certain`: raises `SpoolUnusable` instead, for who must not take what is there for absent.
        """
        by_name = {safe_name(uid): uid for uid in sop_instance_uids}
        if not by_name:
            return set()
        folders = self._readable(for_certain=for_certain)
        return {by_name[name] for _, names in folders for name in names if name in by_name}

    def _readable(self, *, for_certain: bool = False) -> Iterator[tuple[Path, list[str]]]:
        """Each folder with the SOP Instance UIDs of its complete files."""
        for folder in self.folders():
            try:
                names = list(complete_names(folder))
            except SpoolUnusable as error:
                if for_certain:
                    raise
                if folder not in self._told:
                    self._told.add(folder)
                    _log.warning("%s", error)
                continue
            yield folder, names

    @refusing
    def holding(self, sop_instance_uids: Collection[str]) -> dict[Path, int]:
        """The folders with a complete file of any of these, each with how many complete files it has in all."""
        wanted = {safe_name(uid) for uid in sop_instance_uids}
        found: dict[Path, int] = {}
        for folder, names in self._readable():
            if not wanted.isdisjoint(names):
                found[folder] = len(names)
        return found

    @refusing
    def waiting(self) -> Waiting:
        """All that waits to be placed. Reads names only."""
        files = 0
        oldest: Path | None = None
        unreadable: list[SpoolUnusable] = []
        for folder in self.folders():
            try:
                names = list(complete_names(folder))
            except SpoolUnusable as error:
                unreadable.append(error)
                continue
            files += len(names)
            oldest = oldest or (folder if names else None)
        return Waiting(files, None if oldest is None else self.opened_at(oldest), tuple(unreadable))

    # -- expectations

    @refusing
    def expect(self, expectation: Expectation) -> None:
        """Say, durably, where instances of a study belong."""
        self._expectations.add(expectation)

    @refusing
    def expectations(self, study_instance_uid: str, folder: Path | None = None) -> list[Expectation]:
        """What was expected of a study when the association of this folder was opened, or is expected now.

        An unreadable file is passed over here and told by `check`.
        """
        at = time.time() if folder is None else self.opened_at(folder)
        return self._expectations.of_study(study_instance_uid, at)

    @refusing
    def sweep_expectations(self) -> int:
        """Remove expectations that can hold for nothing any more, and return how many.

        Expired is not enough: what came before and waits, because its unit is away, still belongs to them.
        """
        return self._expectations.sweep_expired(time.time(), self._oldest)

    def _oldest(self) -> float:
        return min(map(self.opened_at, self.folders()), default=time.time())

    @refusing
    def forget(self, study_instance_uid: str, run: str) -> None:
        """The run expects nothing more of this study."""
        self._expectations.remove(study_instance_uid, run)

    # -- taking away

    @refusing
    def lock_for_indexing(self, folder: Path) -> HeldLock | None:
        """The right to place what a folder holds; None if another has it or the folder is gone.

        Raises `SpoolUnusable` if the folder refuses.
        """
        return _lock_in(folder, INDEXER_LOCK)

    @refusing
    def remove_received(self, file: ReceivedFile) -> None:
        """Unlink a file that is safe elsewhere; already gone is fine."""
        file.path.unlink(missing_ok=True)

    @refusing
    def sweep(self, folder: Path, indexing: HeldLock | None = None) -> bool:
        """Remove what an ended association left half-written, and the folder if nothing else is in it.

        Both locks are needed; `indexing` is the caller's own, if it holds it (the folder's removal frees the
        name, not the lock). Returns whether the folder is gone. Never removes a complete file, or anything
        it does not know.
        """
        receiving = _lock_in(folder, RECEIVING_LOCK)
        if receiving is None:
            return not folder.exists()
        with receiving:
            own = None if indexing is not None else _lock_in(folder, INDEXER_LOCK)
            if own is None and indexing is None:
                return not folder.exists()
            try:
                return _sweep_locked(folder)
            finally:
                if own is not None:
                    own.release()

    @refusing
    def set_aside(
        self,
        file_path: Path,
        *,
        dataset_sha256: str,
        sop_instance_uid: str,
        reason: str,
        association: AssociationRecord | None = None,
        study_instance_uid: str = "",
    ) -> AsideEntry:
        """Move a received file that cannot be placed to `aside/`, durably, kept once by content; may be repeated."""
        return self._aside.take(
            file_path,
            dataset_sha256=dataset_sha256,
            sop_instance_uid=sop_instance_uid,
            reason=reason,
            association=association,
            study_instance_uid=study_instance_uid,
        )

    @refusing
    def aside(self) -> list[AsideEntry]:
        """All that was set aside, oldest first."""
        return self._aside.entries()


def _lock_in(folder: Path, name: str) -> HeldLock | None:
    if not folder.is_dir():  # the lock would make it
        return None
    try:
        return try_lock(folder / name)
    except FileNotFoundError:
        return None


def _sweep_locked(folder: Path) -> bool:
    ours = {RECORD_NAME, RECEIVING_LOCK, INDEXER_LOCK}
    is_empty = True
    with os.scandir(folder) as entries:
        for entry in entries:  # one by one: a whole department's queue may lie here
            if entry.name.endswith((".part", ".tmp")):
                (folder / entry.name).unlink(missing_ok=True)
            elif entry.name not in ours:
                is_empty = False
    if not is_empty:
        return False
    # The locks go last: whoever opened one before finds its name gone and knows it locked nothing. Whoever
    # makes a new one meanwhile keeps the folder from being removed, and sweeps it next.
    with contextlib.suppress(OSError):
        for name in (RECORD_NAME, INDEXER_LOCK, RECEIVING_LOCK):
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()
        sync_folder(folder.parent)
    return not folder.exists()
