"""C-FIND through the wire: against servers that misbehave in one way each, the simulated PACS, and dcmqrscp."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dimse.conftest import remote_at, serving
from pydicom.dataset import Dataset
from pynetdicom import evt

from vna.dimse import OurNode, SourceGate, find_deeper_values, find_instances, find_studies
from vna.dimse.querying import STUDY_ROOT_FIND
from vna.errors import (
    AnswerInvalid,
    AssociationAborted,
    PeerTimeout,
    QueryFailed,
    QueryTruncated,
    ServiceNotAccepted,
    SourceCannotList,
)
from vna.identity import FoundStudy
from vna.simulated_pacs import SimulatedPacs, parse_faults, write_studies
from vna.site import RemoteServer


def found(remote: RemoteServer, node: OurNode, **keys: str) -> list[FoundStudy]:
    return list(find_studies(remote, node, keys, gate=SourceGate(remote)))


def uids(studies: list[Any]) -> list[str]:
    return sorted(study.study_instance_uid for study in studies)


def at(pacs: SimulatedPacs, **changes: object) -> RemoteServer:
    return remote_at(pacs.port, aet=pacs.aet, **changes)


# -- one misbehaviour each

Answer = Callable[[evt.Event], Iterator[tuple[int, Dataset | None]]]


def answering(answer: Answer) -> Any:
    return serving(STUDY_ROOT_FIND, handlers=[(evt.EVT_C_FIND, answer)])


def study_answer(uid: str, **values: Any) -> Dataset:
    identifier = Dataset()
    identifier.StudyInstanceUID = uid
    for keyword, value in values.items():
        setattr(identifier, keyword, value)
    return identifier


def test_a_failure_status_names_the_level_and_the_status(node: OurNode) -> None:
    def answer(_: evt.Event) -> Iterator[tuple[int, None]]:
        yield 0xC001, None

    with (
        answering(answer) as remote,
        pytest.raises(QueryFailed, match=r"pacs: .*STUDY level .*0xC001") as caught,
    ):
        found(remote, node)
    assert not caught.value.transient


def test_a_source_out_of_resources_is_worth_another_try(node: OurNode) -> None:
    def answer(_: evt.Event) -> Iterator[tuple[int, None]]:
        yield 0xA700, None

    with answering(answer) as remote, pytest.raises(QueryFailed) as caught:
        found(remote, node)
    assert caught.value.transient


def test_a_study_without_uid_is_an_invalid_answer(node: OurNode) -> None:
    def answer(_: evt.Event) -> Iterator[tuple[int, Dataset]]:
        yield 0xFF00, study_answer("")

    with answering(answer) as remote, pytest.raises(AnswerInvalid, match="without Study Instance UID"):
        found(remote, node)


def test_an_association_that_ends_among_the_answers_is_no_short_list(node: OurNode) -> None:
    def answer(event: evt.Event) -> Iterator[tuple[int, Dataset]]:
        yield 0xFF00, study_answer("1.2.3")
        event.assoc.abort()

    with answering(answer) as remote, pytest.raises(AssociationAborted):
        found(remote, node)


def test_a_source_that_stops_answering_is_no_short_list(node: OurNode) -> None:
    def answer(_: evt.Event) -> Iterator[tuple[int, Dataset]]:
        yield 0xFF00, study_answer("1.2.3")
        time.sleep(4)

    with answering(answer) as remote, pytest.raises(PeerTimeout, match="during C-FIND"):
        found(remote, node)


def test_over_long_and_illegal_values_are_accepted(node: OurNode) -> None:
    def answer(_: evt.Event) -> Iterator[tuple[int, Dataset]]:
        yield 0xFF00, study_answer("1.2.3", StudyID="x" * 40, AccessionNumber="a" * 99, StudyTime="99:99")

    with (
        answering(answer) as remote,
        pytest.warns(UserWarning, match="value"),
    ):  # the library's, on the server's side
        (study,) = found(remote, node)
    assert study.get("StudyID") == "x" * 40
    assert study.get("StudyTime") == "99:99"


def test_what_is_not_ascii_is_asked_in_utf8_and_answered_in_any_charset(node: OurNode) -> None:
    asked: list[tuple[str, str]] = []

    def answer(event: evt.Event) -> Iterator[tuple[int, Dataset]]:
        asked.append((event.identifier.SpecificCharacterSet, str(event.identifier.PatientName)))
        yield 0xFF00, study_answer("1.2.1", SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Änne")
        yield 0xFF00, study_answer("1.2.2", SpecificCharacterSet="ISO_IR 144", PatientName="Люкceмбypг")

    with answering(answer) as remote:
        names = [study.get("PatientName") for study in found(remote, node, PatientName="Mü*")]
    assert set(asked) == {("ISO_IR 192", "Mü*")}
    assert names == ["Müller^Änne", "Люкceмбypг"]


def test_a_peer_without_queries_is_told(node: OurNode) -> None:
    with (
        serving("1.2.840.10008.1.1", handlers=[]) as remote,
        pytest.raises(ServiceNotAccepted, match="C-FIND"),
    ):
        found(remote, node)


def test_a_reader_that_stops_early_leaves_no_association_open(node: OurNode) -> None:
    ended: list[str] = []

    def answer(_: evt.Event) -> Iterator[tuple[int, Dataset]]:
        for number in range(100):
            yield 0xFF00, study_answer(f"1.2.{number}")

    with serving(
        STUDY_ROOT_FIND,
        handlers=[(evt.EVT_C_FIND, answer), (evt.EVT_ABORTED, lambda event: ended.append("aborted"))],
    ) as remote:
        studies = find_studies(remote, node, {}, gate=SourceGate(remote))
        next(studies)
        studies.close()  # type: ignore[attr-defined]
        deadline = time.monotonic() + 2
        while not ended and time.monotonic() < deadline:
            time.sleep(0.01)
    assert ended


DeeperAnswer = tuple[int, dict[str, str] | None]
SERIES = [("1.1", "North"), ("1.2", "")]


def telling(
    images: dict[str, list[DeeperAnswer]], series_status: int = 0, series: list[tuple[str, str]] = SERIES
) -> Any:
    """A source that tells the institution of a series, or of the images below it."""

    def answer(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        if event.identifier.QueryRetrieveLevel == "SERIES":
            for uid, institution in series:
                yield 0xFF00, study_answer("1.2", SeriesInstanceUID=uid, InstitutionName=institution)
            if series_status:
                yield series_status, None
            return
        for status, values in images.get(event.identifier.SeriesInstanceUID, []):
            yield status, None if values is None else study_answer("1.2", **values)

    return answering(answer)


def institutions(remote: RemoteServer, node: OurNode) -> list[str]:
    return find_deeper_values(remote, node, "1.2", ["InstitutionName"]).get("InstitutionName", [])


def test_images_are_asked_in_every_series_that_does_not_tell_the_value(node: OurNode) -> None:
    with telling(
        {"1.2": [(0xFF00, {"InstitutionName": ""}), (0xFF00, {"InstitutionName": "South"})]}
    ) as remote:
        assert institutions(remote, node) == ["North", "South"]


@pytest.mark.parametrize(
    "images", [[], [(0xFF00, {"InstitutionName": ""})], [(0xA900, None)]], ids=["none", "empty", "refused"]
)
def test_a_series_whose_value_stays_unknown_shows_among_the_values(
    images: list[DeeperAnswer], node: OurNode
) -> None:
    with telling({"1.2": images}) as remote:
        assert institutions(remote, node) == ["North", ""]


@pytest.mark.parametrize("status", [0xFE00, 0xB000, 0x0107, 0xA700])
def test_a_cut_list_of_series_leaves_the_value_of_the_others_unknown(status: int, node: OurNode) -> None:
    with telling({}, status, [("1.1", "North")]) as remote:
        assert sorted(institutions(remote, node)) == ["", "North"]


def test_a_cut_list_of_images_leaves_the_value_of_the_others_unknown(node: OurNode) -> None:
    with telling({"1.2": [(0xFF00, {"InstitutionName": "South"}), (0xFE00, None)]}) as remote:
        assert institutions(remote, node) == ["North", "South", ""]


def test_a_value_that_nothing_tells_is_missing(node: OurNode) -> None:
    with telling({}, series=[("1.1", ""), ("1.2", "")]) as remote:
        assert institutions(remote, node) == []


# -- the simulated PACS


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,000 studies, 60 of them on one day; 30 lose their date by the fault."""
    folder = tmp_path_factory.mktemp("archive")
    dates = [f"{2015 + n % 9}{1 + n % 12:02d}{1 + n % 28:02d}" for n in range(940)] + ["20240229"] * 60
    times = [f"{n % 24:02d}{n * 7 % 60:02d}{n * 11 % 60:02d}" for n in range(1000)]
    write_studies(folder, 1000, instances=1, size_bytes=16, dates=dates, times=times)
    return folder


