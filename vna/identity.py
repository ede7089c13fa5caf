"""The values that name a study, a series, an instance, a version and a copy.

Frozen, free of I/O, and named as the standard names them. What is not known is `None` or missing,
never an invented value. Attribute texts are decoded Unicode; several values are joined by a backslash as
in the data set (PS3.5 6.2).
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

# PS3.5 9.1: at most 64 characters, components of digits divided by dots. Leading zeros in a component
# are not allowed but common in the field and harmless in a path, so they pass.
_UID = re.compile(r"[0-9]+(\.[0-9]+)*\Z")


def is_valid_uid(uid: str) -> bool:
    """Whether `uid` may be used as a UID, and so as a part of a path (PS3.5 9.1, leading zeros forgiven)."""
    return 0 < len(uid) <= 64 and _UID.match(uid) is not None


def safe_name(uid: str) -> str:
    """A path component for any UID from outside: itself when valid, else `invalid-` and 40 hex digits of its
    SHA-256, so that a hostile UID can name nothing but its own safe file.
    """
    if is_valid_uid(uid):
        return uid
    return "invalid-" + hashlib.sha256(uid.encode("utf-8", "surrogateescape")).hexdigest()[:40]


def study_shard(study_instance_uid: str) -> str:
    """Two hex digits that spread studies over 256 folders of a storage unit."""
    return hashlib.sha256(study_instance_uid.encode("utf-8", "surrogateescape")).hexdigest()[:2]


_NO_ATTRIBUTES: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class FoundStudy:
    """One study as a source answered it (PS3.4 C.6.2.1); `attributes` maps keyword to text as returned."""

    study_instance_uid: str
    attributes: Mapping[str, str] = field(default_factory=lambda: _NO_ATTRIBUTES)

    def get(self, keyword: str) -> str:
        """The text of an attribute, empty if the source did not return it."""
        return self.attributes.get(keyword, "")


@dataclass(frozen=True, slots=True)
class FoundInstance:
    """One instance as a source listed it at image level."""

    sop_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str | None = None
    transfer_syntax_uid: str | None = None
    attributes: Mapping[str, str] = field(default_factory=lambda: _NO_ATTRIBUTES)


@dataclass(frozen=True, slots=True)
class Receipt:
    """One instance durably in the spool: what DICOM success was said of.

    `size` counts the whole file, header and data set, in bytes. `association` is the ULID of the spool folder.
    """

    association: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    header_sha256: str
    dataset_sha256: str
    size: int
    file_name: str


@dataclass(frozen=True, slots=True)
class InstanceIdentity:
    """What a data set says it is, and the attributes the catalog keeps of it."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    attributes: Mapping[str, str] = field(default_factory=lambda: _NO_ATTRIBUTES)


def version_id(
    study_instance_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, dataset_sha256: str
) -> str:
    """The name of one version of an instance: 32 hex digits, the same wherever it is computed."""
    text = f"{study_instance_uid}|{sop_instance_uid}|{transfer_syntax_uid}|{dataset_sha256}"
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]
