"""The contract of a storage unit; every kind (local path now) passes the same suite in tests/storage."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from vna.identity import InstanceIdentity, safe_name, study_shard
from vna.storage.digests import Digests
from vna.storage.manifests import Event, Manifest


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file to be stored: where it lies now, what it is, and the content that was received (`size` in bytes)."""

    source: Path
    identity: InstanceIdentity
    dataset_sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class DamagedFile:
    """A file on the unit whose content is not what its name says; `found` None: it cannot be read at all."""

    path: str
    found: Digests | None


@dataclass(frozen=True, slots=True)
class PlacedFile:
    """A file that is stored, durable, and was read back with the right content.

    `path` is relative to the unit, with slashes. `digests` are those of the file on the unit. `was_there` = an
    equal file stood there already. `damaged` = files of this version found with another content; they stay.
    """

    file: NewFile
    path: str
    digests: Digests
    was_there: bool
    damaged: tuple[DamagedFile, ...] = ()


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What the unit tells of a file without reading it: bytes, and time of the last change in ns."""

    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class StudyFolder:
    """One study's folder, relative to the unit, and when a manifest was last added (seconds since 1970)."""

    path: str
    changed_at: float


class StorageUnit(Protocol):
    """One place where copies are kept.

    All methods raise `UnitUnavailable` when the marker file cannot be seen, `UnitNotWritable` when the unit
    refuses to be written, and `DiskFull`. Paths are relative to the unit, with slashes.
    """

    @property
    def name(self) -> str: ...

    @property
    def path(self) -> Path: ...

    def check(self) -> None:
        """Raise `UnitUnavailable` unless the marker file is there."""
        ...

    def put(self, files: Sequence[NewFile]) -> list[PlacedFile]:
        """Store files, make them durable, read them back.

        Raises `SourceDiffers` for a file that is not what was received, `CopyDiffers` when the unit gives back
        something else; then none of the batch counts, and the same call may be made again.
        """
        ...

    def open(self, path: str) -> BinaryIO:
        """Open a stored file for reading; raises `CopyUnreadable`."""
        ...

    def stat(self, path: str) -> FileFacts | None:
        """None if there is no such file."""
        ...

    def digest(self, path: str) -> Digests | None:
        """Read a file from the disk and digest it; None if there is no such file; raises `CopyUnreadable`."""
        ...

    def iterate(self) -> Iterator[str]:
        """All files but marker, manifests (also cut ones) and temporary files younger than a day, in no order,
        streaming.
        """
        ...

    def write_manifest(self, study_folder: str, events: Sequence[Event]) -> str:
        """Write events of one study as a new manifest, durably; returns its path."""
        ...

    def write_manifests(self, batches: Sequence[tuple[str, Sequence[Event]]]) -> list[str]:
        """The same for several studies (folder, events) at once; returns the paths. Where one cannot be written
        the others may be there all the same: they are true, and told to the catalog by a replay.
        """
        ...

    def manifests(self, study_folder: str) -> list[str]:
        """The manifests of a study's folder, oldest first; removes temporary ones that are older than a day."""
        ...

    def read_manifest(self, path: str) -> Manifest: ...

    def study_folders(self) -> Iterator[StudyFolder]:
        """All folders of studies, streaming."""
        ...

    def sweep(self) -> int:
        """Remove temporary files that are older than a day; returns how many."""
        ...


def study_folder_of(study_instance_uid: str) -> str:
    """`<aa>/<StudyInstanceUID>`; an invalid UID gives a safe name."""
    return f"{study_shard(study_instance_uid)}/{safe_name(study_instance_uid)}"


def copy_folder(identity: InstanceIdentity) -> str:
    """`<aa>/<StudyInstanceUID>/<SeriesInstanceUID>`.

    A series can never be called `manifest`, the one other folder of a study: what is no UID is hashed.
    """
    return f"{study_folder_of(identity.study_instance_uid)}/{safe_name(identity.series_instance_uid)}"


def copy_name(sop_instance_uid: str, dataset_sha256: str, further: int = 0) -> str:
    """`<SOPInstanceUID>.<sha16>.dcm`, or with a number where that name is taken by something else."""
    number = f".{further}" if further else ""
    return f"{safe_name(sop_instance_uid)}.{dataset_sha256[:16]}{number}.dcm"
