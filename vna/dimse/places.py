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


class Place:
    """One association's place, from `Places.take` on. Whoever has it gives it back in the end, in a `finally`."""

    def __init__(self, places: "Places", address: str, *, ourselves: bool) -> None:
        self._places: Places | None = places
        self._address = address
        self._ourselves = ourselves
        self._lock = threading.Lock()

    def give_back(self) -> None:
        """Free it; once, however often it is called."""
        with self._lock:
            places, self._places = self._places, None
        if places is not None:
            places._free(self._address, ourselves=self._ourselves)  # pyright: ignore[reportPrivateUsage]


class Places:
    """Who has a place now; used by any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._others: Counter[str] = Counter()
        self._ours = 0

    @property
    def taken(self) -> int:
        with self._lock:
            return self._others.total() + self._ours

    def has_room(self, limits: Limits) -> bool:
        """Whether another caller than ourselves would get a place."""
        with self._lock:
            return self._has_room(limits)

    def take(self, address: str, limits: Limits, *, ourselves: bool = False) -> Place | Refusal:
        """Take a place, or say why there is none: for now, so that the peer tries again (PS3.8 table 9-21)."""
        with self._lock:
            is_free = self._has_room(limits)
            if ourselves:
                is_free = self._others.total() + self._ours < limits.associations + _FOR_OURSELVES
            if not is_free:
                sentence = f"{limits.associations} associations are open, as many as are served at once"
                return Refusal(2, 3, 2, Reason.limit, sentence)
            if not ourselves and self._others[address] >= limits.of_one_address:
                sentence = (
                    f"{limits.of_one_address} associations of its address are open, as many as are allowed"
                )
                return Refusal(2, 3, 2, Reason.address_limit, sentence)
            if ourselves:
                self._ours += 1
            else:
                self._others[address] += 1
        return Place(self, address, ourselves=ourselves)

    def _has_room(self, limits: Limits) -> bool:
        """Our own question takes no place from the others, unless there are more of ours than places for it."""
        return self._others.total() + max(0, self._ours - _FOR_OURSELVES) < limits.associations

    def _free(self, address: str, *, ourselves: bool) -> None:
        with self._lock:
            if ourselves:
                self._ours -= 1
                return
            self._others[address] -= 1
            if self._others[address] <= 0:
                del self._others[address]
