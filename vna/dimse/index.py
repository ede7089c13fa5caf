"""What the query, retrieve and commitment services ask of whoever keeps the images.

The catalog implements it for the centre, the router's cache for the router; this room needs no database.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Query:
    """A C-FIND identifier (PS3.4 C.4.1.1.3) or that of a retrieve.

    `level`: PATIENT, STUDY, SERIES or IMAGE. `keys`: keyword to key as sent, several values joined by a backslash,
    empty for universal matching; without QueryRetrieveLevel and SpecificCharacterSet. Keys of an unknown tag are
    not in it.
    """

    level: str
    keys: Mapping[str, str]
    patient_root: bool = False


@dataclass(frozen=True, slots=True)
class HeldFile:
    """One good copy on a mounted storage unit. Sizes in bytes; the data set begins at `header_length`."""

    path: Path
    size: int
    header_length: int
    header_sha256: str
    dataset_sha256: str


@dataclass(frozen=True, slots=True)
class HeldInstance:
    """The current version of an instance we hold; `files` is empty where no good copy can be reached now."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    files: tuple[HeldFile, ...]


class InstanceIndex(Protocol):
    """The images that are kept. Used by several threads at once.

    Each method raises `CatalogUnavailable` where it cannot answer now; an answer is never a guess.
    """

    @property
    def supported_keywords(self) -> Mapping[str, frozenset[str]]:
        """Level to the keywords it matches and returns there; others are answered empty (PS3.4 C.2.2.1.3)."""
        ...

    def matches(self, query: Query) -> Iterator[Mapping[str, str]]:
        """The answers to a query, one mapping of keyword to text for each match, as they are found.

        Each has the keys that were asked for and are supported, and the unique keys of its level and above.
        Matching is PS3.4 C.2.2.2: single value, UID list, wildcard, range, universal; names without regard to case.
        """
        ...

    def held(self, query: Query) -> Iterator[HeldInstance]:
        """The instances a retrieve asks for by its unique keys (PS3.4 C.4.2.1.4.1), in the order of series."""
        ...

    def count(self, query: Query) -> int:
        """How many instances `held` gives."""
        ...

    def syntaxes_held(self) -> Mapping[str, Sequence[str]]:
        """SOP Class UID to the transfer syntaxes its instances are kept in, the commonest first.

        A requester of a C-GET that accepts several in one presentation context gets that which is likely to be
        needed, as nothing is converted. So a sample is enough, and rare classes may be missing.
        """
        ...

    def verified(self, sop_instance_uids: Collection[str]) -> Mapping[str, str]:
        """Those of which a copy was read back and digest-checked and is where it should be, each with its SOP
        Class UID: what storage commitment may be said of (PS3.4 J.3.2.1.3).
        """
        ...
