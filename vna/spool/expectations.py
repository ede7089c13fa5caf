"""What a run said is coming, so that arrivals find their storage unit: `expect/<study>.<run>.json`."""

import contextlib
import dataclasses
import datetime
import hashlib
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vna.identity import safe_name
from vna.spool.durable import make_folder, write_durably

_LEFT_OVER_SECONDS = 3600.0
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
        write_durably(path, json.dumps(values, indent=1).encode())

    def of_study(self, study_instance_uid: str) -> list[Expectation]:
        """Those that have not expired, in the order of their names; a file that cannot be read is passed over."""
        now = datetime.datetime.now(datetime.UTC)
        found: list[Expectation] = []
        for path in self._paths(f"{safe_name(study_instance_uid)}."):
            try:
                expectation = _read(path)
            except (OSError, ValueError):
                continue
            if expectation.study_instance_uid != study_instance_uid:  # 1.2 is the beginning of 1.2.3
                continue
            if expectation.expires > now:
                found.append(expectation)
            else:
                path.unlink(missing_ok=True)
        return found

    def remove(self, study_instance_uid: str, run: str) -> None:
        self._path(study_instance_uid, run).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what killed processes left half-written; an hour is more than any write takes."""
        if not self._folder.is_dir():
            return
        for path in self._folder.glob("*.tmp"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _LEFT_OVER_SECONDS:
                    path.unlink()

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

    def _paths(self, prefix: str) -> list[Path]:
        if not self._folder.is_dir():
            return []
        return sorted(
            path for path in self._folder.iterdir() if path.name.startswith(prefix) and path.suffix == ".json"
        )


def _read(path: Path) -> Expectation:
    values = json.loads(path.read_bytes())
    try:
        expires = datetime.datetime.fromisoformat(values["expires"])
        if expires.tzinfo is None:
            raise ValueError("a time without its zone")
        return Expectation(values["study_instance_uid"], values["run"], values["unit"], expires)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is no expectation") from error
