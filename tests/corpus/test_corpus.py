"""The development corpus, valid and hostile: sent to our DICOM server and placed, nothing lost and nothing changed.

`expected` in its manifest is the advice of whoever made it. We are a backup of what was sent: a data set that
names itself is kept and found again even if its pixels are cut or its values are nonsense; one that does not is
set aside with a reason. A data set that is in neither place, or with another byte, fails here.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pynetdicom import AE, Association, build_context
from pynetdicom.dimse_primitives import C_STORE

from tests.corpus.part10 import Sendable, sendable
from vna.catalog import Catalog
from vna.identity import is_valid_uid
from vna.indexing import Indexer
from vna.platform import spawn_bound
from vna.settings import Settings
from vna.simulated_pacs import dataset_sha256
from vna.site import UnitDefinition
from vna.spool import AsideEntry, Spool
from vna.storage import open_unit
from vna.verification import verify_unit

ROOT = Path(__file__).resolve().parents[2]
CORPUS = ROOT / "../shared/data/dev"
INDEXED = "stored byte-exact and indexed"

pytestmark = [
    pytest.mark.skipif(not (CORPUS / "manifest.json").is_file(), reason="no corpus at ../shared/data/dev"),
    pytest.mark.filterwarnings("ignore:Invalid value for VR UI"),
]

# Their manifest rows want them set aside. We keep them where they belong all the same, each for its reason.
KEPT_ALTHOUGH_BROKEN = {
    # the header is whole and names the image; what follows was cut or lies before it came to us
    "deflate-cut.dcm",
    "length-item-4g.dcm",
    # the command and its presentation context say what these leave out or falsify
    "meta-ts-path.dcm",
    "uid-empty-class.dcm",
    "uid-missing-class.dcm",
    # under safe names: the UID itself never becomes a path
    "uid-series-absolute.dcm",
    "uid-series-newline.dcm",
    "uid-series-nul.dcm",
    "uid-series-traversal.dcm",
    "uid-study-absolute.dcm",
    "uid-study-newline.dcm",
    "uid-study-nul.dcm",
    "uid-study-traversal.dcm",
}


@dataclass
class Fed:
    """Rows of the manifest with what was sent of each, and where it is now."""

    settings: Settings
    sent: dict[str, Sendable] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    stored: dict[str, list[Path]] = field(default_factory=dict)
    aside: dict[str, list[AsideEntry]] = field(default_factory=dict)
    seconds: float = 0.0

    def index(self) -> None:
        """Place everything, then read from the disk where it is."""
        began = time.monotonic()
        with Indexer(self.settings) as indexer:
            indexer.prepare()
            assert not indexer.run_once().errors
        self.seconds = time.monotonic() - began
        for path in self.settings.default_unit_path.rglob("*.dcm"):
            self.stored.setdefault(dataset_sha256(path), []).append(path)
        for entry in Spool(self.settings.spool_path, 0).aside():
            self.aside.setdefault(entry.path.name.partition(".")[0], []).append(entry)

    def place_of(self, row: dict[str, Any]) -> str:
        digest = self.sent[row["path"]].digest
        places = [name for name, there in (("stored", self.stored), ("aside", self.aside)) if digest in there]
        return " and ".join(places) or "lost"


def rows() -> list[dict[str, Any]]:
    """The DICOM rows of the manifest."""
    listed = json.loads((CORPUS / "manifest.json").read_text(encoding="utf-8"))["files"]
    return [row for row in listed if row["kind"].startswith("dicom")]


@pytest.fixture(scope="module")
def placed(tmp_path_factory: pytest.TempPathFactory) -> Fed:
    """Every file, received as if a sender had sent it, then indexed."""
    fed = Fed(Settings(home=tmp_path_factory.mktemp("corpus") / "home", reserve_bytes=0))
    spool = Spool(fed.settings.spool_path, 0)
    with spool.open_association(
        calling_aet="CORPUS", called_aet="BACKUPDR", peer_address="127.0.0.1", listener="scp"
    ) as association:
        for row in rows():
            what = sendable(CORPUS / row["path"], row.get("sop_instance_uid"))
            writer = association.begin(
                what.sop_class_uid, what.sop_instance_uid, what.transfer_syntax_uid, "CORPUS"
            )
            writer.write(what.dataset)
            assert writer.commit().dataset_sha256 == what.digest
            fed.sent[row["path"]] = what
    fed.index()
    return fed


def test_no_file_is_lost_or_left_waiting_and_all_are_done_in_a_minute(placed: Fed) -> None:
    assert [row["path"] for row in rows() if placed.place_of(row) == "lost"] == []
    spool = Spool(placed.settings.spool_path, 0)
    assert [path for folder in spool.folders() for path in spool.received(folder)] == []
    assert placed.seconds < 60


def test_a_valid_object_is_found_again_under_its_uids(placed: Fed) -> None:
    with Catalog(placed.settings.catalog_database_url) as catalog:
        missing = [
            row["path"]
            for row in rows()
            if row["kind"] == "dicom-valid"
            and row["expected"] == INDEXED
            and row["sop_instance_uid"]
            not in catalog.instances_of(row["study_instance_uid"], placed.settings.default_unit)
        ]
    assert missing == []
    wrong = [
        row["path"]
        for row in rows()
        if row["kind"] == "dicom-valid"
        and row["expected"] == INDEXED
        and not any(
            path.name.startswith(f"{row['sop_instance_uid']}.")
            and path.parent.name == row["series_instance_uid"]
            for path in placed.stored.get(placed.sent[row["path"]].digest, [])
        )
    ]
    assert wrong == []


def test_several_contents_of_one_uid_are_all_kept(placed: Fed) -> None:
    several = [row for row in rows() if row.get("same_sop_instance_uid_other_bytes")]
    assert several
    for row in several:
        digests = {
            placed.sent[path].digest
            for path in (row["path"], *row["same_sop_instance_uid_other_bytes"])
            if path in placed.sent
        }
        assert digests <= set(placed.stored) | set(placed.aside), row["path"]


def test_what_names_no_image_is_set_aside_with_a_reason(placed: Fed) -> None:
    unexpected: Counter[str] = Counter()
    for row in rows():
        place = placed.place_of(row)
        acceptable = {row["expected"], *row.get("also_acceptable", ())}
        if place == "stored" and INDEXED not in acceptable:
            unexpected[Path(row["path"]).name] += 1
        if place == "aside" and acceptable == {INDEXED}:
            unexpected[f"{row['path']} set aside"] += 1
    assert set(unexpected) <= KEPT_ALTHOUGH_BROKEN
    assert all(entry.reason for entries in placed.aside.values() for entry in entries)
    assert len(placed.aside) > 100


def test_no_uid_from_outside_names_a_path_beyond_its_unit(placed: Fed) -> None:
    home = placed.settings.home
    for path in placed.settings.default_unit_path.rglob("*.dcm"):
        shard, study, series, name = path.relative_to(placed.settings.default_unit_path).parts
        assert len(shard) == 2
        for part in (study, series, name.split(".dcm")[0].rsplit(".", 1)[0]):
            assert is_valid_uid(part) or part.startswith("invalid-"), path
    known = {"catalog.sqlite", "catalog.sqlite-wal", "catalog.sqlite-shm", "spool", "units"}
    assert {path.name for path in home.iterdir()} <= known
    assert {path.name for path in home.parent.iterdir()} == {"home"}


def test_every_copy_is_what_its_record_says(placed: Fed) -> None:
    definition = UnitDefinition(name=placed.settings.default_unit, path=placed.settings.default_unit_path)
    with Catalog(placed.settings.catalog_database_url) as catalog:
        report = verify_unit(open_unit(definition), catalog, "checksum")
    assert report.ok == report.checked == sum(len(paths) for paths in placed.stored.values())
    assert report.orphaned == 0
    assert report.problems == []


# -- over the network


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, "subprocess.Popen[bytes]"]]:
    """Our DICOM server as a process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home = tmp_path_factory.mktemp("corpus-scp") / "home"
    settings = Settings(home=home, scp_port=port, scp_bind="127.0.0.1", reserve_bytes=0)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "BACKUPDR_HOME": str(home),
        "BACKUPDR_SCP_PORT": str(port),
        "BACKUPDR_SCP_BIND": "127.0.0.1",
        "BACKUPDR_RESERVE_BYTES": "0",
    }
    home.mkdir()
    with (home / "scp.log").open("wb") as log:
        process = spawn_bound(
            [sys.executable, "-m", "dicom_scp", "--bound", "--open"], env=environment, stdout=log, stderr=log
        )
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            break
        time.sleep(0.05)
    yield settings, process
    assert process.stdin is not None
    process.stdin.close()
    process.wait(30)