@pytest.mark.parametrize(
    "faults",
    [
        ["cap-answers=50", "null-dates=30"],
        ["cap-answers=50", "null-dates=30", "duplicate-answers", "missing-counts", "missing-modalities"],
    ],
    ids="+".join,
)
def test_a_source_that_cuts_at_50_gives_all_1000_or_names_the_interval(
    archive: Path, node: OurNode, faults: list[str]
) -> None:
    with SimulatedPacs(archive, faults=parse_faults(faults)) as pacs:
        studies = found(at(pacs), node)
    assert len(studies) == len(set(uids(studies))) == 1000
    assert sum(not study.get("StudyDate") for study in studies) == 30


def test_a_source_that_does_not_cut_is_asked_a_handful_of_queries(archive: Path, node: OurNode) -> None:
    with SimulatedPacs(archive) as pacs:
        assert len(found(at(pacs), node)) == 1000
        assert pacs.queries <= 8
        assert pacs.associations == 1


@pytest.fixture
def little_archive(tmp_path: Path) -> Path:
    dates = ["20230101", "20230601", "20240229", "20240229"]
    times = [f"{n % 24:02d}{n * 7 % 60:02d}00" for n in range(70)]
    write_studies(tmp_path / "pacs", 70, instances=1, size_bytes=16, dates=dates, times=times)
    return tmp_path / "pacs"


