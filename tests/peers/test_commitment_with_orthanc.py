"""Orthanc asks us for storage commitment of what it sent to us, and is called back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dimse.arranging_commitment import MemoryIndex, committing, until
from peers.orthanc import Orthanc

from vna.simulated_pacs import write_studies
from vna.site import RemoteServer
from vna.spool import Commitments, Spool

pytestmark = pytest.mark.peer("orthanc")


def outcome_of(pacs: Orthanc, resources: list[str]) -> dict[str, Any]:
    """What Orthanc says in the end of a commitment it asked of us for these of its resources."""
    asked = pacs.post("/modalities/backupdr/storage-commitment", {"Resources": resources})
    path = f"/storage-commitment/{asked['ID']}"
    until(lambda: pacs.get(path)["Status"] != "Pending", 30)
    return pacs.get(path)


def instances_of(pacs: Orthanc) -> dict[str, str]:
    """Orthanc's names of its instances, by SOP Instance UID."""
    return {
        pacs.get(f"/instances/{name}")["MainDicomTags"]["SOPInstanceUID"]: name
        for name in pacs.get("/instances")
    }


def test_orthanc_hears_what_is_safe_here_and_what_is_not(
    orthanc: Callable[..., Orthanc], tmp_path: Path
) -> None:
    (study,) = write_studies(tmp_path / "studies", 1, instances=3, size_bytes=4096)
    spool, index = Spool(tmp_path / "spool", reserve_bytes=0), MemoryIndex()
    with committing(spool, index) as ours:
        pacs = orthanc({"BACKUPDR": ("127.0.0.1", ours.port)})
        ours.remotes["ORTHANC"] = RemoteServer(name="o", aet="ORTHANC", host="127.0.0.1", port=pacs.port)
        for instance in study.instances:
            pacs.upload(instance.path)
            index.good[instance.sop_instance_uid] = instance.sop_class_uid
        names = instances_of(pacs)
        report = outcome_of(pacs, list(names.values()))
        assert report["Status"] == "Success", report
        assert {item["SOPInstanceUID"] for item in report["Success"]} == set(names)

        lost = study.instances[0].sop_instance_uid
        del index.good[lost]
        report = outcome_of(pacs, list(names.values()))
        assert report["Status"] == "Failure", report
        assert [item["SOPInstanceUID"] for item in report["Failures"]] == [lost]
        assert len(report["Success"]) == 2
        until(lambda: Commitments(spool).waiting() == [])
