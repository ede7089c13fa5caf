"""Manifests: what was placed and received, beside the files, one file a batch, written once.

JSON lines, typed by `event`; the last member of each line is the SHA-256 of the line before it, and the first
line tells how many follow, so that a damaged line and a cut file are both seen. The catalog is a function of
the set of manifests: it does not depend on the order in which they are read, or on reading one twice.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import PurePosixPath
from typing import Any, cast

FORMAT = 1
_CHECK = ',"check":"'


@dataclass(frozen=True, slots=True)
class Stored:
    """A version of an instance lies at `path` of this unit, read back with these digests.

    `at` is ISO 8601 in UTC; sizes in bytes; `attributes` maps keyword to text.
    """

    at: str
    path: str
    version_id: str
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    dataset_sha256: str
    header_sha256: str
    header_length: int
    size: int
    mtime_ns: int
    attributes: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Received:
    """How a version came here. `run` is empty for what nobody asked for; `size` in bytes.

    `is_new_version`: another version of the same instance was held before, and this one was not.
    """

    at: str
    version_id: str
    study_instance_uid: str
    sop_instance_uid: str
    run: str
    association: str
    calling_aet: str
    called_aet: str
    peer_address: str
    listener: str
    server: str
    episode: str
    size: int
    is_new_version: bool


@dataclass(frozen=True, slots=True)
class Superseded:
    """The file at `path` was found damaged and stays as it is; `by` is the good copy of the same version.

    The other facts are those of the damaged file as it was found, empty where it could not be read.
    """

    at: str
    path: str
    version_id: str
    by: str
    status: str
    size: int
    mtime_ns: int
    header_length: int
    header_sha256: str


Event = Stored | Received | Superseded
_EVENTS: dict[str, type[Event]] = {"stored": Stored, "received": Received, "superseded": Superseded}
_NAMES: dict[type[Event], str] = {kind: name for name, kind in _EVENTS.items()}


@dataclass(frozen=True, slots=True)
class Manifest:
    """The readable events of a manifest, and what is wrong with the others: (line, reason)."""

    events: tuple[Event, ...]
    damage: tuple[tuple[int, str], ...] = ()

    @property
    def damage_text(self) -> str:
        """What is wrong, as the catalog keeps it; empty if nothing is."""
        return "; ".join(f"line {line}: {reason}" for line, reason in self.damage)


def encode_manifest(events: Sequence[Event]) -> bytes:
    """The text of a manifest."""
    lines = [_line({"event": "batch", "format": FORMAT, "events": len(events)})]
    lines += [_line({"event": _NAMES[type(event)], **_members(event)}) for event in events]
    return "".join(lines).encode("ascii")


def _members(event: Event) -> dict[str, Any]:
    return {part.name: getattr(event, part.name) for part in fields(event)}


def _line(members: Mapping[str, Any]) -> str:
    body = json.dumps(members, separators=(",", ":"))[:-1]  # ASCII: no line break or charset can be inside
    return f'{body}{_CHECK}{hashlib.sha256(body.encode("ascii")).hexdigest()}"}}\n'


def decode_manifest(content: bytes) -> Manifest:
    """Read what can be read; a line that fails its checksum is named and the others count."""
    events: list[Event] = []
    damage: list[tuple[int, str]] = []
    announced: int | None = None
    number = 0
    for number, line in _lines(content):
        try:
            members = _checked(line)
            kind = members.pop("event", None)
            if kind == "batch":
                announced = int(members["events"])
            else:
                events.append(_event(kind, members))
        except (ValueError, KeyError, TypeError) as error:
            damage.append((number, str(error) or type(error).__name__))
    if announced is not None and number - 1 != announced:
        damage.append((number, f"{announced} events announced, {max(number - 1, 0)} there"))
    elif announced is None and not any(line == 1 for line, _ in damage):
        damage.append((1, "the file does not begin as a manifest"))
    return Manifest(tuple(events), tuple(damage))


def _lines(content: bytes) -> Iterator[tuple[int, str]]:
    text = content.decode("ascii", "replace")
    yield from enumerate(text.removesuffix("\n").split("\n"), start=1)


def _checked(line: str) -> dict[str, Any]:
    body, sign, rest = line.rpartition(_CHECK)
    if not sign or rest != hashlib.sha256(body.encode("ascii", "replace")).hexdigest() + '"}':
        raise ValueError("its checksum does not fit")
    return cast(dict[str, Any], json.loads(body + "}"))


def _event(kind: object, members: Mapping[str, Any]) -> Event:
    if not isinstance(kind, str) or kind not in _EVENTS:
        raise ValueError(f"it holds an event of a kind we do not know ({kind!r})")
    shape = _EVENTS[kind]
    known = {part.name for part in fields(shape)}
    event = shape(**{name: value for name, value in members.items() if name in known})
    for path in (getattr(event, "path", "x"), getattr(event, "by", "x")):
        if not is_inside(path):
            raise ValueError("it names a path outside the unit")
    return event


def is_inside(path: str) -> bool:
    """Whether a path stays inside the folder it is relative to."""
    parts = PurePosixPath(path).parts
    return bool(parts) and ".." not in parts and not path.startswith("/") and not set("\\:\0") & set(path)