LESS = pytest.mark.parametrize("fault", ["no-empty-match", "ignore-key=StudyDate"])


@LESS
def test_a_source_that_understands_less_still_gives_all(
    little_archive: Path, node: OurNode, fault: str
) -> None:
    with SimulatedPacs(little_archive, faults=parse_faults(["null-dates=10", fault])) as pacs:
        assert len(found(at(pacs), node)) == 70


@LESS
def test_where_it_cuts_as_well_the_list_cannot_be_proven_and_that_is_said(
    little_archive: Path, node: OurNode, fault: str
) -> None:
    faults = parse_faults(["null-dates=10", "cap-answers=50", fault])
    with (
        SimulatedPacs(little_archive, faults=faults) as pacs,
        pytest.raises(QueryTruncated, match="those without a date"),
    ):
        found(at(pacs), node)


def test_rubbish_for_an_identifier_is_an_invalid_answer(archive: Path, node: OurNode) -> None:
    with (
        SimulatedPacs(archive, faults=parse_faults(["rubbish"])) as pacs,
        pytest.raises(AnswerInvalid, match="pacs: sent an answer that is not DICOM"),
    ):
        found(at(pacs), node)


def test_a_source_that_hangs_times_out(archive: Path, node: OurNode) -> None:
    with SimulatedPacs(archive, faults=parse_faults(["hang"])) as pacs, pytest.raises(PeerTimeout):
        found(at(pacs), node)


@pytest.fixture
def studies(tmp_path: Path) -> list[Any]:
    return write_studies(tmp_path / "pacs", 3, instances=60, series=2, size_bytes=16)


def test_all_instances_of_a_study_are_listed_with_class_and_series(
    tmp_path: Path, studies: list[Any], node: OurNode
) -> None:
    with SimulatedPacs(tmp_path / "pacs") as pacs:
        listed = find_instances(at(pacs), node, studies[0].study_instance_uid)
    assert {(i.sop_instance_uid, i.series_instance_uid, i.sop_class_uid) for i in listed} == {
        (i.sop_instance_uid, i.series_instance_uid, i.sop_class_uid) for i in studies[0].instances
    }
    assert len(listed) == 120


