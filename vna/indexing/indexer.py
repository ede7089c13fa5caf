"""One indexer: passes over the spool, folder by folder, study by study.

What fails concerns the study and unit it fails for: its files stay in the spool and are tried again after a
growing pause; the others go on. Only a database that is away ends a pass.
"""

import contextlib
import datetime
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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
from vna.indexing.placement import IdentifiedFile, place_on_unit, replay_study
from vna.indexing.reader import IdentityReader, Reading, shared_reader
from vna.platform import HeldLock
from vna.settings import Settings
from vna.site import Site, UnitDefinition, load_site
from vna.spool import AssociationRecord, ReceivedFile, Spool, read_association
from vna.storage import StorageUnit, open_unit

BATCH_FILES = 64
_IDLE_SECONDS = (0.05, 0.5)
_RETRY_SECONDS = (1.0, 60.0)
_REPLAY_MARGIN_SECONDS = 3600.0
_YOUNG_SECONDS = 10.0
_SWEEP_SECONDS = 600.0

_log = logging.getLogger(__name__)


@dataclass
class Pass:
    """What one pass did: files placed and set aside, and an error for each study that has to wait."""

    placed: int = 0
    set_aside: int = 0
    errors: list[BackupError] = field(default_factory=list[BackupError])


class Indexer:
    """Places what the spool holds. Any number of indexers may work on one spool.

    `run` is for one thread; `migrate` and `run_once` may be called by several threads at once, which share the
    database's connections, the opened units and the reader; of a folder one has the lock, as between processes.
    `catalog`: an open one of the same database, which stays open; by default one of its own.
    """

    def __init__(
        self, settings: Settings, reader: IdentityReader | None = None, *, catalog: Catalog | None = None
    ) -> None:
        self._settings = settings
        self._spool = Spool(settings.spool_path, settings.reserve_bytes)
        self._catalog = catalog or Catalog(settings.catalog_database_url)
        self._own_catalog = catalog is None
        self._migrating = threading.Lock()
        self._is_migrated = False
        self._reader = reader or shared_reader()
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._units: dict[UnitDefinition, StorageUnit] = {}
        self._waiting: dict[Path, tuple[float, float]] = {}
        self._told: set[str] = set()
        self._sweep_at = 0.0
        self._stop = threading.Event()

    def __enter__(self) -> "Indexer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the database; the reader of the process stays warm."""
        self._ahead.shutdown()
        if self._own_catalog:
            self._catalog.close()

    # -- going on and on

    def run(self, stop: threading.Event) -> None:
        """Index until `stop` is set. Nothing that fails ends it; all is tried again."""
        self._stop = stop
        pause = _IDLE_SECONDS[0]
        prepared = False
        while not stop.is_set():
            try:
                if not prepared:
                    self.prepare()
                    prepared = True
                done = self.run_once(patient=True)
            except BackupError as error:
                self._tell(error)
                pause = min(max(2 * pause, _RETRY_SECONDS[0]), _RETRY_SECONDS[1] / 4)
            else:
                busy = done.placed or done.set_aside
                pause = _IDLE_SECONDS[0] if busy else min(2 * pause, _IDLE_SECONDS[1])
                if busy:
                    continue
            stop.wait(pause)

    def migrate(self) -> None:
        """Bring the catalog's tables to this version; looks only once."""
        with self._migrating:
            if not self._is_migrated:
                self._catalog.migrate()
                self._is_migrated = True

    def sweep(self) -> None:
        """Remove what ended associations left half-written, and nothing else."""
        self.run_once(())

    def prepare(self) -> None:
        """Bring the tables to this version, and the catalog to what the manifests of all units say.

        Only studies whose manifests changed since the catalog last heard of their unit are looked at.
        """
        self.migrate()
        for definition in load_site(self._settings).units.values():
            try:
                unit = self._unit(definition)
                unit.sweep()
                self._replay(unit)
            except CatalogUnavailable:
                raise
            except BackupError as error:
                self._tell(error)

    def _replay(self, unit: StorageUnit) -> None:
        told = self._catalog.last_told(unit.name)
        since = datetime.datetime.fromisoformat(told).timestamp() - _REPLAY_MARGIN_SECONDS if told else 0.0
        replayed = sum(
            replay_study(unit, self._catalog, study.path)
            for study in unit.study_folders()
            if study.changed_at >= since
        )
        if replayed:
            _log.info("storage unit %s: %d manifests were newer than the catalog", unit.name, replayed)

    # -- one pass

    def run_once(self, only: Collection[str] | None = None, *, patient: bool = False) -> Pass:
        """Place every complete file that is there and nobody else is placing.

        `only`: what lies in folders that hold any of these SOP Instance UIDs, all of it, so that what a source sent
        without listing it is placed with the rest. `patient`: a folder that failed waits before it is
        tried again. Raises `CatalogUnavailable` and `ReaderFailed`; other errors are in the result. With `only`
        a folder that cannot be read is no error, as nobody can say whether it holds any of these; it is logged.
        """
        done = Pass()
        self._sweep_expectations()
        site = load_site(self._settings)
        names = None if only is None else {safe_name(uid) for uid in only}
        for folder in self._spool.folders():
            if patient and self._waits(folder):
                continue
            before = len(done.errors)
            if self._look_into(folder, names, done):
                self._work_on(folder, site, names, done)
            if patient:
                self._remember(folder, failed=len(done.errors) > before)
        return done

    def _look_into(self, folder: Path, names: set[str] | None, done: Pass) -> bool:
        """Whether there is anything to do in a folder."""
        try:
            return bool(self._received(folder, names)) or self._is_left_over(folder)
        except SpoolUnusable as error:
            if names is None:
                self._postpone(error, done)
            else:
                self._tell(error)
            return False

    def _work_on(self, folder: Path, site: Site, names: set[str] | None, done: Pass) -> None:
        """Place what a folder holds, unless another indexer does; a folder that fails stops no other."""
        try:
            lock = self._spool.lock_for_indexing(folder)
            if lock is None:
                return
            with lock:
                self._index_folder(folder, site, names, done)
                self._sweep(folder, lock)
        except SpoolUnusable as error:
            self._postpone(error, done)

    def _received(self, folder: Path, names: set[str] | None) -> list[ReceivedFile]:
        files = self._spool.received(folder)
        return files if names is None or any(file.sop_instance_uid in names for file in files) else []

    def _index_folder(self, folder: Path, site: Site, names: set[str] | None, done: Pass) -> None:
        files = self._received(folder, names)
        association = _association(folder)
        for batch, readings in self._read_ahead(files):
            if self._stop.is_set():
                return
            for study in self._identify(batch, readings, association, done):
                try:
                    self._place(study, folder, association, site)
                    done.placed += len(study)
                except SourceDiffers as error:
                    self._set_aside_damaged(study, association, error, done)
                except CatalogUnavailable:
                    raise
                except BackupError as error:
                    self._postpone(error, done)
                except Exception as error:  # noqa: BLE001 - one study must not stop the others, whatever it is
                    uid = safe_name(study[0].identity.study_instance_uid)
                    _log.error("study %s cannot be placed\n%s", uid, where_it_happened(error))
                    self._postpone(PlacingFailed(uid, type(error).__name__), done)

    def _is_left_over(self, folder: Path) -> bool:
        """Whether only its removal is missing: nothing complete in it, and nobody fills it.

        A folder without its record may be about to be locked, so it is left alone while it is young.
        """
        if self._spool.received(folder):
            return False
        if self._spool.has_record(folder):
            return not self._spool.is_open(folder)
        age = time.time() - self._spool.opened_at(folder)
        return age > _YOUNG_SECONDS

    def _postpone(self, error: BackupError, done: Pass) -> None:
        done.errors.append(error)
        self._tell(error)

    def _read_ahead(self, files: list[ReceivedFile]) -> Iterator[tuple[list[ReceivedFile], list[Reading]]]:
        """Batches with what was read of them; while one is being placed the child reads the next."""
        batches = [files[start : start + BATCH_FILES] for start in range(0, len(files), BATCH_FILES)]
        coming: Future[list[Reading]] | None = None
        for number, batch in enumerate(batches):
            readings = coming.result() if coming is not None else self._read(batch)
            if number + 1 < len(batches):
                coming = self._ahead.submit(self._read, batches[number + 1])
            yield batch, readings

    def _read(self, batch: list[ReceivedFile]) -> list[Reading]:
        return self._reader.read([file.path for file in batch])

    def _identify(
        self,
        batch: list[ReceivedFile],
        readings: list[Reading],
        association: AssociationRecord,
        done: Pass,
    ) -> list[list[IdentifiedFile]]:
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

    def _place(
        self, files: list[IdentifiedFile], folder: Path, association: AssociationRecord, site: Site
    ) -> None:
        """Onto every unit that expects the study, else the default one; then unlink. One unit that fails keeps
        the files in the spool, and the others get theirs all the same.
        """
        study = files[0].identity.study_instance_uid
        self._tell_invalid_uids(files)
        failed: BackupError | None = None
        for unit_name, runs in self._wanted_by(study, folder).items():
            try:
                unit = self._unit(site.unit(unit_name))
                place_on_unit(unit, self._catalog, files, runs, association)
            except (CatalogUnavailable, SourceDiffers):
                raise
            except BackupError as error:
                failed = failed or error
        if failed is not None:
            raise failed
        for file in files:
            self._spool.remove_received(file.received)
            checkpoint("place.unlinked")

    def _tell_invalid_uids(self, files: list[IdentifiedFile]) -> None:
        for file in files:
            of = file.identity
            for uid in (of.study_instance_uid, of.series_instance_uid, of.sop_instance_uid):
                if not is_valid_uid(uid):
                    study = safe_name(of.study_instance_uid)
                    self._tell(f"study {study}: a UID in it is no UID; kept under the name {safe_name(uid)}.")

    def _wanted_by(self, study_instance_uid: str, folder: Path) -> dict[str, set[str]]:
        """Unit → the runs that expected the study there; the default unit and no run if nobody did."""
        wanted: defaultdict[str, set[str]] = defaultdict(set)
        for expectation in self._spool.expectations(study_instance_uid, folder):
            wanted[expectation.unit].add(expectation.run)
        return wanted or {self._settings.default_unit: {""}}

    def _unit(self, definition: UnitDefinition) -> StorageUnit:
        unit = self._units.get(definition)
        if unit is None:
            unit = open_unit(definition, create=definition.name == self._settings.default_unit)
            self._units[definition] = unit
        return unit

    # -- what cannot be placed

    def _set_aside_damaged(
        self,
        study: list[IdentifiedFile],
        association: AssociationRecord,
        error: SourceDiffers,
        done: Pass,
    ) -> None:
        """The disk of the spool damaged a file after it was received; the others of its batch come next pass."""
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
            self._spool.set_aside(
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

    # -- folders that are done, and folders that wait

    def _sweep(self, folder: Path, lock: HeldLock) -> None:
        with contextlib.suppress(OSError):  # it stays for the next pass
            if self._spool.sweep(folder, lock):
                checkpoint("place.folder_removed")

    def _sweep_expectations(self) -> None:
        """Now and then: a study that stays incomplete is never forgotten by its run."""
        now = time.monotonic()
        if now < self._sweep_at:
            return
        self._sweep_at = now + _SWEEP_SECONDS
        try:
            self._spool.sweep_expectations()
        except SpoolUnusable as error:
            self._tell(error)

    def _waits(self, folder: Path) -> bool:
        return folder in self._waiting and time.monotonic() < self._waiting[folder][0]

    def _remember(self, folder: Path, *, failed: bool) -> None:
        if not failed:
            self._waiting.pop(folder, None)
            return
        _, pause = self._waiting.get(folder, (0.0, _RETRY_SECONDS[0] / 2))
        pause = min(2 * pause, _RETRY_SECONDS[1])
        self._waiting[folder] = (time.monotonic() + pause, pause)

    def _tell(self, problem: BackupError | str) -> None:
        """Log a sentence once, not at every attempt."""
        text = str(problem)
        if text not in self._told:
            if len(self._told) >= 1000:
                self._told.clear()
            self._told.add(text)
            _log.warning("%s", text)


def _wrong_name(file: ReceivedFile, reading: Reading) -> str:
    """A name in the spool comes from the command; a file that was put there otherwise is not believed."""
    if file.sop_instance_uid != safe_name(reading.command_sop_instance_uid):
        return "its SOP Instance UID is not the one it was sent under"
    return ""


def _association(folder: Path) -> AssociationRecord:
    """The record of a folder; what a damaged one does not tell stays empty, its images are placed all the same."""
    try:
        return read_association(folder)
    except (OSError, ValueError):
        return AssociationRecord(folder.name, "", "", "", "", "", "")
