"""Studies for rehearsals are valid DICOM, invented, varied, and the same for the same seed."""

import hashlib
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.rle import _rle_decode_frame

from vna.simulated_pacs import (
    TRANSFER_SYNTAXES,
    add_instances,
    change_instance,
    dataset_sha256,
    shipped_files,
    write_studies,
)
from vna.simulated_pacs.studies import RLE


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    one, same, other = (
        write_studies(tmp_path / name, 6, seed=seed) for name, seed in (("a", 7), ("b", 7), ("c", 8))
    )
    digests = [
        [[i.dataset_sha256 for i in study.instances] for study in studies] for studies in (one, same, other)
    ]
    assert digests[0] == digests[1]
    assert not {study.study_instance_uid for study in one} & {study.study_instance_uid for study in other}


def test_generated_files_say_what_the_study_facts_say(tmp_path: Path) -> None:
    studies = write_studies(tmp_path, 16, series=2)
    for study in studies:
        for instance in study.instances:
            dataset = dcmread(instance.path)
            assert dataset.StudyInstanceUID == study.study_instance_uid
            assert (
                dataset.SOPInstanceUID
                == dataset.file_meta.MediaStorageSOPInstanceUID
                == instance.sop_instance_uid
            )
            assert dataset.file_meta.TransferSyntaxUID == instance.transfer_syntax_uid
            assert (dataset.PatientName, dataset.PatientID) == (study.patient_name, study.patient_id)
            assert dataset.Modality in study.modalities
    assert {i.transfer_syntax_uid for study in studies for i in study.instances} == set(TRANSFER_SYNTAXES)
    assert len({study.patient_name for study in studies}) == 8  # in six character sets


@pytest.mark.parametrize("transfer_syntax_uid", TRANSFER_SYNTAXES)
def test_generated_pixels_are_as_many_as_the_header_says(tmp_path: Path, transfer_syntax_uid: str) -> None:
    [study] = write_studies(tmp_path, 1, modalities=["CT"], transfer_syntaxes=[transfer_syntax_uid])
    dataset = dcmread(study.instances[0].path)
    pixels = dataset.PixelData
    if transfer_syntax_uid == RLE:
        frame = get_frame(pixels, 0, number_of_frames=1)
        pixels = _rle_decode_frame(frame, dataset.Rows, dataset.Columns, 1, 16)
    assert len(pixels) == dataset.Rows * dataset.Columns * 2 == 2048


def test_a_large_instance_is_multi_frame_and_as_large_as_asked(tmp_path: Path) -> None:
    [study] = write_studies(tmp_path, 1, instances=1, size_bytes=8_000_000, modalities=["CT"])
    dataset = dcmread(study.instances[0].path)
    assert 7_400_000 < len(dataset.PixelData) <= 8_000_000
    assert len(dataset.PixelData) == dataset.NumberOfFrames * dataset.Rows * dataset.Columns * 2


def test_the_digest_of_a_data_set_leaves_the_header_out(tmp_path: Path) -> None:
    [study] = write_studies(tmp_path, 1, instances=1)
    instance = study.instances[0]
    content = instance.path.read_bytes()
    dataset = content[content.index(b"\x08\x00\x16\x00UI") :]
    assert instance.dataset_sha256 == dataset_sha256(instance.path) == hashlib.sha256(dataset).hexdigest()


def test_dates_are_taken_in_turn_and_may_be_absent(tmp_path: Path) -> None:
    studies = write_studies(tmp_path, 4, dates=["20240101", ""])
    assert [study.study_date for study in studies] == ["20240101", "", "20240101", ""]
    assert dcmread(studies[1].instances[0].path).StudyDate == ""


@pytest.mark.parametrize("transfer_syntax_uid", TRANSFER_SYNTAXES)
def test_a_study_can_grow_and_an_instance_can_be_corrected(tmp_path: Path, transfer_syntax_uid: str) -> None:
    [study] = write_studies(tmp_path, 1, modalities=["MR"], transfer_syntaxes=[transfer_syntax_uid])
    grown = add_instances(study, 2)
    assert len({instance.sop_instance_uid for instance in grown.instances}) == 4
    new, last = dcmread(grown.instances[-1].path), dcmread(study.instances[-1].path)
    assert (
        new.SOPInstanceUID == new.file_meta.MediaStorageSOPInstanceUID == grown.instances[-1].sop_instance_uid
    )
    assert new.PixelData == last.PixelData

    corrected = change_instance(study.instances[0], StudyDescription="Corrected")
    dataset = dcmread(corrected.path)
    assert dataset.StudyDescription == "Corrected"
    assert dataset.SOPInstanceUID == corrected.sop_instance_uid == study.instances[0].sop_instance_uid
    assert dataset.file_meta.TransferSyntaxUID == transfer_syntax_uid
    assert corrected.dataset_sha256 == dataset_sha256(corrected.path) != study.instances[0].dataset_sha256


def test_the_files_inside_pydicom_bring_many_kinds_without_any_fetch() -> None:
    headers = [dcmread(path, stop_before_pixels=True) for path in shipped_files()]
    assert len({header.SOPInstanceUID for header in headers}) == len(headers) > 100
    assert len({header.file_meta.TransferSyntaxUID for header in headers}) >= 8
    assert len({str(header.get("SpecificCharacterSet")) for header in headers}) >= 10
