"""DCMTK and Orthanc as clients of the simulated PACS, and the simulated PACS as its own destination."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pacs_client import World
from peers.programs import QUICK, free_port
from pydicom import dcmread
from pydicom.uid import UID

from vna.simulated_pacs import EXPLICIT_LITTLE, SimulatedPacs, dataset_sha256, write_studies
from vna.simulated_pacs.negotiation import is_storage

Make = Callable[..., World]


def run(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(
        command, env=QUICK, capture_output=True, text=True, errors="replace", cwd=cwd, timeout=60
    )
    return done.stdout + done.stderr


def connect(world: World) -> tuple[str, ...]:
    return ("-aec", world.pacs.aet, "127.0.0.1", str(world.pacs.port))


@pytest.mark.peer("dcmtk")
def test_dcmtk_echoes_and_finds_at_every_level(world: Make) -> None:
    made = world(count=6, series=2)
    study = made.studies[0]
    assert "Success" in run("echoscu", "-v", *connect(made))
    assert "Called AE Title Not Recognized" in run(
        "echoscu", "-aec", "OTHER", "127.0.0.1", str(made.pacs.port)
    )
    levels = {
        "PATIENT": ("-P", ["PatientID"], len({one.patient_id for one in made.studies})),
        "STUDY": ("-S", ["StudyInstanceUID"], 6),
        "SERIES": ("-S", [f"StudyInstanceUID={study.study_instance_uid}", "SeriesInstanceUID"], 2),
        "IMAGE": (
            "-S",
            [
                f"StudyInstanceUID={study.study_instance_uid}",
                f"SeriesInstanceUID={study.instances[0].series_instance_uid}",
                "SOPInstanceUID",
            ],
            2,
        ),
    }
    for level, (model, keys, expected) in levels.items():
        options = [option for key in (f"QueryRetrieveLevel={level}", *keys) for option in ("-k", key)]
        told = run("findscu", "-v", model, *options, *connect(made))
        assert told.count("(Pending)") == expected, told
        assert "Received Final Find Response (Success)" in told


@pytest.mark.peer("dcmtk")
def test_dcmtk_gets_and_moves_studies_byte_for_byte(world: Make, tmp_path: Path) -> None:
    made = world(
        count=2, modalities=["CT", "MR"], transfer_syntaxes=["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"]
    )
    port = free_port()
    made.pacs.destinations["MOVESCU"] = ("127.0.0.1", port)
    [got, moved] = [tmp_path / name for name in ("got", "moved")]
    got.mkdir()
    moved.mkdir()
    study = made.studies[0]
    keys = ("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study.study_instance_uid}")
    run("getscu", "-S", "+B", "-od", str(got), *keys, *connect(made))
    # in bit-preserving mode DCMTK's movescu forgets its output directory
    run("movescu", "-S", "+B", "-aem", "MOVESCU", "+P", str(port), *keys, *connect(made), cwd=moved)
    for folder in (got, moved):
        assert {dataset_sha256(path) for path in folder.iterdir()} == set(made.digests(study).values())
    # getscu proposes several transfer syntaxes in one context, the first of them explicit: implicit objects stay
    other = ("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={made.studies[1].study_instance_uid}")
    assert "OutOfResources" in run("getscu", "-v", "-S", "+B", "-od", str(got), *other, *connect(made))


@pytest.mark.peer("dcmtk")
def test_dcmtk_stores_a_folder_here(world: Make, tmp_path: Path) -> None:
    made = world(count=0)
    new = write_studies(tmp_path / "new", 10, transfer_syntaxes=[EXPLICIT_LITTLE])
    run("storescu", "+sd", "+r", "-R", *connect(made), str(tmp_path / "new"))
    assert made.pacs.received == {uid: 1 for study in new for uid in made.digests(study)}
    assert made.pacs.holdings() == (10, 20)
    kept = {dataset_sha256(path) for path in (made.folder / "received").iterdir()}
    assert kept == {digest for study in new for digest in made.digests(study).values()}


def test_orthanc_queries_and_retrieves_from_here(world: Make, orthanc: Callable[..., Any]) -> None:
    made = world(count=3, transfer_syntaxes=["1.2.840.10008.1.2.1"])
    peer = orthanc({made.pacs.aet: ("127.0.0.1", made.pacs.port)})
    made.pacs.destinations[peer.aet] = (peer.host, peer.port)
    name = made.pacs.aet.lower()
    query = peer.post(f"/modalities/{name}/query", {"Level": "Study", "Query": {"StudyInstanceUID": ""}})
    assert len(peer.get(f"/queries/{query['ID']}/answers")) == 3
    peer.post(f"/queries/{query['ID']}/retrieve", {"TargetAet": peer.aet, "Synchronous": True})
    until = time.monotonic() + 20
    while peer.get("/statistics")["CountInstances"] < 6 and time.monotonic() < until:
        time.sleep(0.05)
    assert peer.get("/statistics")["CountInstances"] == 6


def test_more_kinds_than_one_association_has_contexts_are_all_moved(world: Make, tmp_path: Path) -> None:
    made = world(count=0)
    [template] = write_studies(tmp_path / "template", 1, instances=1, modalities=["CT"])
    dataset = dcmread(template.instances[0].path)
    digests = set()
    for number in range(150):  # as many private SOP classes
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = UID(f"1.2.826.0.1.9999.{number}")
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID(f"1.2.3.{number}")
        path = made.folder / f"{number}.dcm"
        dataset.save_as(path)
        digests.add(dataset_sha256(path))
    made.pacs.look_again()
    other = tmp_path / "other"
    other.mkdir()
    with SimulatedPacs(other, "OTHER") as receiver:
        made.pacs.destinations["OTHER"] = ("127.0.0.1", receiver.port)
        from pacs_client import Destination

        result = made.client.move(
            Destination("OTHER", receiver.port), StudyInstanceUID=template.study_instance_uid
        )
        assert result.status == 0x0000
        assert receiver.associations == 2
    assert {dataset_sha256(path) for path in (other / "received").iterdir()} == digests


def test_what_a_destination_refuses_is_named_and_the_rest_is_sent(world: Make, tmp_path: Path) -> None:
    made = world(count=1, instances=5)
    [study] = made.studies
    other = tmp_path / "other"
    (other / "received").mkdir(parents=True)
    with SimulatedPacs(other, "OTHER") as receiver:
        made.pacs.destinations["OTHER"] = ("127.0.0.1", receiver.port)
        from pacs_client import Destination

        # a folder where a file must be written: the third instance cannot be kept
        (other / "received" / f"{study.instances[2].sop_instance_uid}.dcm").mkdir()
        result = made.client.move(Destination("OTHER", 1), StudyInstanceUID=study.study_instance_uid)
    assert result.status == 0xB000
    assert result.failed == [study.instances[2].sop_instance_uid]


@pytest.mark.parametrize(
    ("sop_class", "stored"),
    [
        ("1.2.840.10008.5.1.4.1.1.2", True),
        ("1.2.840.10008.5.1.4.1.1.1.1.1", True),
        ("1.2.840.10008.5.1.1.27", True),  # retired, yet stored
        ("1.2.826.0.1.3680043.1", True),  # private
        ("1.2.840.10008.1.20.1", False),  # storage commitment
        ("1.2.840.10008.5.1.4.31", False),  # worklist
        ("1.2.840.10008.5.1.1.9", False),  # print
        ("1.2.840.10008.1.2.1", False),  # a transfer syntax
    ],
)
def test_only_storage_classes_and_private_ones_are_stored(sop_class: str, stored: bool) -> None:
    assert is_storage(sop_class) is stored
