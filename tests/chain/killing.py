"""A backup of 60 studies during which one process is killed, and what must be true after the next run."""

import contextlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chain.arranging import (
    ASSOCIATIONS,
    ROOT,
    Flow,
    Place,
    children,
    command_of,
    digests_of,
    eventually,
    indexer_of,
    is_alive,
    kill_hard,
    stop,
)
from vna.platform import spawn_bound
from vna.simulated_pacs import GeneratedStudy, SimulatedPacs, write_studies
from vna.site import load_site

STUDIES = 60
INSTANCES = 2
SOURCE = "source"


@dataclass(frozen=True)
class Kill:
    """Who is killed where: `process` reaches `boundary` for the `nth` time. `by` = C-MOVE or C-GET.

    `indexed_by`: the server's indexer child, or the flow that helps itself.
    """

    process: str
    boundary: str
    by: str = "move"
    nth: int = 7
    indexed_by: str = "scp"

    def __str__(self) -> str:
        return f"{self.process}-{self.boundary}-{self.by}"


class Rehearsal:
    """One home, one source of 60 small studies."""

    def __init__(self, folder: Path, api_url: str, by: str, *, seed: int = 1, **more: str) -> None:
        self.folder, self.by = folder, by
        self.studies: list[GeneratedStudy] = write_studies(
            folder / "source", STUDIES, instances=INSTANCES, seed=seed, size_bytes=512
        )
        self.place = Place(folder / "home", api_url, more=more)
        self.pacs = self.place.pacs(folder / "source")
        self.once = folder / "killed"

    @contextlib.contextmanager
    def open(self) -> "Iterator[Rehearsal]":
        with self.pacs:
            self.place.know(SOURCE, self.pacs.port, by=self.by)
            yield self

    @property
    def kill_once(self) -> dict[str, str]:
        return {"BACKUPDR_KILL_ONCE": str(self.once)}

    def finish_and_check(self, in_flight: int = ASSOCIATIONS) -> dict[str, Any]:
        """The next run needs no hand and loses, doubles and leaves nothing."""
        outcome = self.place.retrieve(SOURCE)
        assert outcome["state"] == "completed", outcome
        assert (outcome["found"], outcome["complete"]) == (STUDIES, STUDIES), outcome
        check(self.place, self.pacs, self.studies, in_flight)
        return outcome


def check(
    place: Place,
    pacs: SimulatedPacs,
    studies: list[GeneratedStudy],
    in_flight: int = ASSOCIATIONS,
    unit: str = "default",
) -> None:
    """Nothing acknowledged is missing, nothing was acknowledged twice, and little was sent twice.

    What was on its way at a kill may be sent again, once for each association.
    """
    expected = digests_of(studies)
    stored = place.stored(unit)
    lost = {uid for uid in pacs.acknowledged if stored.get(uid) != expected[uid]}
    assert not lost, f"acknowledged and not in the unit: {lost}"
    assert stored == expected
    twice = {uid: times for uid, times in pacs.acknowledged.items() if times > 1}
    assert not twice, f"pulled again though acknowledged: {twice}"
    again = sum(pacs.sent.values()) - len(expected)
    assert again <= in_flight, f"{again} instances sent again, {in_flight} were in flight"
    place.assert_sound(unit)
    assert eventually(lambda: place.rubbish() == [], 15), place.rubbish()


def backup_killed_at(kill: Kill, folder: Path, api_url: str) -> None:
    """A backup in which `kill` happens, the next run, and all that must hold then."""
    rehearsal = Rehearsal(folder, api_url, kill.by, CHAIN_BATCHES="1")
    with rehearsal.open():
        place = rehearsal.place
        deadly = {**rehearsal.kill_once, "BACKUPDR_KILL_AT": f"{kill.boundary}:{kill.nth}"}
        in_scp = kill.process in {"scp", "indexer"}
        with contextlib.ExitStack() as leaving:
            if kill.indexed_by == "scp":
                leaving.enter_context(place.scp(**(deadly if in_scp else {})))
            with place.flow(**({} if in_scp else deadly)) as flow:
                flow.ask(SOURCE)
                if in_scp:
                    flow.answer()
                else:
                    assert flow.process.wait(120) == -9, "the flow ended by itself"
            assert rehearsal.once.exists(), f"{kill.boundary} was never reached"
            rehearsal.finish_and_check()


