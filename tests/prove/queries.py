"""C-FIND over 1,000,000 instances in 50,000 studies, on both databases, asked of the server as it runs."""

import contextlib
from pathlib import Path

from benchmarks.peers import Missing
from benchmarks.query import (
    INSTANCES,
    QUERIES,
    STUDIES,
    Population,
    ask,
    fill,
    of_95_percent,
    postgresql,
    queries,
    server,
)
from tests.prove.proof import Impossible, Site

FIRST_SECONDS, WHOLE_SECONDS = 0.1, 0.3
GROWTH_MIB = 30.0


def queries_are_quick(site: Site, database: str, seed: int) -> str:
    """Raise unless 95 % of study-level queries have their first answer in 100 ms and their last in 300 ms, and all
    studies at once come with the first in 100 ms and without more memory.
    """
    with contextlib.ExitStack() as leaving:
        if database == "sqlite":
            url = f"sqlite:///{site.folder / 'catalog.sqlite'}"
        else:
            try:
                url = leaving.enter_context(postgresql())
            except Missing as missing:
                raise Impossible(f"{missing} is not installed") from missing
        population = Population(STUDIES, INSTANCES)
        fill(url, population)
        with server(url, site.folder / "home") as (remote, process):
            timed = ask(remote, list(queries(population, QUERIES, seed)))
            before = _memory_mib(process.pid)
            (everything,) = ask(remote, [("everything", {})])
            grown = _memory_mib(process.pid) - before
    first, whole = of_95_percent([one.first for one in timed]), of_95_percent([one.whole for one in timed])
    assert sum(one.answers for one in timed) > QUERIES  # or nothing would have been looked for
    assert everything.answers == STUDIES
    told = (
        f"95 % of {QUERIES} queries: first answer {first * 1000:.0f} ms, last {whole * 1000:.0f} ms; all {STUDIES} "
        f"studies: first {everything.first * 1000:.0f} ms, all in {everything.whole:.1f} s, {grown:+.1f} MiB"
    )
    assert first < FIRST_SECONDS, told
    assert whole < WHOLE_SECONDS, told
    assert everything.first < FIRST_SECONDS, told
    assert grown < GROWTH_MIB, told
    return told


def _memory_mib(pid: int) -> float:
    """The most a process ever had in memory."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise Impossible("this system does not tell what a process has in memory")
