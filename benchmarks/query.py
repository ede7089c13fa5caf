"""C-FIND over a catalog of 1,000,000 instances in 50,000 studies: how long a mixed day of study-level queries takes,
and when the first answer comes, on both databases. There is nobody to compare with: times, not ratios.
"""

import contextlib
import math
import os
import pwd
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measuring import Comparison
from benchmarks.peers import QUICK, Missing, free_port, serving
from vna.catalog import Catalog
from vna.dimse import OurNode
from vna.dimse.querying import querying
from vna.identity import version_id
from vna.site import RemoteServer
from vna.storage import Event, Received, Stored

STUDIES, INSTANCES = 50_000, 1_000_000
QUERIES = 200
RETURNED = (
    *(
        "StudyInstanceUID",
        "PatientID",
        "PatientName",
        "PatientBirthDate",
        "PatientSex",
        "StudyDate",
        "StudyTime",
    ),
    *("AccessionNumber", "StudyID", "StudyDescription", "ReferringPhysicianName", "ModalitiesInStudy"),
    *("NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances"),
)
_BEGINS = (
    "Ab",
    "Ber",
    "Cas",
    "Dor",
    "El",
    "Fen",
    "Gar",
    "Hol",
    "In",
    "Jan",
    "Kar",
    "Lam",
    "Mor",
    "Nel",
    "Ost",
    "Pet",
    "Quin",
    "Ros",
    "Sal",
    "Tor",
    "Ul",
    "Ver",
    "Wag",
    "Yor",
    "Zim",
)
_ENDS = (
    "ach",
    "berg",
    "dal",
    "el",
    "feld",
    "gren",
    "hoff",
    "ina",
    "kamp",
    "lund",
    "mann",
    "nik",
    "old",
    "pers",
    "rup",
    "sen",
    "ter",
    "und",
    "vik",
    "wald",
)
_GIVEN = (
    "Anna",
    "Bo",
    "Carla",
    "Dirk",
    "Eva",
    "Finn",
    "Gül",
    "Hans",
    "Ida",
    "Jörg",
    "Kim",
    "Lea",
    "Max",
    "Nora",
    "Olaf",
    "Pia",
    "Rolf",
    "Sara",
    "Tom",
    "Uma",
)
_MODALITIES = ("CT", "MR", "CR", "DX", "US", "MG", "PT", "XA", "NM")
_WEIGHTS = (30, 18, 15, 15, 12, 4, 3, 2, 1)
_PARTS = ("Thorax", "Schädel", "Abdomen", "Knie", "LWS", "Herz", "Becken")
_CT = "1.2.840.10008.5.1.4.1.1.2"


