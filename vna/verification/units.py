"""A whole storage unit against the catalog, in flat memory however large it is."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from itertools import islice

from vna.catalog import Catalog, CopyFacts, HeldCopy
from vna.spool import Spool
from vna.storage import StorageUnit
from vna.verification.copies import digest_copy, look_at_copy

LEVELS = ("exists", "size", "checksum")
MOST_PROBLEMS = 1000
_BATCH = 500
_WHAT = {
    "missing": "is missing",
    "differing_size": "has another size than was stored",
    "differing_checksum": "has another content than was stored, or cannot be read",
}


@dataclass
class UnitReport:
    """How many copies were looked at and what was found of them; `orphaned` files are not among `checked`.

    `problems` holds a sentence for each of the first thousand findings and one that counts the others.
    """

    checked: int = 0
    ok: int = 0
    missing: int = 0
    differing_size: int = 0
    differing_checksum: int = 0
    orphaned: int = 0
    problems: list[str] = field(default_factory=list[str])
    _untold: int = 0

    def tell(self, sentence: str) -> None:
        """Add a problem, within the limit."""
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(sentence)
        else:
            self._untold += 1

    def close(self) -> None:
        """Say how many problems were not told one by one."""
        if self._untold:
            self.problems.append(f"… and {self._untold} more problems of this kind.")
            self._untold = 0


def verify_unit(
    unit: StorageUnit, catalog: Catalog, level: str = "checksum", spool: Spool | None = None
) -> UnitReport:
    """Look at every copy the catalog has on this unit, then for files that no record names.

    `level`: exists = the file is there; size = and has the size that was stored; checksum = and both digests,
    read from the disk. What is found is written to the catalog. A damaged file that a good copy has replaced
    is passed over. With a `spool`, a file whose twin still waits there to be indexed is no orphan.
    Raises `UnitUnavailable`, `CatalogUnavailable`.
    """
    if level not in LEVELS:
        raise ValueError(f"level is one of {', '.join(LEVELS)}, not {level!r}")
    unit.check()
    report = UnitReport()
    for page in catalog.copies(unit.name):
        changed: list[CopyFacts] = []
        for copy in page:
            found = _look(unit, copy, level)
            _count(report, unit.name, copy, found)
            if (found.status, found.mtime_ns) != (copy.status, copy.mtime_ns) and (
                level == "checksum" or found.status != "ok"
            ):
                changed.append(found)
        catalog.set_status(unit.name, changed)
    for path in orphans(unit, catalog, spool):
        report.orphaned += 1
        report.tell(f"Storage unit {unit.name}: {path} is named by no record.")
    if level == "checksum":
        _check_manifests(unit, catalog, report)
    report.close()
    return report


def _look(unit: StorageUnit, copy: HeldCopy, level: str) -> CopyFacts:
    if level == "checksum":
        return digest_copy(unit, copy)
    facts = unit.stat(copy.path)
    if facts is None:
        return CopyFacts(copy.path, "missing", copy.mtime_ns)
    if level == "size" and facts.size != copy.size:
        return CopyFacts(copy.path, "differing_size", copy.mtime_ns)
    if copy.status == "differing_checksum":  # known to be bad: only reading it could say otherwise
        return look_at_copy(unit, copy)
    return CopyFacts(copy.path, "ok", copy.mtime_ns)


def _count(report: UnitReport, unit_name: str, copy: HeldCopy, found: CopyFacts) -> None:
    report.checked += 1
    setattr(report, found.status, getattr(report, found.status) + 1)
    if found.status != "ok":
        report.tell(f"Storage unit {unit_name}: {copy.path} {_WHAT[found.status]}.")


def orphans(unit: StorageUnit, catalog: Catalog, spool: Spool | None = None) -> Iterator[str]:
    """Files of the unit that no record names."""
    files = iter(unit.iterate())
    while batch := list(islice(files, _BATCH)):
        unknown = set(batch) - catalog.known_paths(unit.name, batch)
        if unknown and spool is not None:
            unknown -= _waiting(spool, unknown)
        if unknown:
            # the indexer goes file, catalog, spool: asked in the other order nothing in between is missed
            yield from sorted(unknown - catalog.known_paths(unit.name, unknown))


def _waiting(spool: Spool, paths: Collection[str]) -> set[str]:
    by_sop: dict[str, set[str]] = {}
    for path in paths:
        by_sop.setdefault(sop_of(path), set()).add(path)
    pending = spool.pending(by_sop)
    return {path for sop in pending for path in by_sop[sop]}


def sop_of(path: str) -> str:
    """The SOP Instance UID in a file's name `<UID>.<16 hex>[.n].dcm`, as far as there is one."""
    parts = path.rpartition("/")[2].removesuffix(".dcm").split(".")
    while parts and len(parts[-1]) != 16:
        parts.pop()
    return ".".join(parts[:-1])


def _check_manifests(unit: StorageUnit, catalog: Catalog, report: UnitReport) -> None:
    """Without its manifests a unit no longer explains itself, however good the files are."""
    for study in unit.study_folders():
        there = set(unit.manifests(study.path))
        for path in sorted(catalog.manifests_of(unit.name, study.path) - there):
            report.tell(f"Storage unit {unit.name}: manifest {path} is missing.")
        for path in sorted(there):
            for line, reason in unit.read_manifest(path).damage:
                report.tell(f"Storage unit {unit.name}: manifest {path}, line {line} is damaged ({reason}).")
