"""Our chain against a peer by the library's steps: all of a run but Prefect around it; and what DCMTK gets there."""

import socket
import subprocess
import uuid
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pydicom
import pytest
from peers.programs import QUICK

from vna.catalog import Catalog
from vna.dimse import receiving
from vna.jobs.finding import choose, find
from vna.jobs.outcome import RetrievalOutcome, read_outcome
from vna.jobs.run import BackupRun, Request, open_run
from vna.jobs.steps import batches, close_batch, index_batch, move_batch, plan_batch, verify_batch
from vna.settings import load_settings
from vna.simulated_pacs import dataset_sha256
from vna.site import RemoteServer, RetrieveMethod, Site, load_site, publish_site
from vna.spool import Spool
from vna.storage import open_unit
from vna.verification import verify_unit

Instance = tuple[str, str, str]
"""SOP Instance UID, Transfer Syntax UID, SHA-256 of the data set."""

UNIT = "default"


def instances_in(paths: Iterable[Path]) -> set[Instance]:
    """What the files are, by their own headers and bytes."""
    found: set[Instance] = set()
    for path in paths:
        header = pydicom.dcmread(path, specific_tags=["SOPInstanceUID"])
        meta = header.file_meta
        found.add((str(header.SOPInstanceUID), str(meta.TransferSyntaxUID), dataset_sha256(path)))
    return found


class OurSite:
    """A home of ours whose settings are in the environment, for this process and its children."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch, catalog_url: str = "") -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        for name, value in {
            "BACKUPDR_HOME": str(home),
            "BACKUPDR_SCP_PORT": str(port),
            "BACKUPDR_SCP_BIND": "127.0.0.1",
            "BACKUPDR_RESERVE_BYTES": str(64 * 2**20),
            "BACKUPDR_CATALOG_URL": catalog_url,
        }.items():
            monkeypatch.setenv(name, value)
        self.settings = load_settings()
        self.destination = {"BACKUPDR": ("127.0.0.1", port)}

    def back_up(self, aet: str, port: int, method: str) -> RetrievalOutcome:
        """Everything the peer has, by C-MOVE or C-GET."""
        remote = RemoteServer(
            name=aet.lower(), aet=aet, host="127.0.0.1", port=port, retrieve=RetrieveMethod(method)
        )
        publish_site(self.settings, Site(remotes={remote.name: remote}))
        run_id = str(uuid.uuid4())
        with open_run(self.settings, run_id, Request(remote.name, UNIT)) as run:
            with receiving(self.settings, by_move=not run.by_get):
                find(run)
                work = list(batches(run, choose(run)))
                with ThreadPoolExecutor(4) as pool:
                    list(pool.map(lambda studies: _back_up_batch(run, studies), work))
            return read_outcome(run.catalog, run.ledger, run_id)

    def stored(self) -> set[Instance]:
        """What lies in the unit."""
        return instances_in(self.settings.default_unit_path.rglob("*.dcm"))

    def assert_sound(self) -> None:
        """Every file has its record and its digest, and nothing waits in the spool or was set aside."""
        unit = open_unit(load_site(self.settings).unit(UNIT))
        with Catalog(self.settings.catalog_database_url) as catalog:
            report = verify_unit(unit, catalog, "checksum")
        assert report.ok == report.checked == len(self.stored())
        assert (report.missing, report.differing_checksum, report.orphaned) == (0, 0, 0), report
        spool = Spool(self.settings.spool_path, 0)
        assert [path for folder in spool.folders() for path in spool.received(folder)] == []
        assert spool.aside() == []


def _back_up_batch(run: BackupRun, studies: Sequence[str]) -> None:
    todo = list(studies)
    try:
        for step in (plan_batch, move_batch, index_batch):
            step(run, todo)
        assert verify_batch(run, todo) == []
    finally:
        close_batch(run, studies, "stopped before it could be verified")


def got_by_getscu(folder: Path, aet: str, port: int, studies: Iterable[str], *options: str) -> set[Instance]:
    """What DCMTK's getscu writes as it came, from a peer that knows nobody's AE title."""
    folder.mkdir(parents=True)
    for uid in studies:
        _dcmtk("getscu", aet, port, uid, "+B", "-od", str(folder), *options)
    return instances_in(path for path in folder.iterdir())


def moved_by_movescu(
    folder: Path, aet: str, port: int, studies: Iterable[str], destination: str
) -> set[Instance]:
    """What a peer sends to DCMTK's receiver, which writes to `folder`."""
    for uid in studies:
        _dcmtk("movescu", aet, port, uid, "-aem", destination)
    return instances_in(path for path in folder.iterdir())


def _dcmtk(tool: str, aet: str, port: int, study_instance_uid: str, *options: str) -> None:
    keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study_instance_uid}"]
    subprocess.run(
        [tool, "-S", "-aec", aet, *options, *keys, "127.0.0.1", str(port)],
        env=QUICK,
        check=True,
        capture_output=True,
        timeout=60,
    )