@pytest.fixture(scope="module")
def sent(server: tuple[Settings, "subprocess.Popen[bytes]"]) -> Fed:
    """Every file that has a header and a data set, sent as it is by another implementation, then indexed."""
    settings, _ = server
    fed = Fed(settings)
    by_context: dict[tuple[str, str], list[tuple[str, Sendable]]] = {}
    for row in rows():
        what = sendable(CORPUS / row["path"], row.get("sop_instance_uid"))
        if what.has_header and what.dataset:
            context = (what.sop_class_uid, what.transfer_syntax_uid)
            by_context.setdefault(context, []).append((row["path"], what))
    proposable = [context for context in by_context if all(is_valid_uid(uid) for uid in context)]
    for path, _ in (each for context in set(by_context) - set(proposable) for each in by_context[context]):
        fed.refused[path] = "its class or syntax is no UID, which the sending library will not propose"
    for start in range(0, len(proposable), 120):
        part = proposable[start : start + 120]
        _send_all(settings.scp_port, part, [each for context in part for each in by_context[context]], fed)
    fed.index()
    return fed


def _send_all(
    port: int, contexts: list[tuple[str, str]], files: list[tuple[str, Sendable]], fed: Fed
) -> None:
    """On one association, begun again whenever it ended."""
    sender = AE("CORPUS")
    sender.requested_contexts = [build_context(*context) for context in contexts]
    association = None
    for path, what in files:
        if association is None or not association.is_established:
            association = sender.associate("127.0.0.1", port, ae_title="BACKUPDR")
            assert association.is_established
        status = _send(association, what)
        if status == 0x0000:
            fed.sent[path] = what
        else:
            fed.refused[path] = "no answer" if status is None else f"{status:04X}"
    if association is not None:
        association.release()


