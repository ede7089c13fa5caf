"""What a long proof is given and what it gives back."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


class Impossible(Exception):
    """This machine does not allow the proof; the message says why."""


@dataclass(frozen=True)
class Site:
    """Where a proof works, and the Prefect server it uses (with its home, for workers)."""

    folder: Path
    server_home: Path
    api_url: str


@dataclass(frozen=True)
class Proof:
    """`prove` returns the sentence that says what was shown, or raises."""

    name: str
    prove: Callable[[Site], str]
