"""The Prefect worker of a machine: takes runs from the work pool, each a process of its own.

Beside it, every 10 s, the site file is published from the blocks and runs whose process is gone are marked.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from prefect.workers.process import ProcessWorker

from deployments.definitions import POOL
from deployments.site import EVERY_SECONDS, publish
from deployments.stale import mark_crashed
from vna.settings import load_settings

STOP_SECONDS = 20.0


def work(home: Path, stop: threading.Event, say: Callable[[str], None]) -> None:
    """Take and run what is scheduled until `stop` is set; runs in work are then ended and marked Crashed."""
    watching = threading.Thread(target=_watch, args=(home, stop, say), name="watch", daemon=True)
    watching.start()
    worker = ProcessWorker(work_pool_name=POOL, name=f"backupdr on {socket.gethostname()}")
    try:
        asyncio.run(_work(worker, stop))
    finally:
        with contextlib.suppress(Exception):  # the server may be gone already; its next start does the same
            mark_crashed(home, ours=0, workers=False)


async def _work(worker: ProcessWorker, stop: threading.Event) -> None:
    working = asyncio.create_task(worker.start(printer=lambda _: None))
    while not stop.is_set() and not working.done():
        await asyncio.sleep(0.2)
    if working.done():
        working.result()  # what ended it is raised here, and the worker is started again by whoever minds it
        return
    working.cancel()
    with contextlib.suppress(asyncio.CancelledError, TimeoutError):
        await asyncio.wait_for(working, STOP_SECONDS)


def _watch(home: Path, stop: threading.Event, say: Callable[[str], None]) -> None:
    settings = load_settings(home=home)
    said: set[str] = set()
    while not stop.is_set():
        try:
            problems = set(publish(settings))
            mark_crashed(home, ours=0, workers=True)
        except Exception as error:  # noqa: BLE001 - the server may be restarting; the next look may succeed
            problems = {f"The settings could not be read from Prefect ({type(error).__name__})."}
        for problem in sorted(problems - said):
            say(problem)
        said = problems
        stop.wait(EVERY_SECONDS)
