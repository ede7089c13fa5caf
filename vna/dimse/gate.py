"""The limits towards one source: how many associations at once, and how long between two requests."""

import heapq
import threading
import time
from collections.abc import Hashable

from vna.site import RemoteServer


class _Slots:
    """The associations one remote server allows; each is free again `pause` seconds after its last request."""

    def __init__(self, associations: int) -> None:
        self._free_at = [0.0] * associations
        self._changed = threading.Condition()

    def take(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._free_at)
            free_at = heapq.heappop(self._free_at)
        time.sleep(max(0.0, free_at - time.monotonic()))

    def give_back(self, pause: float) -> None:
        with self._changed:
            heapq.heappush(self._free_at, time.monotonic() + pause)
            self._changed.notify()


_slots: dict[Hashable, _Slots] = {}
_making = threading.Lock()


def pause(remote: RemoteServer) -> None:
    """Wait as long as the source wants between two requests on one association."""
    time.sleep(remote.pause_seconds)


class SourceGate:
    """`with gate:` around an association keeps to `remote.associations` and `remote.pause_seconds`.

    All gates of one remote server in this process share its slots, so two runs together do not ask more of it
    than one. A thread must not enter the same gate twice: with one association allowed it would wait for itself.
    """

    def __init__(self, remote: RemoteServer) -> None:
        self._pause = remote.pause_seconds
        key = (remote.name, remote.host, remote.port, remote.aet, remote.associations)
        with _making:
            self._slots = _slots.setdefault(key, _Slots(remote.associations))

    def __enter__(self) -> "SourceGate":
        self._slots.take()
        return self

    def __exit__(self, *_: object) -> None:
        self._slots.give_back(self._pause)