def _send(association: Association, what: Sendable) -> int | None:
    """The status our server answered, None if it did not: the bytes go out as they are, nothing is parsed."""
    request = C_STORE()
    request.MessageID = 1
    request.AffectedSOPClassUID = what.sop_class_uid
    request.AffectedSOPInstanceUID = what.sop_instance_uid
    request.Priority = 2
    request.DataSet = BytesIO(what.dataset)
    (context,) = [
        each.context_id
        for each in association.accepted_contexts
        if (each.abstract_syntax, each.transfer_syntax[0]) == (what.sop_class_uid, what.transfer_syntax_uid)
    ]
    association._reactor_checkpoint.clear()
    while not association._is_paused:
        time.sleep(0.001)
    try:
        association.dimse.send_msg(request, context)
        _, answer = association.dimse.get_msg(block=True)
    finally:
        association._reactor_checkpoint.set()
    return None if answer is None else int(answer.Status)


def test_what_the_server_acknowledged_is_kept_byte_for_byte(sent: Fed) -> None:
    assert [row["path"] for row in rows() if row["path"] in sent.sent and sent.place_of(row) == "lost"] == []
    valid = [row for row in rows() if row["kind"] == "dicom-valid" and row["expected"] == INDEXED]
    assert [row["path"] for row in valid if row["path"] not in sent.sent] == []
    assert {row["path"] for row in valid if sent.place_of(row) != "stored"} == set()


def test_only_what_cannot_be_said_in_dicom_was_not_taken(sent: Fed) -> None:
    assert len(sent.sent) > 450
    assert [Path(path).name for path in sent.refused] == ["meta-ts-path.dcm"], sent.refused


def test_the_server_lives_and_answers_after_all_of_them(
    sent: Fed, server: tuple[Settings, "subprocess.Popen[bytes]"]
) -> None:
    settings, process = server
    assert process.poll() is None
    sender = AE("CORPUS")
    sender.add_requested_context("1.2.840.10008.1.1")
    association = sender.associate("127.0.0.1", settings.scp_port, ae_title="BACKUPDR")
    assert association.is_established
    assert association.send_c_echo().Status == 0x0000
    association.release()
