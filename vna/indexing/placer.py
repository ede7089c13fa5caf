"""Emptying a folder of the spool: its files read, placed on the units that want them, and unlinked.

Files are taken in batches, so that a sync and a transaction count for many of them, of whatever studies. What
fails concerns the study and unit it fails for: a batch that fails is tried study by study.
"""

import contextlib
import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path

from vna.catalog import Catalog
from vna.checkpoints import checkpoint
from vna.errors import (
    BackupError,
    CatalogUnavailable,
    PlacingFailed,
    SourceDiffers,
    SpoolUnusable,
    where_it_happened,
)
from vna.identity import is_valid_uid, safe_name
from vna.indexing.placement import IdentifiedFile, WantedStudy, place_on_unit
from vna.indexing.reader import IdentityReader, Reading
from vna.spool import AssociationRecord, ReceivedFile, Spool, read_association
from vna.storage import StorageUnit

BATCH_FILES, BATCH_BYTES = 256, 256 << 20
"""How much is placed together at most; with one more file the bytes may be passed."""
_MOST_ERRORS = 1000

_log = logging.getLogger(__name__)

Studies = list[list[IdentifiedFile]]


@dataclass
class Pass:
    """What one pass did: files placed and set aside, and an error for each study that has to wait.

    `failed` counts them all; of thousands only the first are kept in `errors`.
    """

    placed: int = 0
    set_aside: int = 0
    failed: int = 0
    errors: list[BackupError] = field(default_factory=list[BackupError])

    def postpone(self, error: BackupError) -> None:
        """What failed stays in the spool."""
        self.failed += 1
        if len(self.errors) < _MOST_ERRORS:
            self.errors.append(error)


