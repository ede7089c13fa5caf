"""Reading identities in a bounded child kept warm: what parses a stranger's bytes may die, we do not.

A file that makes the child end, or answer not in time, is tried once more with a fresh child before it is
called unreadable; a child that cannot even start says nothing about files.
"""

import atexit
import contextlib
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vna.catalog import KEYWORDS
from vna.errors import ReaderFailed
from vna.identity import InstanceIdentity, is_valid_uid
from vna.platform import spawn_bound

FILE_SECONDS = 30.0
_START_SECONDS = 60.0
_LONGEST_UID = 128
_AHEAD = 8
"""Paths given to the child before the first is answered; small enough for any pipe."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What was learnt of one file: its identity, or why there is none.

    `command_sop_instance_uid` = the UID of the C-STORE command, from the File Meta. `unreadable`: for good;
    `retry`: the disk failed, not the data.
    """

    path: Path
    identity: InstanceIdentity | None = None
    command_sop_instance_uid: str = ""
    unreadable: str = ""
    retry: str = ""


class _ChildEndedError(Exception):
    """The child is gone or silent while a file was its business."""


class IdentityReader:
    """One warm child; may be used by several threads, one batch at a time."""

    def __init__(self, file_seconds: float = FILE_SECONDS) -> None:
        self._file_seconds = file_seconds
        self._lock = threading.Lock()
        self._child: _Child | None = None

    def read(self, paths: Sequence[Path]) -> list[Reading]:
        """One reading for each path, in their order. Raises `ReaderFailed`."""
        with self._lock:
            readings: list[Reading] = []
            tried_again = False
            while len(readings) < len(paths):
                before = len(readings)
                try:
                    self._read_on(paths, readings, alone=tried_again)
                except _ChildEndedError as error:
                    self._drop()
                    if tried_again and len(readings) == before:
                        readings.append(Reading(paths[before], unreadable=str(error)))
                        tried_again = False
                    else:
                        tried_again = True
                else:
                    tried_again = False
            return readings

    def _read_on(self, paths: Sequence[Path], readings: list[Reading], *, alone: bool) -> None:
        """Append readings until all are done, or of one file alone, or the child ends."""
        child = self._child = self._child or _Child()
        first = len(readings)
        last = first + 1 if alone else len(paths)
        asked = first
        while len(readings) < last:
            while asked < last and asked - len(readings) < _AHEAD:
                child.ask(paths[asked])
                asked += 1
            readings.append(_reading(paths[len(readings)], child.answer(self._file_seconds)))

    def _drop(self) -> None:
        if self._child is not None:
            self._child.end()
            self._child = None

    def close(self) -> None:
        """End the child; the next `read` starts another."""
        with self._lock:
            self._drop()


class _Child:
    """The process and the thread that takes its answers, so that waiting can have an end on every platform."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("reading.py")
        self._process = spawn_bound(
            [sys.executable, "-P", str(script), *KEYWORDS],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._take, name="identity-reader", daemon=True).start()
        try:
            self.answer(_START_SECONDS)
        except _ChildEndedError as error:
            self.end()
            raise ReaderFailed(str(error)) from error

    def _take(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - we asked for a pipe
        with contextlib.suppress(ValueError, OSError):
            for line in self._process.stdout:
                self._answers.put(line)
        self._answers.put(b"")

    def ask(self, path: Path) -> None:
        assert self._process.stdin is not None  # noqa: S101 - we asked for a pipe
        try:
            self._process.stdin.write(json.dumps(str(path)).encode("ascii") + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise _ChildEndedError("reading it ends the process that tries") from error

    def answer(self, seconds: float) -> dict[str, Any]:
        try:
            line = self._answers.get(timeout=seconds)
        except queue.Empty:
            raise _ChildEndedError(f"reading it takes more than {seconds:g} s") from None
        if not line.endswith(b"\n"):
            raise _ChildEndedError("reading it ends the process that tries")
        return json.loads(line)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _reading(path: Path, answer: dict[str, Any]) -> Reading:
    if "retry" in answer:
        return Reading(path, retry=answer["retry"])
    if "error" in answer:
        return Reading(path, unreadable=answer["error"])
    command_sop = answer.pop("command_sop_instance_uid")
    command_class = answer.pop("command_sop_class_uid")
    answer["sop_class_uid"] = answer["sop_class_uid"] or command_class
    identity = InstanceIdentity(**answer)
    return Reading(path, identity, command_sop, unreadable=_objection(identity, command_sop))


def _objection(identity: InstanceIdentity, command_sop: str) -> str:
    """Why a data set that can be read cannot be placed; empty if it can.

    An invalid UID alone is no reason, it is kept under a safe name; one without end is no name of anything.
    """
    uids = {
        "SOP Instance UID": identity.sop_instance_uid,
        "Study Instance UID": identity.study_instance_uid,
        "Series Instance UID": identity.series_instance_uid,
    }
    for name, uid in uids.items():
        if not uid:
            return f"it has no {name}"
        if len(uid) > _LONGEST_UID:
            return f"its {name} has {len(uid)} characters or more"
    if identity.sop_instance_uid != command_sop:
        return "its SOP Instance UID is not the one it was sent under"
    if not is_valid_uid(identity.transfer_syntax_uid):
        return "its transfer syntax is no UID"
    return ""


_shared: IdentityReader | None = None
_sharing = threading.Lock()


def shared_reader() -> IdentityReader:
    """The one reader of this process."""
    global _shared
    with _sharing:
        if _shared is None:
            _shared = IdentityReader()
            atexit.register(_shared.close)
        return _shared