@dataclass
class Moment:
    """A kill of one process some seconds after the source had so many instances acknowledged.

    Counted by the run's own progress, so that it falls into the run on a slow machine and on a quick one.
    """

    victim: str
    instances: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.victim} {self.seconds:.2f} s after {self.instances} instances"


def random_moment(chance: random.Random, by: str) -> Moment:
    victims = ("flow", "flow", "indexer") if by == "get" else ("flow", "scp", "indexer")
    longest = STUDIES * INSTANCES - 20
    return Moment(chance.choice(victims), chance.randrange(longest), chance.uniform(0.0, 0.4))


def backup_killed_after(moment: Moment, folder: Path, api_url: str, by: str) -> None:
    """The same at a moment that no boundary names."""
    with Rehearsal(folder, api_url, by).open() as rehearsal, rehearsal.place.scp() as scp:
        pacs = rehearsal.pacs
        with rehearsal.place.flow() as flow:
            flow.wait_until_ready()
            flow.ask(SOURCE)
            reached = eventually(lambda: sum(pacs.acknowledged.values()) >= moment.instances, 120)
            assert reached, "the run did not get that far"
            _kill_after(moment, flow, scp)
            if moment.victim == "flow":
                flow.process.wait(30)
            else:
                flow.answer()
        rehearsal.finish_and_check()


def _kill_after(moment: Moment, flow: Flow, scp: "subprocess.Popen[bytes]") -> None:
    time.sleep(moment.seconds)
    if moment.victim == "flow":
        kill_hard(flow.process.pid)
    elif moment.victim == "scp":
        kill_hard(scp.pid)
    else:
        pid = eventually(lambda: indexer_of(scp), 10)
        assert pid, "there is no indexer"
        kill_hard(pid)


def operate(place: Place, *arguments: str) -> None:
    """Be the operator of a running server, in a process that ends."""
    subprocess.run(
        [sys.executable, "-m", "tests.chain.operating", *arguments],
        env=place.environment(),
        cwd=ROOT,
        check=True,
        timeout=120,
    )


def start_worker(place: Place) -> "subprocess.Popen[bytes]":
    with place.log("worker").open("ab") as log:
        return spawn_bound(
            [sys.executable, "-m", "cli.child", "worker"],
            env=place.environment(),
            stdout=log,
            stderr=log,
            cwd=ROOT,
        )


class Deployment:
    """A run of the deployment and what an operator sees of it."""

    def __init__(self, place: Place, unit: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chain.operating", "run", unit],
            env=place.environment(),
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )

    def end(self) -> dict[str, str]:
        """Its last state."""
        said, _ = self._process.communicate(timeout=150)
        return json.loads(said.splitlines()[-1])

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def backup_with_killed_worker(home: Path, folder: Path, api_url: str, seed: int, after: int = 10) -> None:
    """kill -9 of the worker once `after` instances came, while a run of the deployment is going on.

    `home` is the server's own: a worker takes the runs of the server of its home.
    """
    studies = write_studies(folder / "source", STUDIES, instances=INSTANCES, size_bytes=512, seed=seed)
    place, unit = Place(home, api_url), f"worker-{seed}"
    with place.pacs(folder / "source", "slow=0.08") as pacs, place.scp():
        operate(place, "prepare", pacs.aet, "127.0.0.1", str(pacs.port), unit)
        place.units[unit] = load_site(place.settings).unit(unit)
        worker = start_worker(place)
        first = Deployment(place, unit)
        runs: list[int] = []
        try:
            assert eventually(lambda: sum(pacs.acknowledged.values()) >= after, 60), "the run did not begin"
            runs = [pid for pid in children(worker.pid) if "prefect" in command_of(pid)]
            kill_hard(worker.pid)
            worker.wait()
            assert runs, "the run was no process of the worker's"
            assert sum(pacs.acknowledged.values()) < STUDIES * INSTANCES, "killed too late to prove anything"
            worker = start_worker(place)
            second = Deployment(place, unit).end()
            # the orphaned run may go on or end; by the leases it is one more run over the same studies
            eventually(lambda: not any(map(is_alive, runs)), 60)
        finally:
            first.close()
            stop(worker, 40)
            for pid in filter(is_alive, runs):
                kill_hard(pid)
        assert second["state"] == "COMPLETED", second
        check(place, pacs, studies, unit=unit)
