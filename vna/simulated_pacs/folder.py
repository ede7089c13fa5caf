"""The files of a folder as patients, studies, series and instances; only headers are held in memory.

The folder is looked at again when asked, at most for a tenth of the time: files that came, went or changed are
noticed by name, size and time of change. Of two files with the same SOP Instance UID the newer counts.
"""

import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from vna.simulated_pacs.attributes import (
    CHARACTER_SET,
    INSTANCE_NUMBER,
    SERIES_UID,
    SOP_CLASS_UID,
    SOP_INSTANCE_UID,
    STORED,
    STUDY_UID,
    TRANSFER_SYNTAX_UID,
    VRS,
    text_of,
)
from vna.simulated_pacs.elements import (
    DEFLATED,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    Encoding,
    NotElements,
    TooShort,
    end_of_element,
    inflate,
    read_elements,
)

_WANTED = frozenset({CHARACTER_SET, *STORED})
_META_TAGS = frozenset({0x00020000, TRANSFER_SYNTAX_UID})
_FIRST_READ, _LARGEST_HEADER = 1 << 14, 1 << 24
_META = Encoding(False, "<")
_SHARE_OF_TIME = 10


@dataclass(frozen=True, slots=True)
class Stored:
    """One instance: where it is, where its data set begins, and its attributes as text by tag."""

    path: Path
    offset: int
    changed_ns: int
    charset: str
    transfer_syntax_uid: str
    values: Mapping[int, str]

    @property
    def sop_instance_uid(self) -> str:
        return self.values[SOP_INSTANCE_UID]

    @property
    def sop_class_uid(self) -> str:
        return self.values[SOP_CLASS_UID]

    @property
    def study_instance_uid(self) -> str:
        return self.values[STUDY_UID]

    @property
    def order(self) -> tuple[str, int, str]:
        """Series, then instance number, then UID: the order in which a study is sent."""
        number = self.values.get(INSTANCE_NUMBER, "")
        return (
            self.values.get(SERIES_UID, ""),
            int(number) if number.isdecimal() else 0,
            self.sop_instance_uid,
        )


def read_stored(path: Path) -> Stored | None:
    """The header of a file, None if it is no DICOM instance; `OSError` if it cannot be read."""
    changed_ns, size = path.stat().st_mtime_ns, _FIRST_READ
    with path.open("rb") as file:
        data = file.read(size)
        while True:
            try:
                return _stored(path, data, changed_ns, goes_on=len(data) == size)
            except TooShort:
                more = file.read(size * 15) if size < _LARGEST_HEADER else b""
                if not more:
                    return None
                data, size = data + more, size * 16
            except (NotElements, LookupError):
                return None


def _stored(path: Path, data: bytes, changed_ns: int, *, goes_on: bool) -> Stored | None:
    transfer_syntax_uid, offset = _start_of_data_set(data)
    encoding, start = Encoding.of(transfer_syntax_uid), offset
    if transfer_syntax_uid == DEFLATED:
        data, start = inflate(data[offset:], _LARGEST_HEADER), 0
    try:
        raw = read_elements(data, encoding, _WANTED, start=start, goes_on=goes_on)
    except NotElements:  # some files are implicit inside whatever they declare
        encoding = replace(encoding, implicit=True)
        raw = read_elements(data, encoding, _WANTED, start=start, goes_on=goes_on)
    charset = text_of("CS", raw.pop(CHARACTER_SET, b""), "")
    values = {tag: text_of(VRS[tag], value, charset, encoding.order) for tag, value in raw.items()}
    if not all(values.get(tag) for tag in (SOP_CLASS_UID, SOP_INSTANCE_UID, STUDY_UID, SERIES_UID)):
        return None
    return Stored(path, offset, changed_ns, charset, transfer_syntax_uid, values)


def _start_of_data_set(data: bytes) -> tuple[str, int]:
    """(transfer syntax, offset) also of files without File Meta Information (PS3.10 7)."""
    start = 132 if data[128:132] == b"DICM" else 0
    if data[start : start + 2] != b"\2\0":
        if data[start + 1 : start + 2] != b"\0" or not data[start : start + 1]:
            raise NotElements
        vr = data[start + 4 : start + 6]
        return (EXPLICIT_LITTLE if vr.isalpha() and vr.isupper() else IMPLICIT_LITTLE), start
    meta = read_elements(data, _META, _META_TAGS, start=start)
    end = start
    while data[end : end + 2] == b"\2\0":
        end = end_of_element(data, end, _META)
    syntax = meta.get(TRANSFER_SYNTAX_UID, IMPLICIT_LITTLE.encode()).decode("ascii", "replace").strip(" \0")
    return syntax, end


