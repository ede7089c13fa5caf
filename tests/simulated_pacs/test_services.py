"""Without faults the simulated PACS is a plain, correct DICOM server; pynetdicom says so as the other side."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from pacs_client import Destination, World, identifier
from pydicom import dcmread
from pynetdicom.sop_class import (
    CTImageStorage,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from vna.errors import PortInUse
from vna.simulated_pacs import (
    SimulatedPacs,
    add_instances,
    change_instance,
    dataset_sha256,
    shipped_files,
    write_studies,
)
from vna.simulated_pacs.folder import read_stored

Make = Callable[..., World]


def test_it_answers_an_echo_and_counts_the_association(world: Make) -> None:
    made = world()
    assert made.client.echo() == 0x0000
    assert made.pacs.associations == made.pacs.peak_associations == 1


def test_it_answers_only_to_its_own_ae_title(world: Make) -> None:
    made = world()
    with made.client.association(Verification, called="SOMEBODY") as association:
        assert association.is_rejected
        assert association.acceptor.primitive.result == 1
        assert association.acceptor.primitive.diagnostic == 7


def test_all_studies_are_found_with_their_sums(world: Make) -> None:
    made = world(count=12, series=2, instances=3)
    found = made.client.find(
        "STUDY",
        StudyInstanceUID="",
        PatientName="",
        ModalitiesInStudy="",
        NumberOfStudyRelatedSeries="",
        NumberOfStudyRelatedInstances="",
    )
    by_uid = {answer.StudyInstanceUID: answer for answer in found}
    assert by_uid.keys() == {study.study_instance_uid for study in made.studies}
    for study in made.studies:
        answer = by_uid[study.study_instance_uid]
        assert answer.PatientName == study.patient_name  # each in the character set of its files
        assert sorted(answer.ModalitiesInStudy) == sorted(study.modalities)
        assert (answer.NumberOfStudyRelatedSeries, answer.NumberOfStudyRelatedInstances) == (2, 6)


def test_series_and_images_are_found_below_their_study(world: Make) -> None:
    made = world(series=2, instances=3)
    study = made.studies[0]
    series = made.client.find(
        "SERIES",
        StudyInstanceUID=study.study_instance_uid,
        SeriesInstanceUID="",
        Modality="",
        InstitutionName="",
    )
    assert {one.SeriesInstanceUID for one in series} == {i.series_instance_uid for i in study.instances}
    assert {one.Modality for one in series} == set(study.modalities)
    assert {one.InstitutionName for one in series} == {"Sankt Beispiel"}
    images = made.client.find(
        "IMAGE",
        StudyInstanceUID=study.study_instance_uid,
        SeriesInstanceUID=study.instances[0].series_instance_uid,
        SOPInstanceUID="",
        SOPClassUID="",
        AvailableTransferSyntaxUID="",
        Rows="",
    )
    expected = {i.sop_instance_uid: i for i in study.instances[:3]}
    assert {image.SOPInstanceUID for image in images} == expected.keys()
    for image in images:
        assert image.SOPClassUID == expected[image.SOPInstanceUID].sop_class_uid
        assert image.AvailableTransferSyntaxUID == expected[image.SOPInstanceUID].transfer_syntax_uid
        assert image.Rows == 32


def test_an_attribute_of_a_deeper_level_is_left_out_and_not_matched(world: Make) -> None:
    found = world().client.find("STUDY", StudyInstanceUID="", InstitutionName="Nowhere")
    assert len(found) == 6
    assert not any("InstitutionName" in answer for answer in found)


def test_patients_are_found_in_the_patient_root_model_only(world: Make) -> None:
    made = world(count=6)
    found = made.client.find(
        "PATIENT", patient_root=True, PatientID="", PatientName="", NumberOfPatientRelatedStudies=""
    )
    assert {answer.PatientID for answer in found} == {study.patient_id for study in made.studies}
    assert sum(answer.NumberOfPatientRelatedStudies for answer in found) == 6
    assert made.client.ask("PATIENT", PatientID="")[1].Status == 0xA900


@pytest.mark.parametrize(
    ("level", "keys"),
    [
        ("SERIES", {"SeriesInstanceUID": ""}),
        ("IMAGE", {"StudyInstanceUID": "1.2", "SOPInstanceUID": ""}),
        ("SERIES", {"StudyInstanceUID": "1.2\\1.3", "SeriesInstanceUID": ""}),
        ("NONSENSE", {"StudyInstanceUID": "1.2"}),
    ],
)
def test_a_query_without_the_unique_keys_above_is_refused(
    world: Make, level: str, keys: dict[str, str]
) -> None:
    found, final = world().client.ask(level, **keys)
    assert not found
    assert final.Status == 0xA900
    assert final.ErrorComment


def test_a_whole_study_comes_by_get_byte_for_byte(world: Make) -> None:
    made = world(series=2, instances=3)
    for study in made.studies:
        result = made.client.get(StudyInstanceUID=study.study_instance_uid)
        assert result.status == 0x0000
        assert result.files == made.digests(study)
        assert result.counts[-1][1:] == (6, 0, 0)
    assert set(made.pacs.sent.values()) == {1}


def test_a_whole_study_comes_by_move_byte_for_byte_with_progress(
    world: Make, destination: Destination
) -> None:
    made = world(series=2, instances=3)
    for study in made.studies:
        result = made.client.move(destination, StudyInstanceUID=study.study_instance_uid)
        assert result.status == 0x0000
        assert result.files == made.digests(study)
        assert [counts[0] for counts in result.counts[:-1]] == [5, 4, 3, 2, 1, 0]
    assert made.pacs.retrieves == len(made.studies)


def test_only_the_instances_asked_for_are_sent(world: Make, destination: Destination) -> None:
    made = world(series=2, instances=3)
    study = made.studies[0]
    wanted = study.instances[3:5]
    keys = {
        "StudyInstanceUID": study.study_instance_uid,
        "SeriesInstanceUID": wanted[0].series_instance_uid,
        "SOPInstanceUID": "\\".join(instance.sop_instance_uid for instance in wanted),
    }
    expected = {instance.sop_instance_uid: instance.dataset_sha256 for instance in wanted}
    assert made.client.get("IMAGE", **keys).files == expected
    assert made.client.move(destination, "IMAGE", **keys).files == expected
    series = {name: keys[name] for name in ("StudyInstanceUID", "SeriesInstanceUID")}
    assert len(made.client.move(destination, "SERIES", **series).files) == 3


def test_several_studies_can_be_moved_in_one_request(world: Make, destination: Destination) -> None:
    made = world()
    uids = "\\".join(study.study_instance_uid for study in made.studies[:3])
    assert made.client.move(destination, StudyInstanceUID=uids).files == made.digests(*made.studies[:3])


def test_an_object_without_a_fitting_context_is_not_transcoded_but_told(world: Make) -> None:
    made = world()
    study = made.studies[1]  # implicit little endian
    made.client.syntaxes = tuple((sop_class, "1.2.840.10008.1.2.1") for sop_class, _ in made.client.syntaxes)
    result = made.client.get(StudyInstanceUID=study.study_instance_uid)
    assert result.status == 0xA702
    assert not result.files
    assert set(result.failed) == made.digests(study).keys()
    assert not made.pacs.sent


def test_an_unknown_move_destination_is_refused_and_a_dead_one_is_told(
    world: Make, destination: Destination
) -> None:
    made = world()
    uid = made.studies[0].study_instance_uid
    assert made.client.move(Destination("NOBODY", 1), StudyInstanceUID=uid).statuses == [0xA801]
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        made.pacs.destinations["DEAD"] = ("127.0.0.1", unused.getsockname()[1])
        assert made.client.move(Destination("DEAD", 1), StudyInstanceUID=uid).status == 0xA702


def test_a_retrieve_of_what_is_not_there_succeeds_with_nothing(world: Make) -> None:
    result = world().client.get(StudyInstanceUID="1.2.3")
    assert (result.status, result.files) == (0x0000, {})


def test_a_cancelled_query_ends_as_cancelled(world: Make) -> None:
    made = world("slow=0.05", count=20, instances=1)
    model = StudyRootQueryRetrieveInformationModelFind
    with made.client.association(model) as association:
        responses = association.send_c_find(identifier("STUDY", StudyInstanceUID=""), model, msg_id=7)
        next(responses)
        association.send_c_cancel(7, query_model=model)
        statuses = [status.Status for status, _ in responses]
    assert statuses[-1] == 0xFE00
    assert len(statuses) < 20


def test_a_cancelled_move_ends_as_cancelled_with_what_remains(world: Make, destination: Destination) -> None:
    made = world("slow=0.05", count=1, instances=20, modalities=["CT"])
    model = StudyRootQueryRetrieveInformationModelMove
    with made.client.association(model) as association:
        keys = identifier("STUDY", StudyInstanceUID=made.studies[0].study_instance_uid)
        responses = association.send_c_move(keys, destination.aet, model, msg_id=9)
        next(responses)
        association.send_c_cancel(9, query_model=model)
        final = [status for status, _ in responses][-1]
    assert final.Status == 0xFE00
    assert final.NumberOfRemainingSuboperations + final.NumberOfCompletedSuboperations == 20
    assert destination.result.arrivals < 20


def test_what_is_stored_here_is_found_and_lies_in_the_folder(world: Make, tmp_path: Path) -> None:
    made = world(count=0)
    [new] = write_studies(
        tmp_path / "elsewhere", 1, seed=5, modalities=["CT"], transfer_syntaxes=["1.2.840.10008.1.2.1"]
    )
    with made.client.association(storage=[(CTImageStorage, "1.2.840.10008.1.2.1")]) as association:
        for instance in new.instances:
            assert association.send_c_store(dcmread(instance.path)).Status == 0x0000
    assert made.pacs.received == {instance.sop_instance_uid: 1 for instance in new.instances}
    [found] = made.client.find("STUDY", StudyInstanceUID="", NumberOfStudyRelatedInstances="")
    assert (found.StudyInstanceUID, found.NumberOfStudyRelatedInstances) == (new.study_instance_uid, 2)
    kept = {dataset_sha256(path) for path in (made.folder / "received").iterdir()}
    assert kept == {instance.dataset_sha256 for instance in new.instances}


def test_a_private_storage_class_is_taken(world: Make) -> None:
    made = world()
    private = "1.2.826.0.1.3680043.9.9999.1"
    dataset = dcmread(made.studies[0].instances[0].path)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = private
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    with made.client.association(private) as association:
        assert association.send_c_store(dataset).Status == 0x0000
    assert "1.2.3.4" in made.pacs.received


def test_a_data_set_with_another_uid_than_its_command_is_refused_and_leaves_nothing(world: Make) -> None:
    made = world()
    dataset = dcmread(made.studies[0].instances[0].path)
    dataset.pop("StudyInstanceUID")
    with made.client.association(CTImageStorage) as association:
        assert association.send_c_store(dataset).Status == 0xC000
    assert not list((made.folder / "received").iterdir())


def test_files_that_come_change_or_go_are_noticed(world: Make) -> None:
    made = world()
    study = made.studies[0]
    keys = {
        "StudyInstanceUID": study.study_instance_uid,
        "NumberOfStudyRelatedInstances": "",
        "StudyDescription": "",
    }
    grown = add_instances(study, 3)
    made.pacs.look_again()
    assert made.client.find("STUDY", **keys)[0].NumberOfStudyRelatedInstances == 5
    for instance in grown.instances:
        change_instance(instance, StudyDescription="Other")
    until = time.monotonic() + 10  # without look_again: soon, by itself
    while made.client.find("STUDY", **keys)[0].StudyDescription != "Other":
        assert time.monotonic() < until
    for instance in grown.instances:
        instance.path.unlink()
    made.pacs.look_again()
    assert not made.client.find("STUDY", **keys)


def test_other_files_in_the_folder_do_no_harm(world: Make) -> None:
    made = world()
    (made.folder / "notes.txt").write_text("no image")
    (made.folder / "empty").write_bytes(b"")
    (made.folder / "cut.dcm").write_bytes(made.studies[0].instances[0].path.read_bytes()[:300])
    (made.folder / "loop").symlink_to(made.folder)
    made.pacs.look_again()
    assert len(made.client.find("STUDY", StudyInstanceUID="")) == 6


def test_every_file_inside_pydicom_is_found_and_sent_as_it_is(tmp_path: Path, world: Make) -> None:
    made = world(count=0)
    expected = {}
    for number, path in enumerate(shipped_files()):
        (made.folder / f"{number}.dcm").write_bytes(path.read_bytes())
        header = dcmread(path, stop_before_pixels=True)
        expected[header.SOPInstanceUID] = dataset_sha256(path)
        pair = (str(header.file_meta.MediaStorageSOPClassUID), str(header.file_meta.TransferSyntaxUID))
        made.client.syntaxes = tuple({*made.client.syntaxes, pair})
    made.pacs.look_again()
    found = made.client.find("STUDY", StudyInstanceUID="", PatientName="", PatientID="")
    odd = next(path for path in (Path(pydicom.__file__).parent / "data").rglob("SC_rgb_jpeg.dcm"))
    assert read_stored(odd) is not None  # implicit inside, whatever it declares
    files: dict[str, str] = {}
    for study in found:
        result = made.client.get(StudyInstanceUID=study.StudyInstanceUID)
        assert result.status == 0x0000, study
        files |= result.files
    assert files == expected


def test_many_associations_at_once_are_served_and_their_peak_is_known(world: Make) -> None:
    made = world("slow=0.05")
    threads = [
        threading.Thread(target=made.client.find, args=("STUDY",), kwargs={"StudyInstanceUID": ""})
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made.pacs.queries == 8
    assert 2 <= made.pacs.peak_associations <= 8


def test_rubbish_on_the_wire_ends_that_connection_only(world: Make) -> None:
    made = world()
    for rubbish in (
        b"GET / HTTP/1.0\r\n\r\n",
        b"\x01\x00\xff\xff\xff\xff",
        b"\x01\x00\x00\x00\x00\x10" + b"\xff" * 16,
    ):
        with socket.create_connection(("127.0.0.1", made.pacs.port), 5) as connection:
            connection.sendall(rubbish)
            with contextlib.suppress(ConnectionResetError):  # ends one way or the other
                assert connection.recv(10) == b""
    assert made.client.echo() == 0x0000


def test_a_port_that_is_held_is_one_sentence(world: Make, tmp_path: Path) -> None:
    made = world()
    with pytest.raises(PortInUse, match=str(made.pacs.port)), SimulatedPacs(tmp_path, port=made.pacs.port):
        pass


def test_leaving_ends_open_associations_and_frees_the_port(tmp_path: Path) -> None:
    with SimulatedPacs(tmp_path) as pacs:
        silent = socket.create_connection(("127.0.0.1", pacs.port), 5)
        while not pacs._open:
            time.sleep(0.01)
        started = time.monotonic()
    assert time.monotonic() - started < 4
    assert silent.recv(1) == b""
    silent.close()
    with SimulatedPacs(tmp_path, port=pacs.port):
        pass
    assert not [thread for thread in threading.enumerate() if thread.name == "simulated-pacs"]