@dataclass(frozen=True, slots=True)
class Population:
    """A catalog's studies, made by chance from a seed: the same again for the same numbers."""

    studies: int
    instances: int
    seed: int = 5

    def attributes(self, number: int) -> dict[str, str]:
        """Of a study: its patient has 2.5 studies on average."""
        patient = random.Random(f"{self.seed}-patient-{number * 2 // 5}")
        own = random.Random(f"{self.seed}-study-{number}")
        family = f"{patient.choice(_BEGINS)}{patient.choice(_ENDS)}{patient.choice(_ENDS)}"
        name = f"{family}^{patient.choice(_GIVEN)}"
        if patient.random() < 0.02:
            name += "=山田^太郎=やまだ^たろう"
        return {
            "PatientID": f"PAT{number * 2 // 5:07d}",
            "PatientName": name,
            "PatientBirthDate": _day(patient, 1930, 2015),
            "PatientSex": patient.choice("MFO"),
            "StudyDate": _day(own, 2015, 2025),
            "StudyTime": _time(own),
            "StudyID": str(number % 10_000),
            "StudyDescription": f"{own.choice(_PARTS)} {own.choice(('nativ', 'mit KM', 'Kontrolle'))}",
            "AccessionNumber": f"A{number:09d}",
            "ReferringPhysicianName": f"{own.choice(_BEGINS)}{own.choice(_ENDS)}^{own.choice(_GIVEN)}",
        }

    def events(self, number: int) -> list[Event]:
        """All that a manifest tells of a study: one in five has several modalities, one to four series."""
        own = random.Random(f"{self.seed}-content-{number}")
        study = f"1.2.826.0.1.3680043.9.7433.1.{self.seed}.{number}"
        count = max(self.instances // self.studies + own.randrange(-5, 6), 1)
        attributes = self.attributes(number)
        modalities = own.choices(_MODALITIES, _WEIGHTS, k=2 if own.random() < 0.2 else 1)
        series = own.randrange(1, 5)
        at = f"2025-01-01T{number // 3600 % 24:02}:{number // 60 % 60:02}:{number % 60:02}.{number:06d}Z"
        events: list[Event] = []
        for instance in range(count):
            of_series = instance % series
            sop = f"{study}.{of_series}.{instance}"
            version = version_id(study, sop, "1.2.840.10008.1.2.1", "0" * 64)
            events.append(
                Stored(
                    at=at,
                    path=f"aa/{study}/{study}.{of_series}/{sop}.0000000000000000.dcm",
                    version_id=version,
                    study_instance_uid=study,
                    series_instance_uid=f"{study}.{of_series}",
                    sop_instance_uid=sop,
                    sop_class_uid=_CT,
                    transfer_syntax_uid="1.2.840.10008.1.2.1",
                    dataset_sha256="0" * 64,
                    header_sha256="0" * 64,
                    header_length=344,
                    size=525_000,
                    mtime_ns=1,
                    attributes={
                        **attributes,
                        "Modality": modalities[of_series % len(modalities)],
                        "SeriesNumber": str(of_series + 1),
                        "SeriesDescription": f"Serie {of_series + 1}",
                        "SeriesDate": attributes["StudyDate"],
                        "Manufacturer": "Example",
                        "StationName": f"ROOM{number % 9}",
                        "InstanceNumber": str(instance + 1),
                        "Rows": "512",
                        "Columns": "512",
                        "BitsAllocated": "16",
                    },
                )
            )
            events.append(
                Received(
                    at=at,
                    version_id=version,
                    study_instance_uid=study,
                    sop_instance_uid=sop,
                    run="",
                    association=f"{number:026d}",
                    calling_aet="CT1",
                    called_aet="BACKUPDR",
                    peer_address="192.0.2.1",
                    listener="scp",
                    server="",
                    episode="",
                    size=525_000,
                    is_new_version=False,
                )
            )
        return events

    def fill(self, catalog: Catalog) -> None:
        """Record all studies, as an indexer that catches up would."""
        waiting: list[tuple[str, list[Event], str]] = []
        for number in range(self.studies):
            waiting.append((f"aa/{number}/manifest/1.jsonl", self.events(number), ""))
            if len(waiting) == 100:
                catalog.record_many("default", waiting)
                waiting = []
        catalog.record_many("default", waiting)


def _day(chance: random.Random, first: int, last: int) -> str:
    return f"{chance.randrange(first, last)}{chance.randrange(1, 13):02}{chance.randrange(1, 29):02}"


def _time(chance: random.Random) -> str:
    hour, minute, second = chance.randrange(7, 19), chance.randrange(60), chance.randrange(60)
    return f"{hour:02}{minute:02}{second:02}.{chance.randrange(1000):03}"


def queries(population: Population, count: int, seed: int) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Study-level queries as workstations, gateways and people ask them: (kind, keys)."""
    chance = random.Random(seed)
    kinds = {
        "patient ID": 20,
        "accession number": 15,
        "name": 10,
        "beginning of a name": 12,
        "day": 8,
        "day and modality": 12,
        "week and modality": 5,
        "hours of a day": 5,
        "month and referring physician": 3,
        "month and part of description": 3,
        "study UIDs": 3,
        "part of a name": 2,
        "birth date and sex": 2,
    }
    for _ in range(count):
        (kind,) = chance.choices([*kinds], [*kinds.values()])
        yield kind, _keys(kind, chance, population)


def _keys(kind: str, chance: random.Random, population: Population) -> dict[str, str]:
    number = chance.randrange(population.studies)
    of = population.attributes(number)
    day, family = of["StudyDate"], of["PatientName"].split("^")[0]
    month = f"{day[:6]}01-{day[:6]}31"
    modality = chance.choices(_MODALITIES, _WEIGHTS)[0]
    week = f"{day}-{int(day[:6] + '28') if int(day[6:]) > 21 else int(day) + 6}"
    return {
        "patient ID": {"PatientID": of["PatientID"]},
        "accession number": {"AccessionNumber": of["AccessionNumber"]},
        "name": {"PatientName": of["PatientName"].split("=")[0].upper()},
        "beginning of a name": {"PatientName": f"{family[:-1].lower()}*"},
        "day": {"StudyDate": day},
        "day and modality": {"StudyDate": day, "ModalitiesInStudy": modality},
        "week and modality": {"StudyDate": week, "ModalitiesInStudy": modality},
        "hours of a day": {"StudyDate": day, "StudyTime": "080000-115959"},
        "month and referring physician": {
            "StudyDate": month,
            "ReferringPhysicianName": of["ReferringPhysicianName"].split("^")[0] + "*",
        },
        "month and part of description": {"StudyDate": month, "StudyDescription": "*Herz*"},
        "study UIDs": {
            "StudyInstanceUID": "\\".join(
                f"1.2.826.0.1.3680043.9.7433.1.{population.seed}.{chance.randrange(population.studies)}"
                for _ in range(10)
            )
        },
        "part of a name": {"PatientName": f"*{family[1:-1].upper()}*"},
        "birth date and sex": {"PatientBirthDate": of["PatientBirthDate"], "PatientSex": of["PatientSex"]},
    }[kind]


# -- asking the server as it runs


@dataclass(frozen=True, slots=True)
class Timed:
    """One query: seconds until its first answer (or its end, where there is none), until its end, and answers."""

    kind: str
    first: float
    whole: float
    answers: int


@contextlib.contextmanager
def server(catalog_url: str, folder: Path) -> Iterator[tuple[RemoteServer, "subprocess.Popen[bytes]"]]:
    """The DICOM server as it runs, over a catalog that is filled already."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    settings = {
        "BACKUPDR_HOME": str(folder),
        "BACKUPDR_CATALOG_URL": catalog_url,
        "BACKUPDR_SCP_PORT": str(port),
        "BACKUPDR_SCP_BIND": "127.0.0.1",
    }
    command = [sys.executable, "-m", "dicom_scp", "--open"]
    with serving(command, port, folder / "scp.log", {**QUICK, **settings}) as process:
        yield RemoteServer(name="ours", aet="BACKUPDR", host="127.0.0.1", port=port), process


