"""How a run ended and how it goes: the figures and the one sentence an operator reads."""

from dataclasses import dataclass

from vna.catalog import Catalog
from vna.jobs.ledger import Ledger
from vna.jobs.run import BackupRun

MOST_PROBLEMS = 1000


@dataclass(frozen=True, slots=True)
class RetrievalOutcome:
    """The end of a run. `instances`, `bytes` = received in this run; `held` = instances we had already."""

    found: int = 0
    complete: int = 0
    incomplete: int = 0
    instances: int = 0
    bytes: int = 0
    held: int = 0
    seconds: float = 0.0
    changed: int = 0
    excluded: int = 0
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    error: str = ""

    @property
    def ok(self) -> bool:
        """All that was wanted is complete."""
        return not self.error and self.incomplete == 0 and self.complete == self.found

    @property
    def sentence(self) -> str:
        """The one sentence the run ends with."""
        if self.error:
            return self.error
        if self.found == 0:
            return "Nothing found: the source has no study that fits the filters."
        took = f"{self.instances} instances ({size_text(self.bytes)}) received, {self.held} held before"
        if self.ok:
            changed = f"; {self.changed} changed at the source, both versions kept" if self.changed else ""
            return f"All {self.found} studies complete: {took}{changed}."
        first = " ".join(self.problems[:3])
        more = f" … and {len(self.problems) - 3} more." if len(self.problems) > 3 else ""
        return (
            f"{self.found - self.complete} of {self.found} studies incomplete: {first}{more} "
            f"({took}; a retry pulls only what is missing.)"
        )

    def as_json(self) -> dict[str, object]:
        """The object `--json` prints."""
        return {
            "state": "completed" if self.ok else "failed",
            "found": self.found,
            "complete": self.complete,
            "incomplete": self.incomplete,
            "instances": self.instances,
            "bytes": self.bytes,
            "held": self.held,
            "seconds": round(self.seconds, 3),
            "changed": self.changed,
            "excluded": self.excluded,
            "problems": list(self.problems) or ([self.error] if self.error else []),
            "notes": list(self.notes),
            "sentence": self.sentence,
        }


def read_outcome(catalog: Catalog, ledger: Ledger, run_id: str, error: str = "") -> RetrievalOutcome:
    """The outcome of a run by ledger and catalog; what is neither complete nor excluded is incomplete."""
    counts = ledger.counts(run_id)
    instances, received = catalog.run_totals(run_id)
    seconds, kept_error = ledger.seconds_and_error(run_id) or (0.0, f"There is no run {run_id}.")
    return RetrievalOutcome(
        found=counts.found,
        complete=counts.complete,
        incomplete=counts.found - counts.complete,
        instances=instances,
        bytes=received,
        held=counts.held,
        seconds=seconds,
        changed=counts.changed,
        excluded=counts.excluded,
        problems=tuple(ledger.reasons(run_id, MOST_PROBLEMS)),
        notes=tuple(ledger.notes(run_id, MOST_PROBLEMS)),
        error=error or kept_error,
    )


@dataclass(frozen=True, slots=True)
class Progress:
    """One look at a run: how far it is, how fast, how long it may still take."""

    studies: int
    studies_done: int
    instances: int
    bytes: int
    seconds: float

    @property
    def percent(self) -> float:
        return 100.0 * self.studies_done / self.studies if self.studies else 0.0

    @property
    def remaining_seconds(self) -> float | None:
        """By the share of studies done; unknown before the first is."""
        if not self.studies_done:
            return None
        return self.seconds / self.studies_done * (self.studies - self.studies_done)

    @property
    def sentence(self) -> str:
        rate = self.bytes / self.seconds if self.seconds > 0 else 0.0
        rest = self.remaining_seconds
        remaining = f", about {duration_text(rest)} remaining" if rest is not None else ""
        return (
            f"{self.studies_done} of {self.studies} studies, {self.instances} instances, "
            f"{size_text(self.bytes)}, {size_text(rate)}/s{remaining}"
        )


def look_at(run: BackupRun, seconds: float) -> Progress:
    """The progress of an open run that has been going for `seconds`."""
    counts = run.ledger.counts(run.run_id)
    instances, received = run.catalog.run_totals(run.run_id)
    return Progress(counts.found, counts.done, instances, received, seconds)


def size_text(size: float) -> str:
    """Bytes for people: 1.5 GB, 320 kB (powers of ten, as disks are sold)."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def duration_text(seconds: float) -> str:
    """Seconds for people: 45 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
