"""A storage unit in a folder: a local disk, or a share that the operating system has mounted."""

import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from pathlib import Path
from typing import BinaryIO, TypeVar

from ulid import ULID

from vna.checkpoints import checkpoint
from vna.durable import make_folder
from vna.errors import CopyDiffers, CopyUnreadable, SourceDiffers
from vna.platform import sync_folder
from vna.storage.digests import Digests, read_digests
from vna.storage.manifests import Event, Manifest, Stored, decode_manifest, encode_manifest, is_inside
from vna.storage.marker import MARKER, check_marker, unit_errors
from vna.storage.placing import Place, make_name
from vna.storage.unit import DamagedFile, FileFacts, NewFile, PlacedFile, StudyFolder, copy_folder, copy_name

STAGING = ".staging"
_MANIFESTS = "manifest"
_PART = ".part"
_CUT_MANIFEST = f".jsonl{_PART}"
_NOT_OURS = frozenset({MARKER, "files", "versions", "lost+found"})
_OLD_SECONDS = 86400.0
_AT_ONCE = 8
"""Threads for what waits for the disk: syncs that are asked for together are done together."""
_FEW, _MUCH = 16, 4 << 20

Item = TypeVar("Item")
Result = TypeVar("Result")


class LocalUnit:
    """See `StorageUnit` for the contract. Not bound to a thread; several processes may use one folder."""

    def __init__(self, name: str, path: Path) -> None:
        self._name, self._path = name, path

    @property
    def name(self) -> str:
        return self._name

    @property
    def path(self) -> Path:
        return self._path

    def check(self) -> None:
        """Raise `UnitUnavailable` unless the marker file is there."""
        check_marker(self._name, self._path)

    # -- storing

    def put(self, files: Sequence[NewFile]) -> list[PlacedFile]:
        """Store files: names made, folders synced, every file read back from the disk and digested."""
        self.check()
        with unit_errors(self._name, self._path):
            folders = sorted({copy_folder(file.identity) for file in files})
            _at_once(lambda folder: make_folder(self._path / folder, below=self._path), folders)
            places = [(file, self._give_name(file)) for file in files]
            checkpoint("place.linked")
            _at_once(lambda folder: sync_folder(self._path / folder), folders)
            placed = self._read_back_all(places)
            checkpoint("place.file_synced")
        self.check()  # unmounted meanwhile, we would have written to the bare mount point
        return placed

    def _give_name(self, file: NewFile) -> Place:
        folder = copy_folder(file.identity)
        damaged: list[DamagedFile] = []
        number = 0
        while True:
            name = copy_name(file.identity.sop_instance_uid, file.dataset_sha256, number)
            path = f"{folder}/{name}"
            if make_name(file, self._path / path, self._staging):
                return Place(path, damaged=tuple(damaged))
            verdict, found = self._judge(file, path)
            if verdict is _Verdict.same:
                return Place(path, found, tuple(damaged))
            if verdict is _Verdict.damaged:
                damaged.append(DamagedFile(path, found))
            number += 1

    def _judge(self, file: NewFile, path: str) -> "tuple[_Verdict, Digests | None]":
        """What a file is that has the name we wanted; it is read to know."""
        full = self._path / path
        if full.samefile(file.source):
            return _Verdict.same, None  # a killed attempt linked it; it is read back as a new one
        try:
            found = read_digests(full, sync=True)
        except OSError:  # a sector that cannot be read is damage as well
            return _Verdict.damaged, None
        if found.dataset_sha256 != file.dataset_sha256 or not found.header_length:
            return _Verdict.damaged, found
        if found.transfer_syntax_uid != file.identity.transfer_syntax_uid:
            return _Verdict.other, found  # the same bytes in another syntax are another version
        recorded = self._recorded_header(path)
        same = recorded is None or recorded == found.header_sha256
        return (_Verdict.same if same else _Verdict.damaged), found

    def _recorded_header(self, path: str) -> str | None:
        """The header digest that the study's manifests hold of a file; None if they do not name it."""
        recorded: str | None = None
        for manifest in self.manifests(path.rsplit("/", 2)[0]):
            for event in self.read_manifest(manifest).events:
                if isinstance(event, Stored) and event.path == path:
                    recorded = event.header_sha256
        return recorded

    def _read_back_all(self, places: Sequence[tuple[NewFile, Place]]) -> list[PlacedFile]:
        """In several threads where it is much: reading and digesting both let others work."""
        if len(places) < _FEW and sum(file.size for file, _ in places) < _MUCH:
            return [self._read_back(file, place) for file, place in places]
        return _at_once(lambda place: self._read_back(*place), places)

    def _read_back(self, file: NewFile, place: Place) -> PlacedFile:
        if place.found is not None:
            return PlacedFile(file, place.path, place.found, was_there=True, damaged=place.damaged)
        full = self._path / place.path
        found = read_digests(full)  # its content was synced by who received or copied it, its name just now
        if found.dataset_sha256 == file.dataset_sha256 and found.header_length:
            return PlacedFile(file, place.path, found, was_there=False, damaged=place.damaged)
        source = read_digests(file.source)
        if source.dataset_sha256 != file.dataset_sha256 or not source.header_length:
            if full.samefile(file.source):
                full.unlink()  # made by us, named by no record; the content stays where it came from
            raise SourceDiffers(str(file.source), file.dataset_sha256, source.dataset_sha256)
        raise CopyDiffers(self._name, place.path, file.dataset_sha256, found.dataset_sha256)

    def _staging(self) -> Path:
        make_folder(self._path / STAGING, below=self._path)
        return self._path / STAGING / f"{ULID()}{_PART}"

    # -- reading

    def open(self, path: str) -> BinaryIO:
        """Open a stored file for reading."""
        try:
            return self._full(path).open("rb")
        except OSError as error:
            self.check()
            raise CopyUnreadable(self._name, path, error.strerror or str(error)) from error

    def stat(self, path: str) -> FileFacts | None:
        """Size and time of a file, None if there is none."""
        try:
            stat = self._full(path).stat()
        except (FileNotFoundError, NotADirectoryError):
            self.check()
            return None
        except OSError as error:
            self.check()
            raise CopyUnreadable(self._name, path, error.strerror or str(error)) from error
        return FileFacts(stat.st_size, stat.st_mtime_ns)

    def digest(self, path: str) -> Digests | None:
        """Digest a file from the disk, None if there is none."""
        try:
            return read_digests(self._full(path), sync=True)
        except (FileNotFoundError, NotADirectoryError):
            self.check()
            return None
        except OSError as error:
            self.check()
            raise CopyUnreadable(self._name, path, error.strerror or str(error)) from error

    def iterate(self) -> Iterator[str]:
        """All files that should be named by a record; see the contract for what is left out."""
        self.check()
        with unit_errors(self._name, self._path):
            yield from self._walk("", depth=0)

    def _walk(self, folder: str, depth: int) -> Iterator[str]:
        with os.scandir(self._path / folder) as entries:
            for entry in entries:
                path = f"{folder}/{entry.name}" if folder else entry.name
                if depth == 0 and (entry.name in _NOT_OURS or entry.name.startswith(f"{MARKER}.")):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    yield from self._walk(path, depth + 1)
                elif not _is_manifest(path) and not _is_young_part(entry):
                    yield path

    # -- manifests

    def write_manifest(self, study_folder: str, events: Sequence[Event]) -> str:
        """Write a manifest by temporary, sync and rename; returns its path."""
        self.check()
        folder = f"{study_folder}/{_MANIFESTS}"
        path = f"{folder}/{ULID()}.jsonl"
        with unit_errors(self._name, self._path):
            make_folder(self._path / folder, below=self._path)
            temporary = self._path / f"{path}{_PART}"
            with temporary.open("xb") as file:
                file.write(encode_manifest(events))
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(self._path / path)
            sync_folder(self._path / folder)
        self.check()
        return path

    def write_manifests(self, batches: Sequence[tuple[str, Sequence[Event]]]) -> list[str]:
        """Write a manifest for each of several studies at once; returns their paths."""
        return _at_once(lambda batch: self.write_manifest(*batch), batches)

    def manifests(self, study_folder: str) -> list[str]:
        """The manifests of a study, oldest first (their names are ULIDs).

        What a kill cut off while one was written told nobody anything; it goes after a day.
        """
        folder = f"{study_folder}/{_MANIFESTS}"
        with unit_errors(self._name, self._path):
            try:
                names = os.listdir(self._full(folder))  # noqa: PTH208 - names only, no Path for each
            except FileNotFoundError:
                self.check()
                return []
        if any(name.endswith(_CUT_MANIFEST) for name in names):
            _remove_old(self._path / folder, _CUT_MANIFEST)
        return [f"{folder}/{name}" for name in sorted(names) if name.endswith(".jsonl")]

    def read_manifest(self, path: str) -> Manifest:
        """Read a manifest; damaged lines are told, not raised."""
        with unit_errors(self._name, self._path):
            return decode_manifest(self._full(path).read_bytes())

    def study_folders(self) -> Iterator[StudyFolder]:
        """All folders of studies that have manifests."""
        self.check()
        with unit_errors(self._name, self._path), os.scandir(self._path) as shards:
            for shard in shards:
                if len(shard.name) != 2 or not shard.is_dir(follow_symlinks=False):
                    continue
                with os.scandir(shard.path) as studies:
                    for study in studies:
                        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                            changed = (Path(study.path) / _MANIFESTS).stat().st_mtime
                            yield StudyFolder(f"{shard.name}/{study.name}", changed)

    def sweep(self) -> int:
        """Remove what killed copies left in the staging folder, and of the marker, more than a day ago.

        Of a manifest that is done when its study's manifests are listed.
        """
        return _remove_old(self._path / STAGING, _PART) + _remove_old(self._path, ".tmp", f"{MARKER}.")

    def _full(self, path: str) -> Path:
        if not is_inside(path):
            raise CopyUnreadable(self._name, path, "the path leads outside the unit")
        return self._path / path