@pytest.mark.parametrize("more", [[], ["missing-counts"], ["wrong-counts"]], ids=["counts", "none", "wrong"])
def test_a_list_of_instances_that_was_cut_is_noticed(
    tmp_path: Path, studies: list[Any], node: OurNode, more: list[str]
) -> None:
    with (
        SimulatedPacs(tmp_path / "pacs", faults=parse_faults(["cap-answers=50:all", *more])) as pacs,
        pytest.raises(QueryTruncated, match=f"study {studies[0].study_instance_uid} in series"),
    ):
        find_instances(at(pacs), node, studies[0].study_instance_uid)


@pytest.mark.parametrize("fault", ["wrong-counts", "missing-counts"])
def test_a_whole_list_is_taken_whatever_the_source_counts(tmp_path: Path, node: OurNode, fault: str) -> None:
    (study,) = write_studies(tmp_path / "pacs", 1, instances=50, series=2, size_bytes=16)
    with SimulatedPacs(tmp_path / "pacs", faults=parse_faults([fault])) as pacs:
        assert len(find_instances(at(pacs), node, study.study_instance_uid)) == 100


@pytest.mark.parametrize("fault", ["no-image-level", "no-image-level=C000"])
def test_a_source_that_lists_no_images_is_told_as_such(
    tmp_path: Path, studies: list[Any], node: OurNode, fault: str
) -> None:
    uid = studies[0].study_instance_uid
    with (
        SimulatedPacs(tmp_path / "pacs", faults=parse_faults([fault])) as pacs,
        pytest.raises(SourceCannotList, match=f"study {uid}: stored, unproven: pacs cannot list"),
    ):
        find_instances(at(pacs), node, uid)


def test_a_study_the_source_lists_nothing_of_is_not_an_empty_study(
    tmp_path: Path, studies: list[Any], node: OurNode
) -> None:
    with (
        SimulatedPacs(tmp_path / "pacs") as pacs,
        pytest.raises(SourceCannotList, match="lists no instances"),
    ):
        find_instances(at(pacs), node, "1.2.3.4")


def test_an_attribute_of_the_series_is_found_below_the_study(
    tmp_path: Path, studies: list[Any], node: OurNode
) -> None:
    with SimulatedPacs(tmp_path / "pacs") as pacs:
        values = find_deeper_values(
            at(pacs), node, studies[0].study_instance_uid, ["Modality", "InstanceNumber", "00091001"]
        )
    assert set(values["Modality"]) == set(studies[0].modalities)
    assert len(values["InstanceNumber"]) >= 60
    assert "00091001" not in values


def test_the_source_gets_its_pause_between_two_queries(
    tmp_path: Path, studies: list[Any], node: OurNode
) -> None:
    with SimulatedPacs(tmp_path / "pacs") as pacs:
        begun = time.monotonic()
        find_instances(at(pacs, pause_seconds=0.2), node, studies[0].study_instance_uid)
        assert time.monotonic() - begun >= 0.2 * (pacs.queries - 1)


# -- DCMTK


def test_dcmqrscp_gives_every_study_and_every_instance(
    tmp_path: Path, node: OurNode, dcmqrscp: Callable[..., Any]
) -> None:
    stored = write_studies(tmp_path / "files", 60, instances=2, size_bytes=16)
    peer = dcmqrscp(i.path for study in stored for i in study.instances)
    remote = remote_at(peer.port, aet=peer.aet)
    assert uids(found(remote, node)) == uids(stored)
    for study in stored[:5]:
        listed = find_instances(remote, node, study.study_instance_uid)
        assert {i.sop_instance_uid for i in listed} == {i.sop_instance_uid for i in study.instances}


def test_dcmqrscp_finds_by_date_range_and_by_uid(
    tmp_path: Path, node: OurNode, dcmqrscp: Callable[..., Any]
) -> None:
    dates = [f"202401{day:02d}" for day in range(1, 21)]
    stored = write_studies(tmp_path / "files", 20, instances=1, size_bytes=16, dates=dates)
    peer = dcmqrscp(i.path for study in stored for i in study.instances)
    remote = remote_at(peer.port, aet=peer.aet)
    assert uids(found(remote, node, StudyDate="20240105-20240110")) == uids(stored[4:10])
    wanted = stored[3].study_instance_uid
    assert uids(found(remote, node, StudyInstanceUID=f"{wanted}\\1.2.3")) == [wanted]
