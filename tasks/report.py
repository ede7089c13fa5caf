"""report: how a run is going, as a live progress artifact and to whoever listens in this process."""

import contextlib
import threading
import time
from collections.abc import Callable, Generator
from typing import cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from vna.jobs.outcome import look_at
from vna.jobs.run import BackupRun

EVERY_SECONDS = 2.0
SPARING = 20

_listeners: list[Callable[[str], None]] = []


@contextlib.contextmanager
def progress_told_to(listener: Callable[[str], None] | None) -> Generator[None]:
    """Tell `listener` the progress sentence of the run that this process makes."""
    if listener is None:
        yield
        return
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


@contextlib.contextmanager
def live_progress(run: BackupRun) -> Generator[None]:
    """Keep a progress artifact of the run up to date until the end; reporting never stops the run.

    Looking at a large run takes time itself, so the pause grows with it.
    """
    began = time.monotonic()
    artifact: UUID | None = None
    with contextlib.suppress(Exception):
        key = f"progress-{run.run_id[:36].lower()}"
        made = create_progress_artifact(0.0, key=key, description="Asking the source for its studies")
        artifact = cast(UUID, made)
    told = ""

    def tell() -> None:
        nonlocal told
        progress = look_at(run, time.monotonic() - began)
        if progress.sentence == told or not progress.studies:
            return
        told = progress.sentence
        for listener in _listeners:
            listener(told)
        if artifact is not None:
            update_progress_artifact(artifact, progress.percent, description=told)

    stop = threading.Event()

    def keep_telling() -> None:
        pause = EVERY_SECONDS
        while not stop.wait(pause):
            looked = time.monotonic()
            with contextlib.suppress(Exception):  # the next look may succeed
                tell()
            pause = max(EVERY_SECONDS, SPARING * (time.monotonic() - looked))

    thread = threading.Thread(target=keep_telling, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=10)
        with contextlib.suppress(Exception):
            tell()
