"""Listing 10,000 studies: our splitting query beside DCMTK's findscu asking once."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measuring import Comparison, by_turns
from benchmarks.peers import QUICK, free_port, run, serving

STUDIES = 10_000
DAYS = [
    f"{year}{month:02}{day:02}" for year in range(2015, 2025) for month in range(1, 13) for day in (3, 17)
]


def compare(rounds: int) -> Iterator[Comparison]:
    """Ours asks in parts, so that a silent limit of the source cannot cut the list; findscu believes it."""
    from vna.simulated_pacs import write_studies

    with tempfile.TemporaryDirectory(prefix="bench-find-") as text:
        folder = Path(text)
        write_studies(folder / "studies", STUDIES, instances=1, size_bytes=2, dates=DAYS)
        port = free_port()
        command = [sys.executable, "-m", "cli", "simulate-pacs", "--aet", "PEER", "--port", str(port)]
        command += ["--data", str(folder / "studies")]
        with serving(command, port, folder / "pacs.log", {**QUICK, "BACKUPDR_HOME": str(folder / "home")}):
            _require_all(port)
            seconds = by_turns({"findscu": lambda: _findscu(port), "ours": lambda: _ours(port)}, rounds)
    yield Comparison(
        "find",
        f"{STUDIES:,} studies listed from the same simulated PACS with the same keys. Ours splits the query until no "
        f"part could have been cut by a limit, and keeps every answer; findscu asks once and keeps none.",
        STUDIES,
        "studies",
        seconds,
        "findscu",
    )


def _ours(port: int) -> None:
    from vna.dimse import OurNode, SourceGate, find_studies
    from vna.jobs.filters import query_keys
    from vna.settings import load_settings
    from vna.site import RemoteServer

    remote = RemoteServer(name="peer", aet="PEER", host="127.0.0.1", port=port)
    node = OurNode.from_settings(load_settings())
    studies = find_studies(remote, node, query_keys(()), gate=SourceGate(remote), on_progress=lambda _: None)
    found = {study.study_instance_uid for study in studies}
    if len(found) != STUDIES:
        raise RuntimeError(f"ours listed {len(found)} of {STUDIES} studies")


def _keys() -> list[str]:
    from vna.jobs.filters import query_keys

    keywords = {"StudyInstanceUID", "StudyDate", "StudyTime", *query_keys(())}
    keys = ["QueryRetrieveLevel=STUDY", *(f"{keyword}=" for keyword in sorted(keywords))]
    return [text for key in keys for text in ("-k", key)]


def _findscu(port: int) -> None:
    run("findscu", "-S", "-aec", "PEER", "-pdu", "131072", *_keys(), "127.0.0.1", str(port))


def _require_all(port: int) -> None:
    """Once, outside the clock: findscu says how many answers it got only where it prints them."""
    told = subprocess.run(
        [
            "findscu",
            "-v",
            "-S",
            "-aec",
            "PEER",
            "-k",
            "QueryRetrieveLevel=STUDY",
            "-k",
            "StudyInstanceUID=",
            "127.0.0.1",
            str(port),
        ],
        env=QUICK,
        capture_output=True,
        check=True,
        timeout=120,
    )
    answers = (told.stdout + told.stderr).count(b"Find Response")
    if answers < STUDIES:
        raise RuntimeError(f"findscu listed {answers} of {STUDIES} studies")
