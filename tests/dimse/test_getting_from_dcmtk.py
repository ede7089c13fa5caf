"""C-GET from DCMTK's dcmqrscp; DCMTK's own getscu in its bit-preserving mode is the control of what it sends."""

import hashlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from arranging_receiver import TEST_FILES, all_received, dataset_of
from peers.dcmtk import DicomPeer

from vna.dimse import OurNode
from vna.dimse.getting import get
from vna.dimse.pdata import Loop
from vna.identity import FoundInstance
from vna.site import RemoteServer
from vna.spool import Spool

FILES = {  # with the option by which getscu and dcmqrscp take this transfer syntax
    "CT_small.dcm": "+xe",
    "MR_small_implicit.dcm": "+xi",
    "rtdose.dcm": "+xi",
    "test-SR.dcm": "+xe",
    "waveform_ecg.dcm": "+xe",
    "MR_small_RLE.dcm": "+xr",
    "MR_small_jp2klossless.dcm": "+xv",
    "SC_rgb_jpeg_dcmtk.dcm": "+xy",
}


@pytest.mark.parametrize("loop", list(Loop))
@pytest.mark.parametrize("name", FILES)
def test_what_dcmqrscp_sends_is_kept_as_getscu_keeps_it(
    name: str,
    loop: Loop,
    tmp_path: Path,
    dcmqrscp: Callable[..., DicomPeer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BACKUPDR_RECEIVE_LOOP", loop)
    peer = dcmqrscp([TEST_FILES / name], aet="PEER", options=[FILES[name]])
    dataset = pydicom.dcmread(TEST_FILES / name, stop_before_pixels=True)
    control = tmp_path / "getscu"
    control.mkdir()
    takes = (
        "+x=" if FILES[name] == "+xi" else FILES[name]
    )  # with +xi getscu proposes nothing a +xi server has
    command = ["getscu", "+B", "-S", takes, "-aet", "BACKUPDR", "-aec", "PEER", "-od", str(control)]
    keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={dataset.StudyInstanceUID}"]
    command += [*keys, "127.0.0.1", str(peer.port)]
    subprocess.run(
        command, check=True, env=os.environ | {"TCP_NODELAY": "1"}, capture_output=True, timeout=60
    )

    spool = Spool(tmp_path / "spool", reserve_bytes=0)
    remote = RemoteServer(name="peer", aet="PEER", host="127.0.0.1", port=peer.port)
    instance = FoundInstance(
        dataset.SOPInstanceUID,
        dataset.SeriesInstanceUID,
        dataset.SOPClassUID,
        dataset.file_meta.TransferSyntaxUID,
    )
    outcome = get(
        remote,
        OurNode("BACKUPDR"),
        dataset.StudyInstanceUID,
        [instance],
        spool,
        whole=[instance],
        study_attributes={},
    )
    assert outcome.sentence == ""
    (ours,) = all_received(spool)
    (theirs,) = control.iterdir()
    syntax = pydicom.dcmread(ours.path, stop_before_pixels=True).file_meta.TransferSyntaxUID
    assert syntax == dataset.file_meta.TransferSyntaxUID
    assert ours.dataset_sha256 == hashlib.sha256(dataset_of(theirs)).hexdigest()
