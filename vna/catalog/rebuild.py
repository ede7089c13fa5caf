"""The catalog again, from a storage unit alone: its manifests, and a look at its files."""

from dataclasses import dataclass

from vna.catalog.catalog import Catalog
from vna.storage import Event, StorageUnit
from vna.verification import UnitReport, look_at_copy, orphans

_EVENTS_AT_ONCE = 2000


@dataclass(frozen=True, slots=True)
class RebuildReport:
    """What the catalog knows of the unit after a rebuild; its `str` is the sentence an operator reads."""

    unit: str
    studies: int
    instances: int
    copies: int
    problems: tuple[str, ...]

    def __str__(self) -> str:
        found = (
            f"The catalog knows {self.studies} studies with {self.instances} instances in {self.copies} copies "
            f"on storage unit {self.unit}"
        )
        return f"{found}; {len(self.problems)} problems." if self.problems else f"{found}."


def rebuild_catalog(unit: StorageUnit, catalog: Catalog) -> RebuildReport:
    """Read all manifests of the unit and compare every file they name with what they say of it.

    What the catalog knew before is kept and corrected: a rebuild never forgets a copy that should be there. It
    may be killed and begun again. A file whose size or time of change is not the one in its manifest is
    digested; the others are not read (`verify_unit` at level checksum does that). Runs and leases are no
    part of it. Raises `UnitUnavailable`, `CatalogUnavailable`.
    """
    unit.check()
    report = UnitReport()
    _record_all(unit, catalog, report)
    for page in catalog.copies(unit.name):
        found = [look_at_copy(unit, copy) for copy in page]
        changed = [
            facts
            for facts, copy in zip(found, page, strict=True)
            if (facts.status, facts.mtime_ns) != (copy.status, copy.mtime_ns)
        ]
        catalog.set_status(unit.name, changed)
        for facts in found:
            if facts.status != "ok":
                what = facts.status.replace("_", " ")
                report.tell(f"Storage unit {unit.name}: {facts.path}: {what}.")
    for path in orphans(unit, catalog):
        report.tell(f"Storage unit {unit.name}: {path} is named by no manifest.")
    report.close()
    return RebuildReport(unit.name, *catalog.counts_of(unit.name), tuple(report.problems))


def _record_all(unit: StorageUnit, catalog: Catalog, report: UnitReport) -> None:
    waiting: list[tuple[str, tuple[Event, ...], str]] = []
    events = 0
    for study in unit.study_folders():
        for path in unit.manifests(study.path):
            manifest = unit.read_manifest(path)
            for line, reason in manifest.damage:
                report.tell(f"Storage unit {unit.name}: manifest {path}, line {line} is damaged ({reason}).")
            waiting.append((path, manifest.events, manifest.damage_text))
            events += len(manifest.events) + 1
            if events >= _EVENTS_AT_ONCE:
                catalog.record_many(unit.name, waiting)
                waiting, events = [], 0
    catalog.record_many(unit.name, waiting)