class Study:
    """The instances of one study by SOP Instance UID, and what was computed of them until they change."""

    def __init__(self, study_instance_uid: str) -> None:
        self.study_instance_uid = study_instance_uid
        self.instances: dict[str, Stored] = {}
        self.row: object = None
        self._ordered: list[Stored] = []

    def in_order(self) -> list[Stored]:
        if not self._ordered:
            self._ordered = sorted(self.instances.values(), key=lambda stored: stored.order)
        return self._ordered

    def changed(self) -> None:
        """Forget what was computed; a list that was handed out stays as it is."""
        self.row, self._ordered = None, []


class Folder:
    """All studies below one folder and a temporary one beside it; safe for several threads.

    `changes` holds files that take the place of those in `root` without touching them.
    """

    def __init__(self, root: Path, changes: Path) -> None:
        self._roots = (root, changes)
        self._lock = threading.RLock()
        self._known: dict[str, tuple[int, int, Stored | None]] = {}
        self._copies: dict[str, dict[str, Stored]] = {}
        self._studies: dict[str, Study] = {}
        self._looked_at, self._looking_took = -1e9, 0.0

    @property
    def lock(self) -> threading.RLock:
        """Held by whoever looks at several studies at once."""
        return self._lock

    def studies(self) -> dict[str, Study]:
        """The studies by UID as they are now; use under `lock`."""
        with self._lock:
            if time.monotonic() - self._looked_at >= self._looking_took * _SHARE_OF_TIME:
                self.look_again()
            return self._studies

    def size(self) -> tuple[int, int]:
        """(studies, instances)."""
        with self._lock:
            studies = self.studies()
            return len(studies), sum(len(study.instances) for study in studies.values())

    def look_again(self) -> None:
        """Take up at once what changed on the disk."""
        with self._lock:
            started = time.monotonic()
            seen: set[str] = set()
            for root in self._roots:
                for path, signature in _files(root):
                    seen.add(path)
                    known = self._known.get(path)
                    if known is None or known[:2] != signature:
                        self._take_up(path, signature)
            for path in self._known.keys() - seen:
                self._forget(path)
            self._looked_at = time.monotonic()
            self._looking_took = self._looked_at - started

    def add(self, path: Path) -> None:
        """Take up one file that was just written, without looking at all others."""
        with self._lock:
            stat = path.stat()
            self._take_up(str(path), (stat.st_size, stat.st_mtime_ns))

    def _take_up(self, path: str, signature: tuple[int, int]) -> None:
        self._forget(path)
        try:
            stored = read_stored(Path(path))
        except OSError:  # gone again, or not ours to read: it is not there
            return
        self._known[path] = (*signature, stored)
        if stored is not None:
            copies = self._copies.setdefault(stored.sop_instance_uid, {})
            copies[path] = stored
            self._choose(stored.sop_instance_uid, stored)

    def _forget(self, path: str) -> None:
        stored = self._known.pop(path, (0, 0, None))[2]
        if stored is not None:
            self._copies[stored.sop_instance_uid].pop(path)
            self._choose(stored.sop_instance_uid, stored)

    def _choose(self, uid: str, touched: Stored) -> None:
        """Let the newest copy of an instance count."""
        for candidate in (touched, *self._copies[uid].values()):
            self._remove_from_study(candidate)
        if not self._copies[uid]:
            del self._copies[uid]
            return
        changes = str(self._roots[1])
        newest = max(
            self._copies[uid].values(),
            key=lambda s: (str(s.path).startswith(changes), s.changed_ns, str(s.path)),
        )
        study = self._studies.setdefault(newest.study_instance_uid, Study(newest.study_instance_uid))
        study.instances[uid] = newest
        study.changed()

    def _remove_from_study(self, stored: Stored) -> None:
        study = self._studies.get(stored.study_instance_uid)
        if study is not None and study.instances.pop(stored.sop_instance_uid, None) is not None:
            study.changed()
            if not study.instances:
                del self._studies[stored.study_instance_uid]


def _files(root: Path | str) -> Iterator[tuple[str, tuple[int, int]]]:
    """Every file below a folder with size and time of change; what vanishes meanwhile is left out."""
    try:
        entries: Iterable[os.DirEntry[str]] = list(os.scandir(root))
    except OSError:
        return
    for entry in entries:
        if entry.name.endswith(".part"):
            continue
        try:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(entry.path)
            elif entry.is_file():
                stat = entry.stat()
                yield entry.path, (stat.st_size, stat.st_mtime_ns)
        except OSError:
            continue
