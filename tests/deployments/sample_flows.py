"""Flows that the tests of Prefect's machinery run instead of a backup."""

import time
from pathlib import Path

from filelock import FileLock
from prefect import flow
from prefect.runtime import flow_run


@flow(persist_result=False)
def say_hello(source: str = "main-pacs", unit: str = "default") -> str:
    """Ends at once."""
    return f"{source} {unit}"


@flow(persist_result=False)
def hang(told: str, home: str = "") -> None:
    """Runs until killed; with a home it holds the lock of a living run."""
    if home:
        lock = Path(home) / "runs" / f"{flow_run.get_id()}.lock"
        lock.parent.mkdir(exist_ok=True)
        FileLock(lock).acquire()
    Path(told).write_text(flow_run.get_id() or "", encoding="utf-8")
    time.sleep(600)
