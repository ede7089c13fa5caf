"""The whole chain against Orthanc, which encodes anew what it sends: ours is what it sends to DCMTK's receiver."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pydicom
import pytest
from peers.backing_up import OurSite, got_by_getscu, instances_in, moved_by_movescu
from peers.dcmtk import DicomPeer
from peers.orthanc import Orthanc
from pydicom.uid import ExplicitVRLittleEndian

from vna.simulated_pacs import MODALITIES, shipped_files, write_studies

pytestmark = pytest.mark.peer("dcmtk")

PRIVATE_CLASS = "1.2.826.0.1.3680043.10.1081.4.1"


# all its elements have the VR UN, of which Orthanc reads a SOP Class UID "31" and sends it under this
NOT_FOR_ORTHANC = {"rtdose_rle.dcm"}


def many_kinds(folder: Path) -> list[Path]:
    """The shipped files, generated ones of every modality and syntax, and one of a private SOP class."""
    generated = write_studies(folder, 10, instances=3, series=2, size_bytes=4096, modalities=MODALITIES)
    files = [instance.path for study in generated for instance in study.instances]
    private = pydicom.dcmread(files[0])
    private.SOPClassUID = private.file_meta.MediaStorageSOPClassUID = PRIVATE_CLASS
    private.SOPInstanceUID = private.file_meta.MediaStorageSOPInstanceUID = f"{PRIVATE_CLASS}.1"
    private.StudyInstanceUID, private.SeriesInstanceUID = f"{PRIVATE_CLASS}.2", f"{PRIVATE_CLASS}.3"
    assert private.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    private.save_as(folder / "private.dcm")
    shipped = [path for path in shipped_files() if path.name not in NOT_FOR_ORTHANC]
    return [*files, folder / "private.dcm", *shipped]


def studies_in(paths: Sequence[Path]) -> list[str]:
    headers = (pydicom.dcmread(path, specific_tags=["StudyInstanceUID"]) for path in paths)
    return sorted({str(header.StudyInstanceUID) for header in headers})


@pytest.mark.parametrize("method", ["move", "get"])
def test_every_instance_arrives_in_its_transfer_syntax_and_as_orthanc_sends_it(
    orthanc: Callable[..., Orthanc],
    storescp: Callable[..., DicomPeer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    files = many_kinds(tmp_path / "studies")
    ours, receiver = OurSite(tmp_path / "home", monkeypatch), storescp("--promiscuous")
    pacs = orthanc({**ours.destination, receiver.aet: (receiver.host, receiver.port)})
    for path in files:
        pacs.upload(path)
    assert pacs.get("/statistics")["CountInstances"] == len(files)

    outcome = ours.back_up(pacs.aet, pacs.port, method)
    assert outcome.ok, outcome.sentence
    assert outcome.instances == len(files)
    stored = ours.stored()
    assert {(uid, syntax) for uid, syntax, _ in stored} == {
        (uid, syntax) for uid, syntax, _ in instances_in(files)
    }
    sent = moved_by_movescu(receiver.folder, pacs.aet, pacs.port, studies_in(files), receiver.aet)
    assert len(sent) == len(files)
    assert stored == sent
    ours.assert_sound()

    again = ours.back_up(pacs.aet, pacs.port, method)
    assert again.ok, again.sentence
    assert (again.instances, again.held) == (0, len(files))


def test_what_getscu_writes_bit_preserving_is_what_we_keep(
    orthanc: Callable[..., Orthanc], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studies = write_studies(
        tmp_path / "studies",
        4,
        instances=5,
        modalities=["CT", "MR"],
        transfer_syntaxes=[ExplicitVRLittleEndian],
    )
    files = [instance.path for study in studies for instance in study.instances]
    ours = OurSite(tmp_path / "home", monkeypatch)
    pacs = orthanc()
    for path in files:
        pacs.upload(path)
    outcome = ours.back_up(pacs.aet, pacs.port, "get")
    assert outcome.ok, outcome.sentence
    assert ours.stored() == got_by_getscu(
        tmp_path / "control", pacs.aet, pacs.port, [study.study_instance_uid for study in studies], "+xe"
    )
    ours.assert_sound()
