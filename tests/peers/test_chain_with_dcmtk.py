"""The whole chain against DCMTK's dcmqrscp: what it sends to us is, byte for byte, what it sends to DCMTK's tools."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pydicom
import pytest
from peers.backing_up import OurSite, got_by_getscu, instances_in, moved_by_movescu
from peers.dcmtk import DicomPeer

from vna.simulated_pacs import shipped_files, write_studies

JPEG_BASELINE, JPEG_EXTENDED = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"
JPEG_LOSSLESS, JPEG_2000_LOSSLESS = "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.90"
JPEG_2000, RLE = "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.5"
DEFLATED, EXPLICIT_BIG = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"

# dcmqrscp offers one compressed syntax at a time, beside the uncompressed ones; + is for C-GET, - for C-MOVE
OFFERED = {
    JPEG_BASELINE: "xy",
    JPEG_EXTENDED: "xx",
    JPEG_LOSSLESS: "xs",
    JPEG_2000_LOSSLESS: "xv",
    JPEG_2000: "xw",
    RLE: "xr",
    DEFLATED: "xd",
    EXPLICIT_BIG: "xb",
}
# for C-GET it sends on the first context of a class and converts what it can, which is to explicit little endian;
# with the option by which getscu agrees on the same
CONVERTED_FOR_GET = {DEFLATED: "xe", EXPLICIT_BIG: "xi"}
BOTH_WAYS = pytest.mark.parametrize("method", ["move", "get"])


def syntax_of(path: Path) -> str:
    return str(pydicom.filereader.read_file_meta_info(path).TransferSyntaxUID)


def studies_in(paths: Sequence[Path]) -> list[str]:
    headers = (pydicom.dcmread(path, specific_tags=["StudyInstanceUID"]) for path in paths)
    return sorted({str(header.StudyInstanceUID) for header in headers})


def control(
    method: str,
    folder: Path,
    pacs: DicomPeer,
    files: Sequence[Path],
    receiver: DicomPeer,
    *options: str,
) -> set[tuple[str, str, str]]:
    studies = studies_in(files)
    if method == "get":
        return got_by_getscu(folder, pacs.aet, pacs.port, studies, *options)
    return moved_by_movescu(receiver.folder, pacs.aet, pacs.port, studies, receiver.aet)


@BOTH_WAYS
def test_every_instance_of_many_kinds_arrives_as_it_is_sent_to_dcmtk(
    dcmqrscp: Callable[..., DicomPeer],
    storescp: Callable[..., DicomPeer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    generated = write_studies(
        tmp_path / "studies", 12, instances=4, series=2, transfer_syntaxes=[EXPLICIT], size_bytes=8192
    )
    files = [instance.path for study in generated for instance in study.instances]
    files += [path for path in shipped_files() if syntax_of(path) == EXPLICIT]
    ours, receiver = OurSite(tmp_path / "home", monkeypatch), storescp()
    pacs = dcmqrscp(files, {**ours.destination, receiver.aet: (receiver.host, receiver.port)})

    outcome = ours.back_up(pacs.aet, pacs.port, method)
    assert outcome.ok, outcome.sentence
    assert outcome.instances == len(files)
    sent = control(method, tmp_path / "control", pacs, files, receiver)
    stored = ours.stored()
    assert {(uid, syntax) for uid, syntax, _ in stored} == {
        (uid, syntax) for uid, syntax, _ in instances_in(files)
    }
    assert stored == sent
    ours.assert_sound()

    again = ours.back_up(pacs.aet, pacs.port, method)
    assert again.ok, again.sentence
    assert (again.instances, again.held) == (0, len(files))


@BOTH_WAYS
@pytest.mark.parametrize("syntax", OFFERED, ids=[pydicom.uid.UID(uid).keyword for uid in OFFERED])
def test_an_instance_keeps_the_transfer_syntax_and_the_bytes_it_is_sent_in(
    dcmqrscp: Callable[..., DicomPeer],
    storescp: Callable[..., DicomPeer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    syntax: str,
) -> None:
    files = [path for path in shipped_files() if syntax_of(path) == syntax]
    if syntax in {RLE, DEFLATED, EXPLICIT_BIG}:
        (study,) = write_studies(tmp_path / "studies", 1, instances=3, transfer_syntaxes=[syntax])
        files += [instance.path for instance in study.instances]
    assert files
    option = OFFERED[syntax]
    ours, receiver = OurSite(tmp_path / "home", monkeypatch), storescp(f"+{option}")
    pacs = dcmqrscp(
        files,
        {**ours.destination, receiver.aet: (receiver.host, receiver.port)},
        options=[f"+{option}", f"-{option}"],
    )

    outcome = ours.back_up(pacs.aet, pacs.port, method)
    assert outcome.ok, outcome.sentence
    stored = ours.stored()
    sent_in = syntax
    if method == "get" and syntax in CONVERTED_FOR_GET:
        sent_in, option = EXPLICIT, CONVERTED_FOR_GET[syntax]
    assert {kept for _, kept, _ in stored} == {sent_in}
    assert stored == control(method, tmp_path / "control", pacs, files, receiver, f"+{option}")
    ours.assert_sound()


@BOTH_WAYS
def test_a_catalog_in_postgresql_knows_the_same(
    dcmqrscp: Callable[..., DicomPeer],
    postgresql_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    studies = write_studies(tmp_path / "studies", 6, instances=3, transfer_syntaxes=[EXPLICIT, IMPLICIT])
    files = [instance.path for study in studies for instance in study.instances]
    ours = OurSite(tmp_path / "home", monkeypatch, catalog_url=postgresql_url)
    pacs = dcmqrscp(files, ours.destination)
    outcome = ours.back_up(pacs.aet, pacs.port, method)
    assert outcome.ok, outcome.sentence
    assert (outcome.found, outcome.instances) == (6, 18)
    ours.assert_sound()
    again = ours.back_up(pacs.aet, pacs.port, method)
    assert again.ok, again.sentence
    assert (again.instances, again.held) == (0, 18)
    assert not (tmp_path / "home" / "catalog.sqlite").exists()
