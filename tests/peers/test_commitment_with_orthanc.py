"""Orthanc sends to us, asks for storage commitment, and is called back with the truth about our copies."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from peers.orthanc import Orthanc

from tests.dicom_scp.arranging_server import know_the_sender, server, settings_in, spool_of, until
from vna.simulated_pacs import write_studies
from vna.spool import Commitments

pytestmark = pytest.mark.peer("orthanc")


def outcome_of(pacs: Orthanc, resources: list[str]) -> dict[str, Any]:
    """What Orthanc says in the end of a commitment it asked of us for these of its resources."""
    asked = pacs.post("/modalities/backupdr/storage-commitment", {"Resources": resources})
    path = f"/storage-commitment/{asked['ID']}"
    until(lambda: pacs.get(path)["Status"] != "Pending", 60)
    return pacs.get(path)


def test_orthanc_hears_what_is_safe_here_and_what_is_not(
    orthanc: Callable[..., Orthanc], tmp_path: Path
) -> None:
    (study,) = write_studies(tmp_path / "studies", 1, instances=3, size_bytes=4096)
    settings = settings_in(tmp_path)
    pacs = orthanc({"BACKUPDR": ("127.0.0.1", settings.scp_port)})
    know_the_sender(settings, name="orthanc", aet="ORTHANC", port=pacs.port)
    for instance in study.instances:
        pacs.upload(instance.path)
    uid_of = {
        name: pacs.get(f"/instances/{name}")["MainDicomTags"]["SOPInstanceUID"]
        for name in pacs.get("/instances")
    }
    first, second, third = sorted(uid_of)
    with server(settings, "--index", known_only=True):
        pacs.post("/modalities/backupdr/store", [first, second])
        report = outcome_of(pacs, [first, second])
        assert report["Status"] == "Success", report
        assert {item["SOPInstanceUID"] for item in report["Success"]} == {uid_of[first], uid_of[second]}

        (copy,) = settings.default_unit_path.rglob(f"{uid_of[second]}.*.dcm")
        copy.chmod(0o640)
        copy.write_bytes(copy.read_bytes()[:-1])
        report = outcome_of(pacs, [first, second, third])
        assert report["Status"] == "Failure", report
        assert [item["SOPInstanceUID"] for item in report["Success"]] == [uid_of[first]]
        reasons = {item["SOPInstanceUID"]: item["FailureReason"] for item in report["Failures"]}
        assert reasons == {uid_of[second]: 0x0110, uid_of[third]: 0x0112}
        until(lambda: Commitments(spool_of(settings)).waiting() == [])
