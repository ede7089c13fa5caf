"""How a service of ours is told to stop: Ctrl-C or a polite kill."""

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def until_told() -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM sets, also where a shell's background job made us ignore Ctrl-C."""
    stop = threading.Event()
    names = ("SIGINT", "SIGTERM", "SIGBREAK")  # the last is Windows' polite kill
    signals = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in signals}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
