"""What was acknowledged and cannot be placed: kept once by content, with the reason, until a person decides."""

import contextlib
import dataclasses
import datetime
import errno
import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from vna.checkpoints import checkpoint
from vna.durable import make_folder, write_durably
from vna.errors import DatasetUnreadable
from vna.identity import safe_name
from vna.platform import sync_folder
from vna.spool.associations import AssociationRecord
from vna.spool.header import dataset_offset

_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True, slots=True)
class AsideEntry:
    """One instance set aside; `at` is UTC in ISO 8601, `path` its file, `study_instance_uid` empty if unknown."""

    sop_instance_uid: str
    reason: str
    path: Path
    study_instance_uid: str
    calling_aet: str
    at: str
    association: str = ""


class Aside:
    """The folder `aside/`: `<dataset_sha256>.dcm` beside `<dataset_sha256>.json`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def take(
        self,
        file_path: Path,
        *,
        dataset_sha256: str,
        sop_instance_uid: str,
        reason: str,
        association: AssociationRecord | None,
        study_instance_uid: str,
    ) -> AsideEntry:
        """Move a file here; killed anywhere and done again it ends the same. The reason is durable first."""
        if not _SHA256.match(dataset_sha256):
            raise ValueError(f"{dataset_sha256!r} is no SHA-256 in hex")
        make_folder(self._folder)
        while True:
            target, is_there = self._target(dataset_sha256)
            entry = AsideEntry(
                sop_instance_uid=sop_instance_uid,
                reason=reason,
                path=target,
                study_instance_uid=study_instance_uid,
                calling_aet=association.calling_aet if association else "",
                at=datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds"),
                association=association.ulid if association else "",
            )
            self._describe(entry, dataset_sha256)
            checkpoint("aside.described")
            if is_there or _move(file_path, target):
                break
        sync_folder(self._folder)
        checkpoint("aside.linked")
        if is_there:
            file_path.unlink(missing_ok=True)
        sync_folder(file_path.parent)
        checkpoint("aside.unlinked")
        return entry

    def entries(self) -> list[AsideEntry]:
        """All that is set aside, oldest first; a file whose record is damaged is told with that as its reason."""
        if not self._folder.is_dir():
            return []
        found: list[AsideEntry] = []
        for path in sorted(self._folder.glob("*.json")):
            try:
                entry = self._read(path)
            except (OSError, ValueError):
                file = self._folder / f"{path.name.partition('.')[0]}.dcm"
                entry = AsideEntry(
                    "", f"set aside; the record {path.name} of why is damaged", file, "", "", ""
                )
            if (
                entry.path.exists()
            ):  # else it was described, and its file is still in the association's folder
                found.append(entry)
        return sorted(found, key=lambda entry: entry.at)

    def _target(self, dataset_sha256: str) -> tuple[Path, bool]:
        """The file for this content, and whether it is there, by its digest and not by its name alone."""
        number = 1
        while True:
            distinct = f".{number}" if number > 1 else ""
            target = self._folder / f"{dataset_sha256}{distinct}.dcm"
            if not target.exists():
                return target, False
            if _dataset_digest(target) == dataset_sha256:
                return target, True
            number += 1

    def _describe(self, entry: AsideEntry, dataset_sha256: str) -> None:
        values = dataclasses.asdict(entry) | {"path": entry.path.name}
        path = self._folder / f"{dataset_sha256}.json"
        if path.exists():
            with contextlib.suppress(ValueError):
                if self._read(path).sop_instance_uid != entry.sop_instance_uid:
                    # the same bytes under another UID: both are named, the bytes are kept once
                    path = self._folder / f"{dataset_sha256}.{safe_name(entry.sop_instance_uid)}.json"
        write_durably(path, json.dumps(values, indent=1).encode())

    def _read(self, path: Path) -> AsideEntry:
        values = json.loads(path.read_bytes())
        names = {field.name for field in dataclasses.fields(AsideEntry)}
        try:
            texts = {name: str(value) for name, value in values.items() if name in names}
            return AsideEntry(**texts | {"path": self._folder / Path(texts["path"]).name})  # pyright: ignore[reportArgumentType]
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError("it lacks a field") from error


def _move(source: Path, target: Path) -> bool:
    """Move whatever has the name `source` now; False if another indexer made `target` meanwhile.

    One rename, because a receiver may give the name to the same instance anew at any moment: with a link and an unlink
    one file would come here and another one go.
    """
    if not source.exists():
        return True
    try:
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640))
    except FileExistsError:
        return False
    try:
        source.replace(target)
    except FileNotFoundError:
        target.unlink()
    except OSError as error:
        if error.errno != errno.EXDEV:
            target.unlink()
            raise
        _copy(source, target)
        source.unlink()
    return True


def _copy(source: Path, target: Path) -> None:
    """For a folder `aside` that people put on another disk."""
    temporary = target.with_suffix(f".{os.getpid()}.tmp")
    with source.open("rb") as original, temporary.open("wb") as copy:
        shutil.copyfileobj(original, copy, 2**20)
        copy.flush()
        os.fsync(copy.fileno())
    temporary.replace(target)
    sync_folder(target.parent)


def _dataset_digest(path: Path) -> str:
    """SHA-256 of the data set; of the whole file where its header cannot be told."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        with contextlib.suppress(DatasetUnreadable):
            file.seek(dataset_offset(path))
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()
