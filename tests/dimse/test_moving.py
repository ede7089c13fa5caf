"""C-MOVE: what is asked, what is made of the answers, and what arrives; never what is counted."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dimse.conftest import remote_at, serving
from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.presentation import build_context

from vna.dimse import MoveOutcome, OurNode, move
from vna.dimse.moving import STUDY_ROOT_MOVE
from vna.errors import (
    AssociationAborted,
    MoveDestinationUnknown,
    PeerTimeout,
    RetrieveFailed,
    ServiceNotAccepted,
)
from vna.identity import FoundInstance
from vna.simulated_pacs import GeneratedStudy, SimulatedPacs, parse_faults, write_studies
from vna.site import RemoteServer

CT = "1.2.840.10008.5.1.4.1.1.2"
STUDY = "1.2.3"
WHOLE = [FoundInstance(f"1.2.3.{series}.{n}", f"1.2.3.{series}") for series in (1, 2) for n in range(60)]


class Server:
    """A source that answers each request with the next status of its plan, and remembers what it was asked."""

    def __init__(self, *statuses: int, refuses: Callable[[Dataset], int] = lambda _: 0) -> None:
        self.statuses, self.refuses = list(statuses), refuses
        self.asked: list[Dataset] = []

    @contextlib.contextmanager
    def serve(self) -> Iterator[RemoteServer]:
        with (
            serving(CT, handlers=[]) as destination,
            serving(STUDY_ROOT_MOVE, handlers=[(evt.EVT_C_MOVE, self._answer, [destination.port])]) as remote,
        ):
            yield remote

    def _answer(self, event: evt.Event, port: int) -> Iterator[Any]:
        self.asked.append(event.identifier)
        status = self.refuses(event.identifier) or (self.statuses.pop(0) if self.statuses else 0x0000)
        if status == 0xA801:
            yield None, None
            return
        yield "127.0.0.1", port, {"contexts": [build_context(CT)]}
        yield 1 if status else 0
        yield status, None


def names(identifier: Dataset) -> int:
    """How many instances a request names."""
    return identifier["SOPInstanceUID"].VM if "SOPInstanceUID" in identifier else 0


def ask(server: Server, node: OurNode, instances: list[FoundInstance], **options: Any) -> MoveOutcome:
    with server.serve() as remote:
        return move(remote, node, STUDY, instances, "BACKUPDR", whole=options.pop("whole", WHOLE), **options)


def test_a_whole_study_is_one_request(node: OurNode) -> None:
    server = Server()
    ask(server, node, WHOLE)
    assert [(i.QueryRetrieveLevel, i.StudyInstanceUID) for i in server.asked] == [("STUDY", STUDY)]


def test_a_study_nobody_could_list_is_asked_for_as_such(node: OurNode) -> None:
    server = Server()
    ask(server, node, [], whole=[])
    assert [i.QueryRetrieveLevel for i in server.asked] == ["STUDY"]


def test_what_is_missing_is_asked_for_by_series_and_by_lists_with_full_unique_keys(node: OurNode) -> None:
    server = Server()
    ask(server, node, WHOLE[:60] + WHOLE[60:65])
    series, images = server.asked
    assert (series.QueryRetrieveLevel, series.SeriesInstanceUID) == ("SERIES", "1.2.3.1")
    assert (images.QueryRetrieveLevel, images.SeriesInstanceUID) == ("IMAGE", "1.2.3.2")
    assert set(images.SOPInstanceUID) == {i.sop_instance_uid for i in WHOLE[60:65]}


def test_a_long_list_is_several_requests(node: OurNode) -> None:
    server = Server()
    ask(server, node, WHOLE[:55])
    assert [names(i) for i in server.asked] == [50, 5]


def test_a_source_that_refuses_lists_is_asked_one_by_one(node: OurNode) -> None:
    server = Server(refuses=lambda i: 0xA900 if names(i) > 1 else 0)
    outcome = ask(server, node, WHOLE[:3])
    assert len(server.asked) == 4
    assert outcome.requests == 4


def test_a_source_that_refuses_instances_is_asked_for_the_series_once(node: OurNode) -> None:
    server = Server(refuses=lambda i: 0xA900 if i.QueryRetrieveLevel == "IMAGE" else 0)
    ask(server, node, WHOLE[:3])
    assert [i.QueryRetrieveLevel for i in server.asked] == ["IMAGE", "IMAGE", "SERIES"]


def test_a_source_that_moves_only_studies_is_asked_for_the_study_once(node: OurNode) -> None:
    server = Server(refuses=lambda i: 0xC001 if i.QueryRetrieveLevel != "STUDY" else 0)
    ask(server, node, [*WHOLE[:3], *WHOLE[60:63]])
    assert [i.QueryRetrieveLevel for i in server.asked].count("STUDY") == 1


def test_an_unknown_destination_says_what_to_register(node: OurNode) -> None:
    with pytest.raises(MoveDestinationUnknown, match="'BACKUPDR'") as caught:
        ask(Server(0xA801), node, WHOLE)
    assert not caught.value.transient


@pytest.mark.parametrize("status", [0xC000, 0xA900])
def test_other_ways_to_say_unknown_destination_are_told_as_likely(node: OurNode, status: int) -> None:
    with pytest.raises(RetrieveFailed, match="may not know the move destination 'BACKUPDR'") as caught:
        ask(Server(status), node, WHOLE)
    assert caught.value.status == status


def test_a_source_out_of_resources_is_worth_another_try(node: OurNode) -> None:
    with pytest.raises(RetrieveFailed) as caught:
        ask(Server(0xA702), node, WHOLE)
    assert caught.value.transient


def test_success_for_fewer_than_asked_is_a_complaint_and_no_proof_of_the_rest(node: OurNode) -> None:
    assert ask(Server(0x0000), node, WHOLE).sentence == "pacs: it reported success for 0 of 120 instances"


def test_silence_after_an_unknown_destination_times_out_and_says_so(node: OurNode) -> None:
    def silent(_: evt.Event) -> Iterator[Any]:
        time.sleep(3)
        yield "127.0.0.1", 1
        yield 0

    with (
        serving(STUDY_ROOT_MOVE, handlers=[(evt.EVT_C_MOVE, silent)]) as remote,
        pytest.raises(PeerTimeout, match="does the source know this destination"),
    ):
        move(remote, node, STUDY, WHOLE, "BACKUPDR", whole=WHOLE)


def test_a_silent_source_is_waited_for_as_long_as_something_arrives(node: OurNode) -> None:
    asked: list[float] = []

    def silent(_: evt.Event) -> Iterator[Any]:
        time.sleep(4.5)
        yield "127.0.0.1", 1
        yield 0

    def is_alive() -> bool:
        asked.append(time.monotonic())
        return True

    with serving(STUDY_ROOT_MOVE, handlers=[(evt.EVT_C_MOVE, silent)]) as remote:
        move(remote, node, STUDY, WHOLE, "BACKUPDR", whole=WHOLE, is_alive=is_alive)
    assert 2 <= len(asked) <= 10


def test_a_peer_without_moves_is_told(node: OurNode) -> None:
    with (
        serving("1.2.840.10008.1.1", handlers=[]) as remote,
        pytest.raises(ServiceNotAccepted, match="C-MOVE"),
    ):
        move(remote, node, STUDY, WHOLE, "BACKUPDR", whole=WHOLE)


# -- the simulated PACS and DCMTK, with a second simulated PACS as the one who receives


@pytest.fixture
def studies(tmp_path: Path) -> list[GeneratedStudy]:
    return write_studies(tmp_path / "pacs", 2, instances=4, series=2, size_bytes=64)


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[SimulatedPacs]:
    (tmp_path / "received").mkdir()
    with SimulatedPacs(tmp_path / "received", aet="BACKUPDR") as pacs:
        yield pacs


def listed(study: GeneratedStudy) -> list[FoundInstance]:
    return [
        FoundInstance(i.sop_instance_uid, i.series_instance_uid, i.sop_class_uid) for i in study.instances
    ]


def pull(
    studies: list[GeneratedStudy],
    receiver: SimulatedPacs,
    node: OurNode,
    *faults: str,
    wanted: slice = slice(None),
) -> MoveOutcome:
    instances = listed(studies[0])
    folder = studies[0].instances[0].path.parent.parent
    destinations = {"BACKUPDR": ("127.0.0.1", receiver.port)}
    with SimulatedPacs(folder, faults=parse_faults(faults), destinations=destinations) as pacs:
        remote = remote_at(pacs.port, aet=pacs.aet)
        return move(
            remote, node, studies[0].study_instance_uid, instances[wanted], "BACKUPDR", whole=instances
        )


def arrived(receiver: SimulatedPacs, expected: int) -> set[str]:
    deadline = time.monotonic() + 3
    while len(receiver.received) < expected and time.monotonic() < deadline:
        time.sleep(0.02)
    return set(receiver.received)


def test_every_instance_of_a_study_arrives(
    studies: list[GeneratedStudy], receiver: SimulatedPacs, node: OurNode
) -> None:
    outcome = pull(studies, receiver, node)
    assert outcome.sentence == ""
    assert arrived(receiver, 8) == {i.sop_instance_uid for i in studies[0].instances}


@pytest.mark.parametrize("faults", [(), ("one-uid-per-request",)], ids=["lists", "one by one"])
def test_only_what_is_missing_arrives(
    studies: list[GeneratedStudy], receiver: SimulatedPacs, node: OurNode, faults: tuple[str, ...]
) -> None:
    pull(studies, receiver, node, *faults, wanted=slice(1, 4))
    assert arrived(receiver, 3) == {i.sop_instance_uid for i in studies[0].instances[1:4]}


def test_a_false_success_is_told(
    studies: list[GeneratedStudy], receiver: SimulatedPacs, node: OurNode
) -> None:
    outcome = pull(studies, receiver, node, "false-success", "missing-counts")
    assert outcome.sentence
    assert not receiver.received


def test_instances_the_source_could_not_send_are_counted_in_the_sentence(
    studies: list[GeneratedStudy], receiver: SimulatedPacs, node: OurNode
) -> None:
    assert "could not send" in pull(studies, receiver, node, "refuse-nth=3").sentence


def test_an_association_dropped_on_the_way_is_worth_another_try(
    studies: list[GeneratedStudy], receiver: SimulatedPacs, node: OurNode
) -> None:
    with pytest.raises(AssociationAborted) as caught:
        pull(studies, receiver, node, "drop-after=2")
    assert caught.value.transient


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("unknown-destination", MoveDestinationUnknown),
        ("unknown-destination=C000", RetrieveFailed),
        ("unknown-destination=silence", PeerTimeout),
        ("no-move", ServiceNotAccepted),
    ],
)
def test_each_way_not_to_move_is_an_error(
    studies: list[GeneratedStudy], receiver: SimulatedPacs, node: OurNode, fault: str, error: type[Exception]
) -> None:
    with pytest.raises(error, match="pacs:"):
        pull(studies, receiver, node, fault)


@pytest.mark.parametrize("wanted", [slice(None), slice(0, 3)], ids=["whole", "part"])
def test_dcmqrscp_sends_what_was_asked(
    studies: list[GeneratedStudy],
    receiver: SimulatedPacs,
    node: OurNode,
    dcmqrscp: Callable[..., Any],
    wanted: slice,
) -> None:
    destinations = {"BACKUPDR": ("127.0.0.1", receiver.port)}
    peer = dcmqrscp((i.path for i in studies[0].instances), destinations=destinations)
    instances = listed(studies[0])
    outcome = move(
        remote_at(peer.port, aet=peer.aet),
        node,
        studies[0].study_instance_uid,
        instances[wanted],
        "BACKUPDR",
        whole=instances,
    )
    assert outcome.sentence == ""
    assert arrived(receiver, len(instances[wanted])) == {i.sop_instance_uid for i in instances[wanted]}


def test_dcmqrscp_does_not_know_a_destination_and_that_is_told(
    studies: list[GeneratedStudy], node: OurNode, dcmqrscp: Callable[..., Any]
) -> None:
    peer = dcmqrscp(i.path for i in studies[0].instances)
    with pytest.raises(MoveDestinationUnknown):
        move(remote_at(peer.port, aet=peer.aet), node, studies[0].study_instance_uid, [], "NOBODY", whole=[])


def test_no_thread_is_left_after_a_move(
    studies: list[GeneratedStudy], receiver: SimulatedPacs, node: OurNode
) -> None:
    pull(studies, receiver, node)
    deadline = time.monotonic() + 3
    while any("Requestor" in t.name for t in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not [t.name for t in threading.enumerate() if "Requestor" in t.name]
