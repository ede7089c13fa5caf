"""How quickly the simulated PACS works, and what it counts while it does."""

import threading
from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Pace:
    """The wait of the fault `slow`, before every answer and sub-operation; it ends when the server stops."""

    seconds: float
    stopping: threading.Event = field(default_factory=threading.Event)

    def wait(self) -> None:
        if self.seconds:
            self.stopping.wait(self.seconds)


class Counters:
    """What happened so far; all may be read at any time.

    `sent` counts sub-operations by SOP Instance UID, `acknowledged` those answered with Success, `received`
    what was stored to us; `queries` are C-FIND requests, `retrieves` C-MOVE and C-GET requests.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sent: Counter[str] = Counter()
        self._acknowledged: Counter[str] = Counter()
        self._received: Counter[str] = Counter()
        self.queries = self.retrieves = self.associations = 0
        self.open_associations = self.peak_associations = 0

    @property
    def sent(self) -> Counter[str]:
        """As it is now; the copy does not change while it is looked at."""
        with self._lock:
            return self._sent.copy()

    @property
    def acknowledged(self) -> Counter[str]:
        """As it is now."""
        with self._lock:
            return self._acknowledged.copy()

    @property
    def received(self) -> Counter[str]:
        """As it is now."""
        with self._lock:
            return self._received.copy()

    def count_sent(self, sop_instance_uid: str) -> None:
        with self._lock:
            self._sent[sop_instance_uid] += 1

    def count_acknowledged(self, sop_instance_uid: str) -> None:
        with self._lock:
            self._acknowledged[sop_instance_uid] += 1

    def count_received(self, sop_instance_uid: str) -> None:
        with self._lock:
            self._received[sop_instance_uid] += 1

    def count_query(self) -> None:
        with self._lock:
            self.queries += 1

    def count_retrieve(self) -> None:
        with self._lock:
            self.retrieves += 1

    def opened(self) -> None:
        with self._lock:
            self.associations += 1
            self.open_associations += 1
            self.peak_associations = max(self.peak_associations, self.open_associations)

    def closed(self) -> None:
        with self._lock:
            self.open_associations -= 1