def ask(remote: RemoteServer, asked: Sequence[tuple[str, Mapping[str, str]]]) -> list[Timed]:
    """One query after the other on one association; the first opens the catalog and is not counted."""
    node = OurNode("WORKSTATION", connect_timeout=10, acse_timeout=10, dimse_timeout=60, network_timeout=60)
    timed: list[Timed] = []
    with querying(remote, node) as query:
        list(query.ask("STUDY", {"StudyInstanceUID": "1.2.3"}))
        for kind, keys in asked:
            began = time.perf_counter()
            first, answers = 0.0, 0
            for _ in query.ask("STUDY", {**dict.fromkeys(RETURNED, ""), **keys}):
                answers += 1
                first = first or time.perf_counter() - began
            whole = time.perf_counter() - began
            timed.append(Timed(kind, first or whole, whole, answers))
    return timed


def of_95_percent(seconds: Sequence[float]) -> float:
    """What 95 % of them do not exceed."""
    return sorted(seconds)[math.ceil(0.95 * len(seconds)) - 1]


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """A server with default settings and an empty database, as a user that is not root; raises `Missing`."""
    found = [*Path("/usr/lib/postgresql").glob("*/bin/initdb"), shutil.which("initdb")]
    initdb = next((str(path) for path in found if path), None)
    if initdb is None:
        raise Missing("initdb")
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    as_user = ["runuser", "-u", user, "--"] if os.geteuid() == 0 else []
    folder = Path(tempfile.mkdtemp(prefix="bench-postgresql-", dir="/tmp"))
    port = free_port()
    quiet = {"check": True, "cwd": "/", "stdout": subprocess.DEVNULL, "stderr": subprocess.STDOUT}
    pg_ctl = [*as_user, str(Path(initdb).with_name("pg_ctl")), "-D", str(folder / "data"), "-w"]
    try:
        if as_user:
            shutil.chown(folder, user)
        command = [
            *as_user,
            initdb,
            "-D",
            str(folder / "data"),
            "-A",
            "trust",
            "-U",
            "backupdr",
            "-E",
            "UTF8",
        ]
        subprocess.run(command, **quiet)
        options = f"-c listen_addresses=127.0.0.1 -p {port} -k {folder}"
        subprocess.run([*pg_ctl, "-l", str(folder / "log"), "-o", options, "start"], **quiet)
        try:
            yield f"postgresql://backupdr@127.0.0.1:{port}/postgres"
        finally:
            subprocess.run([*pg_ctl, "-m", "fast", "stop"], **quiet)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def fill(url: str, population: Population) -> float:
    """A new catalog with this population; returns the seconds it took."""
    began = time.perf_counter()
    with Catalog(url) as catalog:
        catalog.migrate()
        population.fill(catalog)
    return time.perf_counter() - began


def compare(rounds: int) -> Iterator[Comparison]:
    """Queries a second, one association, one after the other."""
    population = Population(STUDIES, INSTANCES)
    seconds: dict[str, list[float]] = {}
    notes: list[str] = []
    with tempfile.TemporaryDirectory(prefix="bench-query-") as text, contextlib.ExitStack() as leaving:
        folder = Path(text)
        urls = {"SQLite": f"sqlite:///{folder / 'catalog.sqlite'}"}
        try:
            urls["PostgreSQL"] = leaving.enter_context(postgresql())
        except Missing:
            notes.append("PostgreSQL is not installed here")
        for name, url in urls.items():
            fill(url, population)
            timed: list[Timed] = []
            with server(url, folder / name) as (remote, _):
                for turn in range(rounds):
                    told = ask(remote, list(queries(population, QUERIES, seed=turn)))
                    seconds.setdefault(name, []).append(sum(one.whole for one in told))
                    timed += told
            first, whole = ([getattr(one, what) for one in timed] for what in ("first", "whole"))
            quick = [f"{of_95_percent(each) * 1000:.0f} ms" for each in (first, whole)]
            notes.append(
                f"{name}: 95 % of {len(timed)} queries had their first answer within {quick[0]} and their last within "
                f"{quick[1]} (slowest {max(whole) * 1000:.0f} ms)"
            )
    yield Comparison(
        "query",
        f"study-level C-FIND over {INSTANCES:,} instances in {STUDIES:,} studies, asked one after the other",
        QUERIES,
        "queries",
        seconds,
        "SQLite",
        notes,
    )
