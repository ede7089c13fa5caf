"""What a run said is coming, so that arrivals find their storage unit: `expect/<study>.<run>.json`.

An expectation holds for what came in an association that was opened before it expired, however much later
that can be placed: while a unit is away its images wait, and must not go elsewhere.
"""

import dataclasses
import datetime
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vna.durable import make_folder, write_durably
from vna.errors import SpoolUnusable
from vna.identity import safe_name
from vna.platform import HeldLock, take_lock

_LOCK_SECONDS = 10.0
_RUN_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")


@dataclass(frozen=True, slots=True)
class Expectation:
    """Instances of this study go to `unit`, because `run` asked for them, until `expires` (aware)."""

    study_instance_uid: str
    run: str
    unit: str
    expires: datetime.datetime


class Expectations:
    """The folder of expectations."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, expectation: Expectation) -> None:
        make_folder(self._folder)
        values = dataclasses.asdict(expectation) | {"expires": expectation.expires.isoformat()}
        path = self._path(expectation.study_instance_uid, expectation.run)
        content = json.dumps(values, indent=1).encode()
        if not path.exists():
            write_durably(path, content)
            return
        lock = self._lock()  # who sweeps has read the old one perhaps, and would take the new one away
        if lock is None:
            raise SpoolUnusable(str(self._folder), "another process does not let go of it")
        with lock:
            write_durably(path, content)

    def of_study(self, study_instance_uid: str, at: float) -> list[Expectation]:
        """Those that had not expired at `at` (seconds since 1970), in the order of their names; a file that
        cannot be read is passed over.
        """
        found: list[Expectation] = []
        for path in self._paths(f"{safe_name(study_instance_uid)}."):
            try:
                expectation = _read(path)
            except (OSError, ValueError):
                continue
            if expectation.study_instance_uid != study_instance_uid:  # 1.2 is the beginning of 1.2.3
                continue
            if expectation.expires.timestamp() > at:
                found.append(expectation)
        return found

    def sweep_expired(self, now: float, oldest: Callable[[], float]) -> int:
        """Remove what expired before `now` and before the oldest association that is still here was opened.

        `oldest` is asked after the expectations were read. Returns how many were removed.
        """
        expired = [path for path in self._paths("") if _has_expired(path, now)]
        if not expired:
            return 0
        since = min(now, oldest())
        removed = 0
        lock = self._lock()
        if lock is None:
            return 0
        with lock:
            for path in expired:
                if _has_expired(path, since):
                    path.unlink(missing_ok=True)
                    removed += 1
        return removed

    def remove(self, study_instance_uid: str, run: str) -> None:
        self._path(study_instance_uid, run).unlink(missing_ok=True)

    def unreadable(self) -> Iterator[Path]:
        for path in self._paths(""):
            try:
                _read(path)
            except FileNotFoundError:
                continue
            except (OSError, ValueError):
                yield path

    def _path(self, study_instance_uid: str, run: str) -> Path:
        run_name = run if _RUN_NAME.match(run) else hashlib.sha256(run.encode()).hexdigest()[:40]
        return self._folder / f"{safe_name(study_instance_uid)}.{run_name}.json"

    def _lock(self) -> HeldLock | None:
        return take_lock(self._folder / "sweep.lock", _LOCK_SECONDS)

    def _paths(self, prefix: str) -> list[Path]:
        try:
            names = os.listdir(self._folder)  # noqa: PTH208 - one study's among those of a whole run
        except FileNotFoundError:
            return []
        ours = (name for name in names if name.startswith(prefix) and name.endswith(".json"))
        return [self._folder / name for name in sorted(ours)]


def _has_expired(path: Path, at: float) -> bool:
    try:
        return _read(path).expires.timestamp() <= at
    except (OSError, ValueError):  # what is damaged is told by `check`, and stays
        return False


def _read(path: Path) -> Expectation:
    values = json.loads(path.read_bytes())
    try:
        expires = datetime.datetime.fromisoformat(values["expires"])
        if expires.tzinfo is None:
            raise ValueError("a time without its zone")
        return Expectation(values["study_instance_uid"], values["run"], values["unit"], expires)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is no expectation") from error