def _at_once(work: Callable[[Item], Result], items: Collection[Item]) -> list[Result]:
    """The results in the order of the items, done by several threads; the first error is raised when all ended."""
    if len(items) < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(min(_AT_ONCE, len(items)), thread_name_prefix="unit") as threads:
        return list(threads.map(work, items))


class _Verdict(Enum):
    same = "same"
    damaged = "damaged"
    other = "other"


def _is_manifest(path: str) -> bool:
    parts = path.split("/")
    return len(parts) == 4 and parts[2] == _MANIFESTS and path.endswith((".jsonl", _CUT_MANIFEST))


def _remove_old(folder: Path, suffix: str, prefix: str = "") -> int:
    """Remove temporary files of ours that are older than a day; what cannot be removed stays for the next time."""
    removed = 0
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(prefix) and entry.name.endswith(suffix) and not _is_young(entry):
                Path(entry.path).unlink(missing_ok=True)
                removed += 1
    return removed


def _is_young_part(entry: "os.DirEntry[str]") -> bool:
    return entry.name.endswith(_PART) and _is_young(entry)


def _is_young(entry: "os.DirEntry[str]") -> bool:
    try:
        return time.time() - entry.stat(follow_symlinks=False).st_mtime < _OLD_SECONDS
    except FileNotFoundError:
        return True
