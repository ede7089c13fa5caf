"""What a receiver has done since it started, for whoever shows it: counts, and the last associations it refused."""

import logging
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from vna.dimse.admission import Reason
from vna.dimse.callers import Caller

_log = logging.getLogger(__name__)

LAST_REFUSALS = 20
REPEAT_SECONDS = 60.0
"""A caller refused for the same reason is logged again after so long: some modalities try each second."""

_REMEMBERED_CALLERS = 256
_LINES = 100
"""Refusals logged in so many seconds at most: who calls by another name each time must not fill the disk either."""


@dataclass(frozen=True, slots=True)
class RefusedAssociation:
    """One that was turned away, or a connection that never asked for an association (then without AE titles)."""

    at: str
    calling_aet: str
    called_aet: str
    address: str
    reason: Reason
    sentence: str


@dataclass(frozen=True, slots=True)
class ReceiverCounts:
    """Since the receiver started. `refused` by reason, `refused_instances` by C-STORE status.

    `waiting` are connections that have not yet said who they are; `last_refused` the newest first. `is_full`: every
    other caller than ourselves is refused until an association ends.
    """

    open_associations: int = 0
    is_full: bool = False
    waiting: int = 0
    accepted: int = 0
    refused: Mapping[Reason, int] = field(default_factory=dict[Reason, int])
    last_refused: tuple[RefusedAssociation, ...] = ()
    received_instances: int = 0
    received_bytes: int = 0
    refused_instances: Mapping[int, int] = field(default_factory=dict[int, int])


class Lines:
    """At most so many lines in a log in so many seconds; used by any thread."""

    def __init__(self, most: int, seconds: float) -> None:
        self._lock = threading.Lock()
        self._most, self._seconds = most, seconds
        self._since, self._written = time.monotonic(), 0

    def take(self) -> bool:
        """Whether one more may be written now."""
        now = time.monotonic()
        with self._lock:
            if now - self._since > self._seconds:
                self._since, self._written = now, 0
            self._written += 1
            return self._written <= self._most


_breaches = Lines(_LINES, REPEAT_SECONDS)


def log_breach(address: object, what: object) -> None:
    """A peer broke PS3.7 or PS3.8. One that does so without end does not fill the log."""
    if _breaches.take():
        _log.warning("%s broke the protocol: %s", address, what)


class Tally:
    """Counts; used by any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._accepted = 0
        self._refused: Counter[Reason] = Counter()
        self._last: deque[RefusedAssociation] = deque(maxlen=LAST_REFUSALS)
        self._logged: OrderedDict[tuple[str, str, Reason], tuple[float, int]] = OrderedDict()
        self._lines = Lines(_LINES, REPEAT_SECONDS)
        self._instances = 0
        self._bytes = 0
        self._refused_instances: Counter[int] = Counter()

    def accepted(self, caller: Caller, withheld: tuple[Reason, str] | None = None) -> None:
        """`withheld`: what it asked for and may not do, which is a refusal too."""
        with self._lock:
            self._accepted += 1
        if withheld is not None:
            self.refused(
                *withheld,
                address=caller.address,
                calling_aet=caller.calling_aet,
                called_aet=caller.called_aet,
            )

    def received(self, size: int) -> None:
        """One instance of `size` bytes is durable."""
        with self._lock:
            self._instances += 1
            self._bytes += size

    def refused_instance(self, status: int) -> None:
        with self._lock:
            self._refused_instances[status] += 1

    def refused(
        self, reason: Reason, sentence: str, *, address: str, calling_aet: str = "", called_aet: str = ""
    ) -> None:
        """An association or connection is turned away; logged once, then now and then with how often."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        entry = RefusedAssociation(now, calling_aet, called_aet, address, reason, sentence)
        with self._lock:
            self._refused[reason] += 1
            self._last.appendleft(entry)
            repeats = self._repeats((calling_aet, address, reason))
        if repeats is None:
            return
        more = f" (and {repeats} times since it was last told)" if repeats else ""
        who = f"{calling_aet} at {address}" if calling_aet else address
        is_accepted = reason in (Reason.no_store, Reason.no_retrieve)
        what = "refused a service" if is_accepted else "turned away"
        _log.warning("%s was %s: %s%s", who, what, sentence, more)

    def _repeats(self, caller: tuple[str, str, Reason]) -> int | None:
        """None: not to be logged now; else how often it was kept quiet since it was logged last."""
        now = time.monotonic()
        logged_at, quiet = self._logged.pop(caller, (None, 0))
        if logged_at is not None and now - logged_at < REPEAT_SECONDS:
            self._logged[caller] = (logged_at, quiet + 1)
            return None
        if not self._lines.take():
            return None
        self._logged[caller] = (now, 0)
        if len(self._logged) > _REMEMBERED_CALLERS:
            self._logged.popitem(last=False)
        return quiet

    def snapshot(self, open_associations: int, waiting: int, *, is_full: bool = False) -> ReceiverCounts:
        with self._lock:
            return ReceiverCounts(
                open_associations=open_associations,
                is_full=is_full,
                waiting=waiting,
                accepted=self._accepted,
                refused=dict(self._refused),
                last_refused=tuple(self._last),
                received_instances=self._instances,
                received_bytes=self._bytes,
                refused_instances=dict(self._refused_instances),
            )
