"""Measuring by turns, and saying the outcome as a ratio."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

Work = Callable[[], float | None]
"""One measurement. What it returns counts as its seconds; None: the time the call took."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Seconds of several ways to do the same; the first is what the others are compared with."""

    name: str
    sentence: str
    amount: int
    unit: str
    seconds: Mapping[str, Sequence[float]]
    reference: str
    notes: Sequence[str] = field(default_factory=tuple)

    def median(self, way: str) -> float:
        return statistics.median(self.seconds[way])

    def ratio(self, way: str) -> float:
        """Speed as a share of the reference's: above 1 is faster."""
        return self.median(self.reference) / self.median(way)

    def lines(self) -> list[str]:
        """For people: a sentence, then a row for each way."""
        width = max(len(way) for way in self.seconds)
        rows = [
            f"  {way:<{width}}  {self.ratio(way):6.2f}  "
            f"{self.amount / self.median(way):9,.0f} {self.unit}/s  "
            f"({min(values):.2f} to {max(values):.2f} s)"
            for way, values in self.seconds.items()
        ]
        return [f"{self.name}: {self.sentence}", *rows, *(f"  {note}" for note in self.notes)]

    def as_json(self) -> dict[str, object]:
        """For scripts: ratios and rates of each way."""
        return {
            "name": self.name,
            "compared": self.sentence,
            "reference": self.reference,
            "ratio": {way: round(self.ratio(way), 3) for way in self.seconds},
            f"{self.unit}_per_second": {
                way: round(self.amount / self.median(way), 1) for way in self.seconds
            },
            "rounds": {way: len(values) for way, values in self.seconds.items()},
            "notes": list(self.notes),
        }


def by_turns(ways: Mapping[str, Work], rounds: int) -> dict[str, list[float]]:
    """Each way once, then all again: what else the machine does meets all of them alike."""
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(rounds):
        order = list(ways.items())
        for way, work in order if turn % 2 == 0 else reversed(order):
            began = time.perf_counter()
            told = work()
            taken[way].append(time.perf_counter() - began if told is None else told)
    return taken
