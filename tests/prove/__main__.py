"""The long proofs: `make prove`, or `python -m tests.prove [--seed N] [--only NAME]`.

Each proof that holds is written to `.prove/state.json`; started again, only the others are made, with the same
seed. When all hold, the next start begins anew with another seed.
"""

import argparse
import json
import random
import shutil
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from deployments.server import start_server, wait_until_healthy, write_server_file
from tests.chain.killing import (
    backup_killed_after,
    backup_with_killed_worker,
    random_moment,
)
from tests.prove.burst import a_burst_is_a_backlog
from tests.prove.day import a_day_passes
from tests.prove.disk import backup_on_a_full_disk
from tests.prove.keeping_up import the_indexer_keeps_up
from tests.prove.memory import memory_is_flat
from tests.prove.proof import Impossible, Proof, Site
from tests.prove.queries import queries_are_quick
from tests.prove.receiver_kills import receiver_survives
from tests.prove.rot import bit_rot_is_found

FOLDER = Path(".prove").absolute()
STATE = FOLDER / "state.json"
KILLS, WORKER_KILLS = 26, 4
RECEIVER_KILLS, KILLS_OF_A_HOME = 200, 50
LONGEST_SECONDS = 3600.0


def kill(number: int, seed: int) -> Proof:
    """One process at one moment, both by chance, by C-MOVE and C-GET in turn."""
    chance = random.Random(f"{seed}-{number}")
    by = ("move", "get")[number % 2]
    moment = random_moment(chance, by)

    def prove(site: Site) -> str:
        backup_killed_after(moment, site.folder, site.api_url, by)
        return f"{moment}, by C-{by.upper()}: the next run completed, nothing lost, nothing twice"

    return Proof(f"kill-{number:02d}", prove)


def worker_kill(number: int, seed: int) -> Proof:
    """The worker while a run of the deployment is going on."""
    chance = random.Random(f"{seed}-worker-{number}")
    after = chance.randrange(1, 40)

    def prove(site: Site) -> str:
        studies_seed = 10_000 + chance.randrange(10**6)
        backup_with_killed_worker(site.server_home, site.folder, site.api_url, studies_seed, after)
        return f"worker after {after} instances: the next run completed, nothing lost, nothing twice"

    return Proof(f"kill-worker-{number}", prove)


def receiver_kills(home: int, seed: int) -> Proof:
    """The DICOM server of one home, again and again, while two modalities send."""
    return Proof(
        f"kill-receiver-{home}",
        lambda site: receiver_survives(site, KILLS_OF_A_HOME, random.Random(f"{seed}-receiver-{home}")),
    )


def all_proofs(seed: int) -> Iterator[Proof]:
    yield Proof("bit-rot", lambda site: bit_rot_is_found(site, seed))
    for left in (True, False):
        name = "reserve" if left else "last-byte"
        yield Proof(f"disk-full-{name}", lambda site, left=left: backup_on_a_full_disk(site, reserve=left))
    for by in ("move", "get"):
        yield Proof(f"memory-{by}", lambda site, by=by: memory_is_flat(site, by))
    for database in ("sqlite", "postgresql"):
        yield Proof(
            f"queries-{database}", lambda site, database=database: queries_are_quick(site, database, seed)
        )
    yield Proof("keeping-up", the_indexer_keeps_up)
    yield Proof("burst", a_burst_is_a_backlog)
    yield Proof("day", lambda site: a_day_passes(site, seed))
    for home in range(RECEIVER_KILLS // KILLS_OF_A_HOME):
        yield receiver_kills(home, seed)
    for number in range(KILLS):
        yield kill(number, seed)
    for number in range(WORKER_KILLS):
        yield worker_kill(number, seed)


def load(seed: int | None) -> dict[str, object]:
    """What is proven already of an unfinished round, or a new round."""
    try:
        state = json.loads(STATE.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        state = {}
    unfinished = state.get("seed") is not None and not state.get("finished")
    if unfinished and seed in (None, state["seed"]):
        return state
    return {"seed": seed if seed is not None else random.SystemRandom().randrange(10**6), "done": {}}


def save(state: dict[str, object]) -> None:
    temporary = STATE.with_suffix(".tmp")
    temporary.write_text(json.dumps(state, indent=1), encoding="utf-8")
    temporary.replace(STATE)


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.prove", description=__doc__)
    parser.add_argument("--seed", type=int, help="for the moments of the kills and the bits that rot")
    parser.add_argument(
        "--only", default="", help="only proofs whose name begins so; proven ones are made again"
    )
    wanted = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    state = load(wanted.seed)
    done: dict[str, str] = state["done"]  # type: ignore[assignment]
    print(f"seed {state['seed']} (again with: make prove ARGS='--seed {state['seed']}')", flush=True)
    proofs = [proof for proof in all_proofs(int(str(state["seed"]))) if proof.name.startswith(wanted.only)]
    if not proofs:
        parser.error(f"there is no proof named {wanted.only}…")
    todo = proofs if wanted.only else [proof for proof in proofs if proof.name not in done]
    if len(todo) < len(proofs):
        print(f"{len(proofs) - len(todo)} of {len(proofs)} were proven before", flush=True)
    failed = make(todo, done, state)
    state["finished"] = not failed and {proof.name for proof in all_proofs(0)} <= done.keys()
    save(state)
    print(
        f"{len(todo) - len(failed)} of {len(todo)} held" + (f"; not: {', '.join(failed)}" if failed else "")
    )
    return 1 if failed else 0


def make(todo: list[Proof], done: dict[str, str], state: dict[str, object]) -> list[str]:
    """Make the proofs one after another; returns the names of those that do not hold."""
    failed: list[str] = []
    began = time.monotonic()
    work = FOLDER / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    server = start_server(work / "server")
    try:
        wait_until_healthy(work / "server", server)
        write_server_file(work / "server", server)
        for proof in todo:
            if time.monotonic() - began > LONGEST_SECONDS - 180:
                print("the hour is over; start again to go on", flush=True)
                failed += [each.name for each in todo[todo.index(proof) :]]
                break
            site = Site(work / proof.name, work / "server", server.api_url)
            site.folder.mkdir()
            started = time.monotonic()
            try:
                said = proof.prove(site)
            except Impossible as reason:
                said = f"skipped: {reason}"
            except Exception:  # whatever it is: the proof does not hold, the others are made
                failed.append(proof.name)
                print(f"NOT PROVEN {proof.name}\n{traceback.format_exc()}", flush=True)
                continue
            done[proof.name] = said
            save(state)
            print(f"{proof.name} ({time.monotonic() - started:.0f} s): {said}", flush=True)
            shutil.rmtree(site.folder, ignore_errors=True)
    finally:
        server.stop()
    return failed


if __name__ == "__main__":
    sys.exit(main())
