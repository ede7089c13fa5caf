"""C-GET from the simulated PACS into the spool, under our own P-DATA loop and under the library's."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import pydicom
import pytest
from arranging_receiver import CT, EXPLICIT, PRIVATE_CLASS, all_received, dataset_of

from vna.dimse import OurNode
from vna.dimse.getting import GetOutcome, get
from vna.dimse.pdata import Loop
from vna.errors import (
    AssociationAborted,
    DiskFull,
    PeerTimeout,
    RemoteUnreachable,
    RetrieveFailed,
    ServiceNotAccepted,
)
from vna.identity import FoundInstance
from vna.simulated_pacs import GeneratedStudy, SimulatedPacs, parse_faults, write_studies
from vna.site import RemoteServer
from vna.spool import Spool, read_association

NODE = OurNode("BACKUPDR", dimse_timeout=3, network_timeout=3)


@pytest.fixture(params=list(Loop), autouse=True)
def loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Loop:
    monkeypatch.setenv("BACKUPDR_RECEIVE_LOOP", request.param)
    return request.param


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", reserve_bytes=0)


@pytest.fixture
def study(tmp_path: Path) -> GeneratedStudy:
    (written,) = write_studies(tmp_path / "pacs", 1, instances=6, series=2, size_bytes=20_000)
    return written


@pytest.fixture
def pacs(tmp_path: Path, study: GeneratedStudy, request: pytest.FixtureRequest) -> Iterator[SimulatedPacs]:
    faults = parse_faults(getattr(request, "param", []))
    with SimulatedPacs(tmp_path / "pacs", "SIMULATED", faults=faults) as running:
        yield running


def remote(pacs: SimulatedPacs) -> RemoteServer:
    return RemoteServer(name="sim", aet="SIMULATED", host="127.0.0.1", port=pacs.port)


def found(study: GeneratedStudy) -> list[FoundInstance]:
    return [
        FoundInstance(i.sop_instance_uid, i.series_instance_uid, i.sop_class_uid) for i in study.instances
    ]


def retrieve(
    pacs: SimulatedPacs,
    spool: Spool,
    study: GeneratedStudy,
    instances: Sequence[FoundInstance] | None = None,
    node: OurNode = NODE,
) -> GetOutcome:
    whole = found(study)
    return get(
        remote(pacs),
        node,
        study.study_instance_uid,
        whole if instances is None else instances,
        spool,
        whole=whole,
        study_attributes={},
    )


def received_digests(spool: Spool) -> dict[str, str]:
    return {file.sop_instance_uid: file.dataset_sha256 for file in all_received(spool)}


def digests(study: GeneratedStudy) -> dict[str, str]:
    return {instance.sop_instance_uid: instance.dataset_sha256 for instance in study.instances}


def faulty(*faults: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("pacs", [list(faults)], indirect=True)


def test_a_study_comes_whole_byte_by_byte_and_in_its_transfer_syntaxes(
    pacs: SimulatedPacs, spool: Spool, study: GeneratedStudy
) -> None:
    outcome = retrieve(pacs, spool, study)
    assert (outcome.sentence, outcome.arrived, outcome.completed, outcome.failed) == ("", 12, 12, 0)
    assert received_digests(spool) == digests(study)
    syntaxes = {instance.sop_instance_uid: instance.transfer_syntax_uid for instance in study.instances}
    for file in all_received(spool):
        meta = pydicom.dcmread(file.path, stop_before_pixels=True).file_meta
        assert meta.TransferSyntaxUID == syntaxes[file.sop_instance_uid]
        assert meta.SourceApplicationEntityTitle == "SIMULATED"
    (folder,) = spool.folders()
    record = read_association(folder)
    assert (record.calling_aet, record.called_aet, record.listener) == ("SIMULATED", "BACKUPDR", "get")
    assert not spool.is_open(folder)


def test_only_what_is_wanted_is_asked_for(pacs: SimulatedPacs, spool: Spool, study: GeneratedStudy) -> None:
    wanted = found(study)[::3]
    assert retrieve(pacs, spool, study, wanted).arrived == 4
    assert (
        set(pacs.sent) == {instance.sop_instance_uid for instance in wanted} == set(received_digests(spool))
    )


def test_a_study_nobody_could_list_is_asked_for_whole(
    pacs: SimulatedPacs, spool: Spool, study: GeneratedStudy
) -> None:
    outcome = get(remote(pacs), NODE, study.study_instance_uid, [], spool, whole=[], study_attributes={})
    assert outcome.arrived == 12
    assert received_digests(spool) == digests(study)


@faulty("one-uid-per-request")
def test_a_source_that_refuses_lists_is_asked_one_by_one(
    pacs: SimulatedPacs, spool: Spool, study: GeneratedStudy
) -> None:
    assert retrieve(pacs, spool, study, found(study)[:5]).arrived == 5


@faulty("false-success")
def test_a_success_without_instances_brings_none_and_counts_none(
    pacs: SimulatedPacs, spool: Spool, study: GeneratedStudy
) -> None:
    assert retrieve(pacs, spool, study).arrived == 0
    assert list(spool.folders()) == []


@faulty("refuse-nth=4")
def test_what_the_source_could_not_send_is_its_complaint(
    pacs: SimulatedPacs, spool: Spool, study: GeneratedStudy
) -> None:
    outcome = retrieve(pacs, spool, study)
    assert outcome.arrived == 9
    assert outcome.failed == 3
    assert "3 instances" in outcome.sentence
    assert study.study_instance_uid in outcome.sentence


@faulty("drop-after=5")
def test_an_association_that_is_dropped_keeps_what_came_before(
    pacs: SimulatedPacs, spool: Spool, study: GeneratedStudy
) -> None:
    with pytest.raises(AssociationAborted):
        retrieve(pacs, spool, study)
    assert len(received_digests(spool)) == 5
    assert received_digests(spool).items() <= digests(study).items()
    assert not any(spool.is_open(folder) for folder in spool.folders())
    assert not list(spool.path.rglob("*.part"))


@faulty("no-get")
def test_a_source_without_c_get_is_said_so(pacs: SimulatedPacs, spool: Spool, study: GeneratedStudy) -> None:
    with pytest.raises(ServiceNotAccepted):
        retrieve(pacs, spool, study)


def test_nobody_at_the_port_is_unreachable(pacs: SimulatedPacs, spool: Spool, study: GeneratedStudy) -> None:
    nobody = remote(pacs).model_copy(update={"port": 1})
    with pytest.raises(RemoteUnreachable):
        get(nobody, NODE, study.study_instance_uid, [], spool, whole=[], study_attributes={})


def test_a_study_that_the_source_does_not_have_brings_nothing_and_no_traceback(
    pacs: SimulatedPacs, spool: Spool
) -> None:
    try:
        outcome = get(remote(pacs), NODE, "1.2.3.4", [], spool, whole=[], study_attributes={})
        assert outcome.arrived == 0
    except RetrieveFailed:
        pass
    assert list(spool.folders()) == []


def test_a_full_disk_is_our_error_and_not_the_sources(
    pacs: SimulatedPacs, spool: Spool, study: GeneratedStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int = 0) -> None:
        raise DiskFull("spool", 1, 2)

    monkeypatch.setattr(spool, "check_space", full)
    with pytest.raises(DiskFull):
        retrieve(pacs, spool, study)
    assert list(spool.folders()) == []


@faulty("slow=1")
def test_a_slow_source_is_waited_for_as_long_as_something_comes(
    pacs: SimulatedPacs, spool: Spool, study: GeneratedStudy
) -> None:
    patient = dataclasses.replace(NODE, dimse_timeout=2.5)
    assert retrieve(pacs, spool, study, found(study)[:4], node=patient).arrived == 4


@faulty("slow=5")
def test_a_silent_source_is_a_timeout(pacs: SimulatedPacs, spool: Spool, study: GeneratedStudy) -> None:
    impatient = dataclasses.replace(NODE, dimse_timeout=1)
    with pytest.raises((PeerTimeout, AssociationAborted)):
        retrieve(pacs, spool, study, node=impatient)


def test_a_private_class_of_the_source_comes_too(tmp_path: Path, spool: Spool) -> None:
    (study,) = write_studies(
        tmp_path / "pacs", 1, instances=2, transfer_syntaxes=[EXPLICIT], modalities=["CT"]
    )
    dataset = pydicom.dcmread(study.instances[0].path)
    assert dataset.SOPClassUID == CT
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = PRIVATE_CLASS
    dataset.save_as(study.instances[0].path)
    listed = [
        dataclasses.replace(instance, sop_class_uid=PRIVATE_CLASS if number == 0 else CT)
        for number, instance in enumerate(found(study))
    ]
    with SimulatedPacs(tmp_path / "pacs", "SIMULATED") as running:
        outcome = get(
            remote(running), NODE, study.study_instance_uid, listed, spool, whole=listed, study_attributes={}
        )
    assert outcome.arrived == 2
    files = {file.sop_instance_uid: dataset_of(file.path) for file in all_received(spool)}
    assert files[study.instances[0].sop_instance_uid] == dataset_of(study.instances[0].path)
