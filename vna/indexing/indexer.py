"""One indexer: passes over the spool, folder by folder, study by study.

What fails concerns the study and unit it fails for: its files stay in the spool and are tried again after a
growing pause; the others go on. Only a database that is away ends a pass.
"""

import contextlib
import datetime
import logging
import threading
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vna.catalog import Catalog
from vna.checkpoints import checkpoint
from vna.errors import BackupError, CatalogUnavailable, ReaderFailed, SpoolUnusable, where_it_happened
from vna.indexing.placement import replay_study
from vna.indexing.placer import BATCH_FILES, Pass, Placer
from vna.indexing.reader import IdentityReader, shared_reader
from vna.platform import HeldLock
from vna.settings import Settings
from vna.site import Site, UnitDefinition, WatchedSite, unsolicited_unit
from vna.spool import Spool
from vna.storage import StorageUnit, open_unit

_GATHER_SECONDS = 0.1
"""Pause after a pass that found little: files that arrive together are placed together."""
_IDLE_SECONDS = (0.05, 0.5)
_RETRY_SECONDS = (1.0, 60.0)
_REPLAY_MARGIN_SECONDS = 3600.0
_YOUNG_SECONDS = 10.0
_SWEEP_SECONDS = 600.0

_log = logging.getLogger(__name__)


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
        self._watched: WatchedSite | None = None
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
        """Index until `stop` is set. Nothing that fails ends it; all is tried again, after a growing pause."""
        self._stop = stop
        pause = _IDLE_SECONDS[0]
        prepared = False
        while not stop.is_set():
            try:
                if not prepared:
                    self.prepare()
                    prepared = True
                done = self.run_once(patient=True)
            except Exception as error:  # noqa: BLE001 - who would place anything if this ended?
                self._tell(error if isinstance(error, BackupError) else _story("a pass", error))
                pause = min(max(2 * pause, _RETRY_SECONDS[0]), _RETRY_SECONDS[1] / 4)
            else:
                busy = done.placed + done.set_aside
                if busy >= BATCH_FILES // 4:
                    pause = 0.0
                else:
                    pause = (
                        _GATHER_SECONDS if busy else min(max(2 * pause, _IDLE_SECONDS[0]), _IDLE_SECONDS[1])
                    )
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
        for definition in self._site().units.values():
            try:
                unit = self._unit(definition)
                unit.sweep()
                self._replay(unit)
            except CatalogUnavailable:
                raise
            except BackupError as error:
                self._tell(error)
            except Exception as error:  # noqa: BLE001 - one unit must not stop the others, whatever it is
                self._tell(_story(f"storage unit {definition.name}", error))

    def _site(self) -> Site:
        """As the DICOM server sees it: the last good one where `site.json` is damaged or gone.

        Raises `SettingsError` only where there never was a good one.
        """
        if self._watched is None:
            self._watched = WatchedSite(self._settings, look_seconds=0.0)
        site = self._watched()
        if self._watched.problem:
            self._tell(f"{self._watched.problem} The last good one stays in use.")
        return site

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
        site = self._site()
        placer = self._placer(site)
        seen: set[Path] = set()
        for folder in self._spool.folders():
            if self._stop.is_set():
                break
            seen.add(folder)
            if patient and self._waits(folder):
                continue
            before = done.failed
            self._visit(folder, placer, site, only, done)
            if patient:
                self._remember(folder, failed=done.failed > before)
        for gone in [folder for folder in self._waiting if folder not in seen] if patient else ():
            del self._waiting[gone]
        return done

    def _visit(
        self, folder: Path, placer: Placer, site: Site, only: Collection[str] | None, done: Pass
    ) -> None:
        """Look into a folder and do what is to be done; one that fails, in whatever way, stops no other."""
        try:
            if self._look_into(folder, only, done) and not self._is_hopeless(folder, site, done):
                self._work_on(folder, placer, only, done)
        except (CatalogUnavailable, ReaderFailed):
            raise
        except BackupError as error:
            self._postpone(error, done)
        except Exception as error:  # noqa: BLE001 - the folders behind it wait for it otherwise, for ever
            self._tell(_story(f"folder {folder.name} of the spool", error))
            reason = f"placing what it holds failed ({type(error).__name__}); the log tells where"
            self._postpone(SpoolUnusable(str(folder), reason), done)

    def _placer(self, site: Site) -> Placer:
        implied = unsolicited_unit(self._settings, site)
        return Placer(
            spool=self._spool,
            catalog=self._catalog,
            reader=self._reader,
            ahead=self._ahead,
            unit=lambda name: self._unit(site.unit(name)),
            default_unit=lambda remembered: remembered if remembered in site.units else implied,
            stop=self._stop,
            tell=self._tell,
        )

    def _look_into(self, folder: Path, only: Collection[str] | None, done: Pass) -> bool:
        """Whether there is anything to do in a folder."""
        try:
            return self._spool.has_received(folder, only) or self._is_left_over(folder)
        except SpoolUnusable as error:
            if only is None:
                self._postpone(error, done)
            else:
                self._tell(error)
            return False

    def _is_hopeless(self, folder: Path, site: Site, done: Pass) -> bool:
        """A folder that failed before, while every unit is away: tens of thousands of files are not read again
        and again for that.
        """
        if folder not in self._waiting:
            return False
        problem: BackupError | None = None
        for definition in site.units.values():
            try:
                self._unit(definition).check()
            except BackupError as error:
                problem = problem or error
            else:
                return False
        if problem is None or not self._spool.has_received(folder):
            return False
        self._postpone(problem, done)
        return True

    def _work_on(self, folder: Path, placer: Placer, only: Collection[str] | None, done: Pass) -> None:
        """Place what a folder holds, unless another indexer does."""
        lock = self._spool.lock_for_indexing(folder)
        if lock is None:
            return
        with lock:
            if self._spool.has_received(folder, only):
                placer.empty(folder, done)
            self._sweep(folder, lock)

    def _is_left_over(self, folder: Path) -> bool:
        """Whether only its removal is missing: nothing complete in it, and nobody fills it.

        A folder without its record may be about to be locked, so it is left alone while it is young.
        """
        if self._spool.has_received(folder):
            return False
        if self._spool.has_record(folder):
            return not self._spool.is_open(folder)
        age = time.time() - self._spool.opened_at(folder)
        return age > _YOUNG_SECONDS

    def _postpone(self, error: BackupError, done: Pass) -> None:
        done.postpone(error)
        self._tell(error)

    def _unit(self, definition: UnitDefinition) -> StorageUnit:
        unit = self._units.get(definition)
        if unit is None:
            unit = open_unit(definition, create=definition.name == self._settings.default_unit)
            self._units[definition] = unit
        return unit

    # -- folders that are done, and folders that wait

    def _sweep(self, folder: Path, lock: HeldLock) -> None:
        with contextlib.suppress(SpoolUnusable):  # it stays for the next pass
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


def _story(what: str, error: Exception) -> str:
    return f"{what}: something nobody thought of; all is tried again later\n{where_it_happened(error)}"
