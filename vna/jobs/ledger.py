"""The run ledger: one row per run and study, and the leases.

`found → planned → moving → verifying → complete | incomplete | failed | excluded`. Written in short
transactions of its own; no session is open while the network is used. A lease is taken for 60 s of the
database's clock and renewed every 15 s; a run on this machine that no longer holds its lock file is dead and
loses its leases at once.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, case, delete, func, literal_column, select, update
from sqlalchemy.engine import Connection, Engine
from sqlmodel import col

from vna.catalog import WRITES, insert_into, table_of
from vna.errors import StudyLeased
from vna.identity import FoundStudy
from vna.jobs.tables import Lease, Run, RunStudy, SourceStudy
from vna.platform import HeldLock, is_locked, take_lock

LEASE_SECONDS = 60.0
RENEW_SECONDS = 15.0

_RUN = table_of(Run)
_STUDY = table_of(RunStudy)
_LEASE = table_of(Lease)
_SOURCE = table_of(SourceStudy)


@dataclass(frozen=True, slots=True)
class LedgerStudy:
    """One study of a run as the ledger knows it."""

    study_instance_uid: str
    attributes: Mapping[str, str]
    state: str
    recheck: bool
    changed: bool
    expected: int
    held: int
    note: str
    last_error: str

    def as_found(self) -> FoundStudy:
        return FoundStudy(self.study_instance_uid, self.attributes)


@dataclass(frozen=True, slots=True)
class Counts:
    """How many studies of a run are in which state, and what is known of their instances."""

    found: int = 0
    complete: int = 0
    incomplete: int = 0
    excluded: int = 0
    changed: int = 0
    held: int = 0
    expected: int = 0

    @property
    def done(self) -> int:
        return self.complete + self.incomplete


def run_lock_path(home: Path, run_id: str) -> Path:
    return home / "runs" / f"{run_id}.lock"


class Ledger:
    """Reading and writing the ledger of one catalog database."""

    def __init__(self, engine: Engine, home: Path) -> None:
        self._engine = engine
        # a transaction that reads before it writes must own the database from its start, or SQLite refuses it
        self._writing = engine.execution_options(**WRITES)
        self._home = home

    # -- runs

    def begin(self, run_id: str, source: str, unit: str, request: Mapping[str, Any]) -> bool:
        """Write the run's row; returns whether it was begun before. Then its studies are taken anew, all of them:
        what was complete then may have grown since, and asking for what is held costs only questions.
        """
        row = {
            "run_id": run_id,
            "source": source,
            "unit": unit,
            "request": dict(request),
            "host": socket.gethostname(),
            "started_at": time.time(),
            "ended_at": None,
            "state": "running",
            "sentence": "",
            "error": "",
        }
        with self._writing.begin() as connection:
            known = select(_RUN.c.run_id).where(col(Run.run_id) == run_id)
            begun_before = connection.execute(known).scalar() is not None
            statement = insert_into(connection.dialect.name, _RUN).values(row)
            connection.execute(
                statement.on_conflict_do_update(
                    index_elements=["run_id"], set_={"state": "running", "ended_at": None, "error": ""}
                )
            )
            connection.execute(
                update(_STUDY)
                .where(col(RunStudy.run_id) == run_id)
                .where(col(RunStudy.state) != "excluded")
                .values(**_FRESH)
            )
        return begun_before

    def end(self, run_id: str, state: str, sentence: str, error: str = "") -> None:
        """Close the run's row and give back its leases; `error` = what stopped the run as a whole."""
        with self._writing.begin() as connection:
            connection.execute(
                update(_RUN)
                .where(col(Run.run_id) == run_id)
                .values(state=state, sentence=sentence, error=error, ended_at=time.time())
            )
            connection.execute(delete(_LEASE).where(col(Lease.run_id) == run_id))

    def seconds_and_error(self, run_id: str) -> tuple[float, str] | None:
        """How long an ended run took and what stopped it; None if there is no such run."""
        with self._engine.connect() as connection:
            row = connection.execute(
                select(_RUN.c.started_at, _RUN.c.ended_at, _RUN.c.error).where(col(Run.run_id) == run_id)
            ).one_or_none()
        if row is None:
            return None
        return (row.ended_at or time.time()) - row.started_at, row.error

    # -- studies of a run

    def add_found(self, run_id: str, studies: Iterable[FoundStudy]) -> int:
        """Write found studies, a thousand at a time so that memory stays flat; returns how many are new."""
        added = 0
        batch: list[dict[str, Any]] = []
        for study in studies:
            batch.append(
                {
                    "run_id": run_id,
                    "study_instance_uid": study.study_instance_uid,
                    "attributes": dict(study.attributes),
                    "sort_key": f"{study.get('StudyDate'):8.8} {study.get('StudyTime'):13.13}",
                    **_FRESH,
                    "updated_at": time.time(),
                }
            )
            if len(batch) == 1000:
                added += self._insert_found(batch)
                batch.clear()
        return added + self._insert_found(batch)

    def _insert_found(self, rows: list[dict[str, Any]]) -> int:
        if not rows:
            return 0
        with self._writing.begin() as connection:
            statement = insert_into(connection.dialect.name, _STUDY).on_conflict_do_nothing()
            connection.execute(statement, rows)
        return len(rows)

    def mark(self, run_id: str, study_instance_uids: str | Sequence[str], **values: Any) -> None:
        """Set columns of one or several studies of a run."""
        uids = [study_instance_uids] if isinstance(study_instance_uids, str) else list(study_instance_uids)
        values["updated_at"] = time.time()
        with self._writing.begin() as connection:
            for start in range(0, len(uids), 500):
                connection.execute(
                    update(_STUDY)
                    .where(col(RunStudy.run_id) == run_id)
                    .where(col(RunStudy.study_instance_uid).in_(uids[start : start + 500]))
                    .values(**values)
                )

    def count_attempt(self, run_id: str, study_instance_uid: str) -> None:
        with self._writing.begin() as connection:
            connection.execute(
                update(_STUDY)
                .where(col(RunStudy.run_id) == run_id)
                .where(col(RunStudy.study_instance_uid) == study_instance_uid)
                .values(attempts=col(RunStudy.attempts) + 1, state="moving", updated_at=time.time())
            )

    def studies(self, run_id: str, study_instance_uids: Sequence[str]) -> list[LedgerStudy]:
        """The rows of these studies, in the order asked for."""
        with self._engine.connect() as connection:
            rows = connection.execute(
                select(_STUDY)
                .where(col(RunStudy.run_id) == run_id)
                .where(col(RunStudy.study_instance_uid).in_(study_instance_uids))
            ).mappings()
            known = {row["study_instance_uid"]: _study(row) for row in rows}
        return [known[uid] for uid in study_instance_uids if uid in known]

    def to_do(self, run_id: str, *, descending: bool = False) -> Iterator[LedgerStudy]:
        """Studies not yet done, by study date (undated ones last), fetched in pages."""
        undated = case((col(RunStudy.sort_key).like("        %"), 1), else_=0)
        order = (
            undated,
            col(RunStudy.sort_key).desc() if descending else col(RunStudy.sort_key),
            col(RunStudy.study_instance_uid),
        )
        with self._engine.connect() as connection:  # the list of UIDs alone: some 100 bytes a study
            uids = list(
                connection.execute(
                    select(_STUDY.c.study_instance_uid)
                    .where(col(RunStudy.run_id) == run_id)
                    .where(col(RunStudy.state).not_in(("complete", "incomplete", "failed", "excluded")))
                    .order_by(*order)
                ).scalars()
            )
        for start in range(0, len(uids), 500):
            yield from self.studies(run_id, uids[start : start + 500])

    def counts(self, run_id: str) -> Counts:
        with self._engine.connect() as connection:
            rows = connection.execute(
                select(
                    _STUDY.c.state,
                    func.count(),
                    func.sum(_STUDY.c.held),
                    func.sum(_STUDY.c.expected),
                    func.sum(case((col(RunStudy.changed).is_(True), 1), else_=0)),
                )
                .where(col(RunStudy.run_id) == run_id)
                .group_by(_STUDY.c.state)
            ).all()
        by_state = {row[0]: row for row in rows}

        def count(*states: str) -> int:
            return sum(int(by_state[state][1]) for state in states if state in by_state)

        wanted = [row for state, row in by_state.items() if state != "excluded"]
        return Counts(
            found=sum(int(row[1]) for row in wanted),
            complete=count("complete"),
            incomplete=count("incomplete", "failed"),
            excluded=count("excluded"),
            changed=sum(int(row[4] or 0) for row in wanted),
            held=sum(int(row[2] or 0) for row in wanted),
            expected=sum(int(row[3] or 0) for row in wanted),
        )

    def reasons(self, run_id: str, limit: int) -> list[str]:
        """Why studies are not complete, in the order the run took them."""
        with self._engine.connect() as connection:
            return list(
                connection.execute(
                    select(_STUDY.c.last_error)
                    .where(col(RunStudy.run_id) == run_id)
                    .where(col(RunStudy.state).in_(("incomplete", "failed")))
                    .order_by(_STUDY.c.updated_at)
                    .limit(limit)
                ).scalars()
            )

    def notes(self, run_id: str, limit: int) -> list[str]:
        """What an operator should know of studies although nothing is wrong with them."""
        with self._engine.connect() as connection:
            return list(
                connection.execute(
                    select(_STUDY.c.note)
                    .where(col(RunStudy.run_id) == run_id)
                    .where(col(RunStudy.note) != "")
                    .order_by(_STUDY.c.updated_at)
                    .limit(limit)
                ).scalars()
            )

    # -- leases

    def lease(self, run_id: str, source: str, study_instance_uid: str, wait_seconds: float = 90.0) -> None:
        """Take the right to pull one study; waits while another living run has it, then `StudyLeased`."""
        deadline = time.monotonic() + wait_seconds
        while (holder := self._try_lease(run_id, source, study_instance_uid)) is not None:
            if self._is_dead(holder):
                with self._writing.begin() as connection:
                    connection.execute(delete(_LEASE).where(col(Lease.run_id) == holder))
                continue
            if time.monotonic() >= deadline:
                raise StudyLeased(study_instance_uid, holder)
            time.sleep(0.5)

    def _try_lease(self, run_id: str, source: str, study_instance_uid: str) -> str | None:
        """None if the lease is ours now, else the run that holds it."""
        with self._writing.begin() as connection:
            now = _database_now(connection)
            statement = insert_into(connection.dialect.name, _LEASE).values(
                source=source,
                study_instance_uid=study_instance_uid,
                run_id=run_id,
                expires_at=now + LEASE_SECONDS,
            )
            taken = connection.execute(
                statement.on_conflict_do_update(
                    index_elements=["source", "study_instance_uid"],
                    set_={"run_id": run_id, "expires_at": now + LEASE_SECONDS},
                    where=(col(Lease.expires_at) < now) | (col(Lease.run_id) == run_id),
                ).returning(_LEASE.c.run_id)
            ).scalar()
            if taken is not None:
                return None
            return connection.execute(
                select(_LEASE.c.run_id)
                .where(col(Lease.source) == source)
                .where(col(Lease.study_instance_uid) == study_instance_uid)
            ).scalar()

    def _is_dead(self, run_id: str) -> bool:
        """Known to be gone: begun on this machine and home, and its lock is free."""
        lock = run_lock_path(self._home, run_id)
        return lock.exists() and not is_locked(lock)

    def is_over(self, run_id: str) -> bool:
        """Whether nothing more comes of a run: it ended, or is known to be gone, or nobody knows of it."""
        with self._engine.connect() as connection:
            row = connection.execute(select(_RUN.c.ended_at).where(col(Run.run_id) == run_id)).one_or_none()
        return row is None or row.ended_at is not None or self._is_dead(run_id)

    def release(self, run_id: str, source: str, study_instance_uids: Sequence[str]) -> None:
        with self._writing.begin() as connection:
            connection.execute(
                delete(_LEASE)
                .where(col(Lease.run_id) == run_id)
                .where(col(Lease.source) == source)
                .where(col(Lease.study_instance_uid).in_(study_instance_uids))
            )

    def renew(self, run_id: str) -> None:
        with self._writing.begin() as connection:
            connection.execute(
                update(_LEASE)
                .where(col(Lease.run_id) == run_id)
                .values(expires_at=_database_now(connection) + LEASE_SECONDS)
            )

    def interrupted_runs_of(self, source: str, study_instance_uid: str) -> list[str]:
        """Runs that were moving this study and ended without saying so."""
        with self._engine.connect() as connection:
            runs = connection.execute(
                select(_STUDY.c.run_id)
                .join(_RUN, _RUN.c.run_id == _STUDY.c.run_id)
                .where(col(RunStudy.study_instance_uid) == study_instance_uid)
                .where(col(RunStudy.state) == "moving")
                .where(col(Run.source) == source)
                .where(col(Run.ended_at).is_(None))
            ).scalars()
            return [run for run in runs if self._is_dead(run)]

    # -- what a source said when a study was proven

    def remembered(self, source: str, study_instance_uid: str) -> Mapping[str, Any] | None:
        """The fingerprint of the source's answers when the study was last complete, or None."""
        with self._engine.connect() as connection:
            return connection.execute(
                select(_SOURCE.c.fingerprint)
                .where(col(SourceStudy.source) == source)
                .where(col(SourceStudy.study_instance_uid) == study_instance_uid)
            ).scalar()

    def remember(
        self, source: str, study_instance_uid: str, fingerprint: Mapping[str, Any], *, pulled_whole: bool
    ) -> None:
        now = time.time()
        changed: dict[str, Any] = {"fingerprint": dict(fingerprint), "completed_at": now}
        if pulled_whole:
            changed["pulled_whole_at"] = now
        row = {
            "source": source,
            "study_instance_uid": study_instance_uid,
            "pulled_whole_at": now,
            **changed,
        }
        with self._writing.begin() as connection:
            connection.execute(
                insert_into(connection.dialect.name, _SOURCE)
                .values(row)
                .on_conflict_do_update(index_elements=["source", "study_instance_uid"], set_=changed)
            )

    def mark_rolling_share(self, run_id: str, source: str, percent: float) -> int:
        """Choose the share of this run's known studies that is pulled whole again: longest ago first."""
        if percent <= 0:
            return 0
        with self._writing.begin() as connection:
            known = list(
                connection.execute(
                    select(_STUDY.c.study_instance_uid)
                    .join(
                        _SOURCE,
                        (_SOURCE.c.study_instance_uid == _STUDY.c.study_instance_uid)
                        & (_SOURCE.c.source == source),
                    )
                    .where(col(RunStudy.run_id) == run_id)
                    .where(col(RunStudy.state) == "found")
                    .order_by(_SOURCE.c.pulled_whole_at, _STUDY.c.study_instance_uid)
                ).scalars()
            )
        chosen = known[: -(-len(known) * int(percent * 100) // 10000)]
        self.mark(run_id, chosen, recheck=True)
        return len(chosen)


_FRESH: dict[str, Any] = {
    "state": "found",
    "recheck": False,
    "changed": False,
    "attempts": 0,
    "expected": 0,
    "held": 0,
    "note": "",
    "last_error": "",
}


def _study(row: RowMapping) -> LedgerStudy:
    return LedgerStudy(**{name: row[name] for name in LedgerStudy.__slots__})


def _database_now(connection: Connection) -> float:
    """Seconds since 1970 by the database's clock, the one clock that all runs share."""
    text = (
        "extract(epoch from clock_timestamp())"
        if connection.dialect.name == "postgresql"
        else "(julianday('now') - 2440587.5) * 86400.0"
    )
    now: ColumnElement[float] = literal_column(text)
    return float(connection.execute(select(now)).scalar_one())


class LivingRun:
    """Holds a run's lock file and renews its leases until closed; the system frees the lock if we are killed."""

    def __init__(self, ledger: Ledger, home: Path, run_id: str) -> None:
        self._ledger, self._run_id = ledger, run_id
        path = run_lock_path(home, run_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock: HeldLock | None = take_lock(path)
        if self._lock is None:
            raise StudyLeased("of this run", run_id)
        self._stop = threading.Event()
        self._renewer = threading.Thread(target=self._renew, name="lease-renewal", daemon=True)
        self._renewer.start()

    def _renew(self) -> None:
        while not self._stop.wait(RENEW_SECONDS):
            with contextlib.suppress(Exception):  # a lease that cannot be renewed simply expires
                self._ledger.renew(self._run_id)

    def close(self) -> None:
        self._stop.set()
        self._renewer.join(timeout=5)
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> "LivingRun":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
