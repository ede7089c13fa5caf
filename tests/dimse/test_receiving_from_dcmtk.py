"""DCMTK's storescu as the sender, and DCMTK's bit-preserving storescp as the control of what it sends."""

import hashlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom
import pytest
from arranging_receiver import TEST_FILES, all_received, dataset_of
from arranging_tls import Authority
from peers.dcmtk import DicomPeer

from vna.dimse.pdata import Loop
from vna.dimse.receiver import Receiver
from vna.spool import Spool, read_association

pytestmark = pytest.mark.peer("dcmtk")

ENVIRONMENT = os.environ | {"TCP_NODELAY": "1"}
FILES = {  # with storescu's option that proposes just this file's transfer syntax
    "CT_small.dcm": "-xe",
    "MR_small_implicit.dcm": "-xi",
    "MR_small_bigendian.dcm": "-xb",
    "image_dfl.dcm": "-xd",
    "JPEG2000.dcm": "-xw",
    "MR_small_jp2klossless.dcm": "-xv",
    "JPGExtended.dcm": "-xx",
    "MR_small_RLE.dcm": "-xr",
    "MR_small_jpeg_ls_lossless.dcm": "-xt",
    "SC_rgb_jpeg_dcmtk.dcm": "-xy",
    "rtplan.dcm": "-xi",
    "rtdose.dcm": "-xi",
    "test-SR.dcm": "-xe",
    "waveform_ecg.dcm": "-xe",
    "liver_1frame.dcm": "-xe",
}


@pytest.fixture(params=list(Loop))
def receiver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Receiver]:
    spool = Spool(tmp_path / "spool", reserve_bytes=0)
    with Receiver(spool, aet="BACKUPDR", host="127.0.0.1", port=0, loop=request.param) as running:
        yield running


def storescu(port: int, *paths: Path, options: tuple[str, ...] = ("-R",)) -> None:
    command = [
        "storescu",
        "-aec",
        "BACKUPDR",
        "+sd",
        "+r",
        *options,
        "127.0.0.1",
        str(port),
        *map(str, paths),
    ]
    ended = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr


def contents(folder: Path) -> list[tuple[str, str, str]]:
    """SOP Instance UID, transfer syntax and digest of the data set, of files with a File Meta Information."""
    found: list[tuple[str, str, str]] = []
    for path in folder.rglob("*"):
        if path.is_file() and path.name not in {"association.json", "receiving.lock", "indexer.lock"}:
            meta = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[]).file_meta
            digest = hashlib.sha256(dataset_of(path)).hexdigest()
            found.append((str(meta.MediaStorageSOPInstanceUID), str(meta.TransferSyntaxUID), digest))
    return sorted(found)


def test_what_storescu_sends_is_kept_as_a_bit_preserving_storescp_keeps_it(
    receiver: Receiver, storescp: Callable[..., DicomPeer]
) -> None:
    control = storescp(aet="BACKUPDR")
    for name, option in FILES.items():
        storescu(control.port, TEST_FILES / name, options=("-R", option))
        storescu(receiver.port, TEST_FILES / name, options=("-R", option))
    ours = contents(receiver.spool.path)
    assert ours == contents(control.folder)
    assert len(ours) == len(FILES)
    assert len({syntax for _, syntax, _ in ours}) >= 9


def test_small_pdus_change_nothing(receiver: Receiver) -> None:
    for size in ("4096", "131072"):
        storescu(receiver.port, TEST_FILES / "rtdose.dcm", options=("-R", "-xi", "--max-send-pdu", size))
    first, second = all_received(receiver.spool)
    assert first.dataset_sha256 == second.dataset_sha256
    assert dataset_of(first.path) == dataset_of(second.path)


def test_dcmtk_echoes(receiver: Receiver) -> None:
    command = ["echoscu", "-aec", "BACKUPDR", "127.0.0.1", str(receiver.port)]
    assert subprocess.run(command, env=ENVIRONMENT, timeout=30).returncode == 0


def test_a_sender_with_nagles_algorithm_does_not_wait_for_our_acknowledgements(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", reserve_bytes=0)
    files = tmp_path / "files"
    files.mkdir()
    dataset = pydicom.dcmread(TEST_FILES / "CT_small.dcm")
    for number in range(50):
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
        dataset.save_as(files / f"{number}.dcm")
    with Receiver(spool, aet="BACKUPDR", host="127.0.0.1", port=0, loop=Loop.own) as running:
        command = ["storescu", "-aec", "BACKUPDR", "+sd", "127.0.0.1", str(running.port), str(files)]
        nagle = {name: value for name, value in ENVIRONMENT.items() if name != "TCP_NODELAY"}
        started = time.monotonic()
        assert subprocess.run(command, env=nagle, timeout=60).returncode == 0
        seconds = time.monotonic() - started
    assert len(all_received(spool)) == 50
    assert seconds < 50 * 0.040, "each message waited for a delayed acknowledgement"


@pytest.fixture
def by_tls(tmp_path: Path) -> Iterator[tuple[Receiver, list[str]]]:
    """A receiver of TLS alone, and the options with which DCMTK's tools come to it."""
    (tmp_path / "keys").mkdir()
    authority = Authority(tmp_path / "keys")
    cert, key = authority.pair("modality", "modality.example")
    with Receiver(
        Spool(tmp_path / "spool", reserve_bytes=0),
        aet="BACKUPDR",
        host="127.0.0.1",
        port=0,
        tls=authority.server_files(),
        tls_port=0,
        tls_only=True,
    ) as receiver:
        yield receiver, ["+tls", str(key), str(cert), "+cf", str(authority.ca_file)]


def test_dcmtk_echoes_and_stores_over_tls(
    by_tls: tuple[Receiver, list[str]], storescp: Callable[..., DicomPeer]
) -> None:
    receiver, options = by_tls
    port = receiver.tls_port
    assert port is not None
    command = ["echoscu", *options, "-aec", "BACKUPDR", "127.0.0.1", str(port)]
    assert subprocess.run(command, env=ENVIRONMENT, timeout=30).returncode == 0
    control = storescp(aet="BACKUPDR")
    for name in ("CT_small.dcm", "MR_small_RLE.dcm", "rtdose.dcm"):
        syntax = FILES[name]
        storescu(control.port, TEST_FILES / name, options=("-R", syntax))
        storescu(port, TEST_FILES / name, options=("-R", syntax, *options))
    assert contents(receiver.spool.path) == contents(control.folder)
    (first, *_) = receiver.spool.folders()
    assert "CN=modality.example" in read_association(first).tls_subject


def test_dcmtk_without_a_certificate_gets_no_association(by_tls: tuple[Receiver, list[str]]) -> None:
    receiver, options = by_tls
    anonymous = ["+tla", *options[3:]]
    command = ["echoscu", *anonymous, "-aec", "BACKUPDR", "127.0.0.1", str(receiver.tls_port)]
    assert subprocess.run(command, env=ENVIRONMENT, capture_output=True, timeout=30).returncode != 0
    assert receiver.counts.accepted == 0
