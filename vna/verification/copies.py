"""Whether copies still are what was read back when they were stored."""

from collections.abc import Mapping, Sequence

from vna.catalog import Catalog, CopyFacts, HeldCopy
from vna.errors import CopyUnreadable
from vna.storage import StorageUnit

_BATCH = 500


def recheck_copies(
    unit: StorageUnit, catalog: Catalog, held: Mapping[str, Sequence[HeldCopy]]
) -> dict[str, str]:
    """SOP Instance UID → `ok`, `missing`, `differing_size` or `differing_checksum`.

    A copy counts when its file has the size and the time of change (ns) it had when its digests were last
    checked; if either differs, or the catalog knows it as bad, it is digested again now and the catalog
    updated. An instance is `ok` when any of its copies is.

    This does not find a disk that changes bytes silently, without touching size or time; that is found by
    `verify_unit` at level checksum. Raises `UnitUnavailable`, `CatalogUnavailable`.
    """
    unit.check()
    status: dict[str, str] = {}
    changed: list[CopyFacts] = []
    for sop_instance_uid, copies in held.items():
        found = [look_at_copy(unit, copy) for copy in copies]
        changed += [
            facts
            for facts, copy in zip(found, copies, strict=True)
            if (facts.status, facts.mtime_ns) != (copy.status, copy.mtime_ns)
        ]
        states = [facts.status for facts in found]
        status[sop_instance_uid] = "ok" if "ok" in states else states[0]
        if len(changed) >= _BATCH:
            catalog.set_status(unit.name, changed)
            changed = []
    catalog.set_status(unit.name, changed)
    return status


def look_at_copy(unit: StorageUnit, copy: HeldCopy) -> CopyFacts:
    """Compare a copy with its record, reading it only if something points to a change."""
    try:
        facts = unit.stat(copy.path)
        if facts is None:
            return CopyFacts(copy.path, "missing", copy.mtime_ns)
        if facts.size != copy.size:
            return CopyFacts(copy.path, "differing_size", copy.mtime_ns)
        if copy.status == "ok" and facts.mtime_ns == copy.mtime_ns:
            return CopyFacts(copy.path, "ok", copy.mtime_ns)
    except CopyUnreadable:
        return CopyFacts(copy.path, "differing_checksum", copy.mtime_ns)
    return digest_copy(unit, copy)


def digest_copy(unit: StorageUnit, copy: HeldCopy) -> CopyFacts:
    """Read a copy from the disk and compare its size and both digests."""
    try:
        found = unit.digest(copy.path)
    except CopyUnreadable:
        return CopyFacts(copy.path, "differing_checksum", copy.mtime_ns)
    if found is None:
        return CopyFacts(copy.path, "missing", copy.mtime_ns)
    if found.size != copy.size:
        return CopyFacts(copy.path, "differing_size", copy.mtime_ns)
    if (found.header_sha256, found.dataset_sha256) != (copy.header_sha256, copy.dataset_sha256):
        return CopyFacts(copy.path, "differing_checksum", copy.mtime_ns)
    return CopyFacts(copy.path, "ok", found.mtime_ns)
