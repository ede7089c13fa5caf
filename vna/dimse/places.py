"""How many associations are served at once, in all and of one address."""

import threading
from collections import Counter
from dataclasses import dataclass

from vna.dimse.admission import Reason, Refusal

_FOR_OURSELVES = 2
"""Beyond the limit, for our own question whether we are there: a busy server is not a dead one."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Associations served at once."""

    associations: int
    of_one_address: int


class Places:
    """Who has a place now; used by any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken: Counter[str] = Counter()

    @property
    def taken(self) -> int:
        with self._lock:
            return self._taken.total()

    def take(self, address: str, limits: Limits, *, ourselves: bool = False) -> Refusal | None:
        """Take a place, or say why there is none: for now, so that the peer tries again (PS3.8 table 9-21)."""
        with self._lock:
            taken, here = self._taken.total(), self._taken[address]
            if taken >= limits.associations + (_FOR_OURSELVES if ourselves else 0):
                sentence = f"{limits.associations} associations are open, as many as are served at once"
                return Refusal(2, 3, 2, Reason.limit, sentence)
            if here >= limits.of_one_address and not ourselves:
                sentence = (
                    f"{limits.of_one_address} associations of its address are open, as many as are allowed"
                )
                return Refusal(2, 3, 2, Reason.address_limit, sentence)
            self._taken[address] += 1
            return None

    def give_back(self, address: str) -> None:
        with self._lock:
            self._taken[address] -= 1
            if self._taken[address] <= 0:
                del self._taken[address]