@dataclass(frozen=True)
class Placer:
    """One pass's way of emptying folders. `unit`: opens a storage unit by its name; `default_unit`: where what
    nobody expects belongs, given the unit that was remembered at its reception; `tell`: says a problem once.
    """

    spool: Spool
    catalog: Catalog
    reader: IdentityReader
    ahead: Executor
    unit: Callable[[str], StorageUnit]
    default_unit: Callable[[str], str]
    stop: threading.Event
    tell: Callable[[BackupError | str], None]

    def empty(self, folder: Path, done: Pass) -> None:
        """Place all complete files of a folder whose lock we have; what is to be told is added to `done`.

        Raises `CatalogUnavailable`, `ReaderFailed` and `SpoolUnusable`; what was placed until then stays so.
        """
        association = _association(folder)
        for batch, readings in self._read_ahead(folder):
            if self.stop.is_set():
                return
            studies = self._identify(batch, readings, association, done)
            failed = self._place(studies, folder, association)
            for study in studies:
                error = failed.get(_uid(study)) or self._unlink(study)
                if error is None:
                    done.placed += len(study)
                elif isinstance(error, SourceDiffers):
                    self._set_aside_damaged(study, association, error, done)
                else:
                    self._postpone(error, done)

    def _postpone(self, error: BackupError, done: Pass) -> None:
        done.postpone(error)
        self.tell(error)

    # -- reading

    def _read_ahead(self, folder: Path) -> Iterator[tuple[list[ReceivedFile], list[Reading]]]:
        """Batches with what was read of them; while one is being placed the child reads the next."""
        waiting: tuple[list[ReceivedFile], Future[list[Reading]]] | None = None
        for batch in self._batches(folder):
            coming = self.ahead.submit(self._read, batch)
            if waiting is not None:
                yield waiting[0], waiting[1].result()
            waiting = batch, coming
        if waiting is not None:
            yield waiting[0], waiting[1].result()

    def _read(self, batch: list[ReceivedFile]) -> list[Reading]:
        return self.reader.read([file.path for file in batch])

    def _batches(self, folder: Path) -> Iterator[list[ReceivedFile]]:
        """In the order of their names, so that a study's files mostly come together."""
        after = ""
        while page := self.spool.page(folder, after):
            after = page[-1].path.name
            batch: list[ReceivedFile] = []
            size = 0
            for file in page:
                batch.append(file)
                size += file.size
                if len(batch) >= BATCH_FILES or size >= BATCH_BYTES:
                    yield batch
                    batch, size = [], 0
            if batch:
                yield batch

    def _identify(
        self,
        batch: list[ReceivedFile],
        readings: list[Reading],
        association: AssociationRecord,
        done: Pass,
    ) -> Studies:
        """The files by study; what has no usable identity is set aside."""
        studies: defaultdict[str, list[IdentifiedFile]] = defaultdict(list)
        for file, reading in zip(batch, readings, strict=True):
            if reading.retry:
                if file.path.exists():  # else another indexer has placed it
                    self._postpone(SpoolUnusable(str(file.path), reading.retry), done)
                continue
            reason = reading.unreadable or _wrong_name(file, reading)
            if reason or reading.identity is None:
                self._set_aside(file, association, reason, reading, done)
                continue
            studies[reading.identity.study_instance_uid].append(IdentifiedFile(file, reading.identity))
        return list(studies.values())

    # -- placing

    def _place(
        self, studies: Studies, folder: Path, association: AssociationRecord
    ) -> dict[str, BackupError]:
        """Onto every unit that expects a study, else the default one; returns what failed, by study.

        Where one unit fails the study stays in the spool, and other units get it all the same.
        """
        by_unit: defaultdict[str, list[WantedStudy]] = defaultdict(list)
        failed: dict[str, BackupError] = {}
        for study in studies:
            self._tell_invalid_uids(study)
            try:
                for unit, runs in self._wanted_by(_uid(study), folder, association).items():
                    by_unit[unit].append(WantedStudy(study, runs))
            except SpoolUnusable as error:
                failed[_uid(study)] = error
        for unit, wanted in by_unit.items():
            failed.update(self._place_together(unit, wanted, association))
        return failed

    def _place_together(
        self, unit: str, studies: Sequence[WantedStudy], association: AssociationRecord
    ) -> dict[str, BackupError]:
        """All studies at once; if that fails, for whatever reason, one by one."""
        failed: dict[str, BackupError] = {}
        error = self._place_on(unit, studies, association)
        if error is None:
            return failed
        for study in studies:
            if len(studies) > 1:
                error = self._place_on(unit, [study], association)
            if error is not None:
                failed[study.study_instance_uid] = error
        return failed

    def _place_on(
        self, unit: str, studies: Sequence[WantedStudy], association: AssociationRecord
    ) -> BackupError | None:
        try:
            place_on_unit(self.unit(unit), self.catalog, studies, association)
        except CatalogUnavailable:
            raise
        except BackupError as error:
            return error
        except Exception as error:  # noqa: BLE001 - one study must not stop the others, whatever it is
            uid = safe_name(studies[0].study_instance_uid)
            if len(studies) == 1:
                _log.error("study %s cannot be placed\n%s", uid, where_it_happened(error))
            return PlacingFailed(uid, type(error).__name__)
        return None

    def _unlink(self, study: list[IdentifiedFile]) -> SpoolUnusable | None:
        """Placed is placed; a folder that lets nothing go does not hold up what else is in it."""
        try:
            for file in study:
                self.spool.remove_received(file.received)
                checkpoint("place.unlinked")
        except SpoolUnusable as error:
            return error
        return None

    def _wanted_by(
        self, study_instance_uid: str, folder: Path, association: AssociationRecord
    ) -> dict[str, set[str]]:
        """Unit → the runs that expected the study there; the default unit and no run if nobody did."""
        wanted: defaultdict[str, set[str]] = defaultdict(set)
        for expectation in self.spool.expectations(study_instance_uid, folder):
            wanted[expectation.unit].add(expectation.run)
        return wanted or {self.default_unit(association.unit): {""}}

    def _tell_invalid_uids(self, study: list[IdentifiedFile]) -> None:
        for file in study:
            of = file.identity
            for uid in (of.study_instance_uid, of.series_instance_uid, of.sop_instance_uid):
                if not is_valid_uid(uid):
                    name = safe_name(of.study_instance_uid)
                    self.tell(f"study {name}: a UID in it is no UID; kept under the name {safe_name(uid)}.")

    # -- what cannot be placed

    def _set_aside_damaged(
        self,
        study: list[IdentifiedFile],
        association: AssociationRecord,
        error: SourceDiffers,
        done: Pass,
    ) -> None:
        """The disk of the spool damaged a file after it was received; the others of its study come next pass."""
        for file in study:
            if str(file.received.path) == error.path:
                reading = Reading(file.received.path, file.identity)
                reason = "the disk damaged it after it was received"
                self._set_aside(file.received, association, reason, reading, done)

    def _set_aside(
        self,
        file: ReceivedFile,
        association: AssociationRecord,
        reason: str,
        reading: Reading,
        done: Pass,
    ) -> None:
        identity = reading.identity
        try:
            if self.spool.is_replaced(file):
                return  # by the same instance sent again: what is there now is looked at in the next pass
            self.spool.set_aside(
                file.path,
                dataset_sha256=file.dataset_sha256,
                sop_instance_uid=reading.command_sop_instance_uid or file.sop_instance_uid,
                reason=reason,
                association=association,
                study_instance_uid=identity.study_instance_uid if identity else "",
            )
        except BackupError as error:
            self._postpone(error, done)
            return
        done.set_aside += 1
        _log.warning("instance %s set aside: %s", file.sop_instance_uid, reason)


def _uid(study: list[IdentifiedFile]) -> str:
    return study[0].identity.study_instance_uid


def _wrong_name(file: ReceivedFile, reading: Reading) -> str:
    """A name in the spool comes from the command; a file that was put there otherwise is not believed."""
    if file.sop_instance_uid != safe_name(reading.command_sop_instance_uid):
        return "its SOP Instance UID is not the one it was sent under"
    return ""


def _association(folder: Path) -> AssociationRecord:
    """The record of a folder; what a damaged one does not tell stays empty, its images are placed all the same."""
    with contextlib.suppress(OSError, ValueError):
        return read_association(folder)
    return AssociationRecord(folder.name, "", "", "", "", "", "")
