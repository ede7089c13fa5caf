"""Children that are started again when they end by themselves, later and later while they do not stay up."""

import contextlib
import logging
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from vna.platform import spawn_bound

_log = logging.getLogger(__name__)

_STEADY_SECONDS = 60.0
_LOOK_SECONDS = 0.1


@dataclass(slots=True)
class Child:
    """One child as it is to run; it ends when its standard input closes, and has `grace_seconds` to do so."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    descriptors: Sequence[int] = ()
    shortest_pause: float = 1.0
    longest_pause: float = 60.0
    grace_seconds: float = 20.0
    on_end: Callable[[int], None] = lambda pid: None
    """Called with the process id of each that ended."""

    _process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)
    _stop: threading.Event = field(default_factory=threading.Event, init=False)
    _keeper: "threading.Thread | None" = field(default=None, init=False)

    @property
    def is_running(self) -> bool:
        process = self._process
        return process is not None and process.poll() is None

    @property
    def is_starting(self) -> bool:
        """Whether it was never there yet; after that, who is not running has ended."""
        return self._process is None

    def end_now(self) -> None:
        """Kill it; only where we end ourselves at once."""
        self._stop.set()
        process = self._process
        if process is not None:
            process.kill()
            self.on_end(process.pid)

    def start(self) -> None:
        self._keeper = threading.Thread(target=self._keep, name=self.name, daemon=True)
        self._keeper.start()

    def ask_to_stop(self) -> None:
        """Close its standard input; it finishes what it has in work."""
        self._stop.set()

    def join(self) -> None:
        """Return once it has ended, killed where it does not end in time."""
        if self._keeper is not None:
            self._keeper.join()

    def _keep(self) -> None:
        pause = self.shortest_pause
        while not self._stop.is_set():
            started = time.monotonic()
            try:
                process = self._process = spawn_bound(
                    list(self.command), env=dict(self.environment), pass_fds=tuple(self.descriptors)
                )
            except OSError as error:  # no memory, no process ids: as bad as one that ends at once
                _log.error("the %s cannot be started (%s); tried again in %g s", self.name, error, pause)
            else:
                while process.poll() is None and not self._stop.wait(_LOOK_SECONDS):
                    pass
                if self._stop.is_set():
                    self._end(process)
                    return
                self.on_end(process.pid)
                if time.monotonic() - started > _STEADY_SECONDS:
                    pause = self.shortest_pause
                words = "the %s ended with code %s; started again in %g s"
                _log.error(words, self.name, process.returncode, pause)
            self._stop.wait(pause)
            pause = min(pause * 2, self.longest_pause)

    def _end(self, process: "subprocess.Popen[bytes]") -> None:
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
        try:
            process.wait(self.grace_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self.on_end(process.pid)


@contextlib.contextmanager
def kept_running(*children: Child) -> Iterator[None]:
    """These children for the block; all are asked to stop before one is waited for."""
    try:
        for child in children:
            child.start()
        yield
    finally:
        for child in children:
            child.ask_to_stop()
        for child in children:
            child.join()
