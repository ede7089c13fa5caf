"""The whole chain: a simulated PACS is backed up by a run of the flow, through our server, into a unit.

What is asserted is what an operator sees: the files, the outcome's figures and sentences, and what the source
was asked to send.
"""

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chain.arranging import Flow, Place, digests_of
from vna.simulated_pacs import add_instances, change_instance, write_studies

pytestmark = pytest.mark.prefect

_seeds = itertools.count(100)


@pytest.fixture(scope="module")
def place(prefect_api: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One home with our DICOM server and its indexer; every test has a remote, a unit and studies of its own."""
    place = Place(tmp_path_factory.mktemp("chain") / "home", prefect_api)
    with place.scp():
        yield place


@pytest.fixture(scope="module")
def flow(place: Place) -> Iterator[Flow]:
    with place.flow() as flow:
        yield flow


@pytest.fixture
def seed() -> int:
    """Studies that no other test has."""
    return next(_seeds)


BOTH_WAYS = pytest.mark.parametrize("by", ["move", "get"])


@BOTH_WAYS
def test_every_instance_comes_once_and_byte_for_byte(
    place: Place, flow: Flow, seed: int, tmp_path: Path, by: str
) -> None:
    studies = write_studies(tmp_path, 6, instances=3, series=2, seed=seed)
    name = f"whole-{by}"
    place.unit(name)
    with place.pacs(tmp_path) as pacs:
        place.know(name, pacs.port, by=by)
        first = flow.retrieve(name, unit=name)
        assert first["state"] == "completed", first
        assert (first["found"], first["complete"], first["instances"], first["held"]) == (6, 6, 36, 0)
        assert place.stored(name) == digests_of(studies)
        assert dict(pacs.acknowledged) == dict.fromkeys(digests_of(studies), 1)

        second = flow.retrieve(name, unit=name)
        assert second["state"] == "completed", second
        assert (second["complete"], second["instances"], second["held"]) == (6, 0, 36)
        assert sum(pacs.sent.values()) == 36
    place.assert_sound(name)


@BOTH_WAYS
def test_only_what_is_new_grown_or_changed_is_pulled_and_both_versions_are_kept(
    place: Place, flow: Flow, seed: int, tmp_path: Path, by: str
) -> None:
    grown, corrected, silent, same = write_studies(tmp_path, 4, instances=2, seed=seed)
    name = f"changing-{by}"
    place.unit(name)
    with place.pacs(tmp_path) as pacs:
        place.know(name, pacs.port, by=by)
        assert flow.retrieve(name, unit=name)["state"] == "completed"
        before = Counter(pacs.sent)

        grown = add_instances(grown, 2)
        corrections = [change_instance(one, StudyDescription="Corrected") for one in corrected.instances]
        silences = [change_instance(one, ImageComments="Seen by nobody") for one in silent.instances]
        (new,) = write_studies(tmp_path, 1, instances=2, seed=seed + 5000)
        pacs.look_again()
        wanted = {one.sop_instance_uid for one in (*grown.instances[2:], *corrections, *new.instances)}

        second = flow.retrieve(name, unit=name)
        assert second["state"] == "completed", second
        assert pacs.sent - before == Counter(wanted)
        assert (second["found"], second["complete"], second["changed"]) == (5, 5, 1)
        assert any("both versions kept" in note for note in second["notes"]), second["notes"]
        expected = digests_of([grown, corrected, silent, same, new])
        for one in corrections:
            expected[one.sop_instance_uid].add(one.dataset_sha256)
        assert place.stored(name) == expected

        before = Counter(pacs.sent)
        third = flow.retrieve(name, unit=name, recheck=True, study_uids=[silent.study_instance_uid])
        assert third["state"] == "completed", third
        assert pacs.sent - before == Counter(one.sop_instance_uid for one in silences)
        assert any("2 instances changed at the source" in note for note in third["notes"]), third["notes"]
        for one in silences:
            expected[one.sop_instance_uid].add(one.dataset_sha256)
        assert place.stored(name) == expected

        before = Counter(pacs.sent)
        fourth = flow.retrieve(name, unit=name)
        assert (fourth["state"], fourth["instances"]) == ("completed", 0), fourth
        assert pacs.sent == before
    place.assert_sound(name)


def test_a_copy_that_was_deleted_or_damaged_is_pulled_again_beside_what_is_left_of_it(
    place: Place, flow: Flow, seed: int, tmp_path: Path
) -> None:
    studies = write_studies(tmp_path, 2, instances=3, seed=seed)
    place.unit("damaged")
    with place.pacs(tmp_path) as pacs:
        place.know("damaged", pacs.port)
        assert flow.retrieve("damaged", unit="damaged")["state"] == "completed"
        before = Counter(pacs.sent)
        deleted, damaged, *_ = sorted(place.unit("damaged").rglob("*.dcm"))
        deleted.unlink()
        damaged.write_bytes(damaged.read_bytes()[:-2] + b"!!")
        outcome = flow.retrieve("damaged", unit="damaged")
        assert (outcome["state"], outcome["instances"]) == ("completed", 2), outcome
        assert (pacs.sent - before).total() == 2
    stored = place.stored("damaged")
    assert all(digests <= stored[uid] for uid, digests in digests_of(studies).items())
    assert damaged.read_bytes().endswith(b"!!"), "what is damaged is never overwritten"


@pytest.mark.parametrize(
    ("by", "lie", "incomplete", "missing"),
    [
        ("move", "false-success={second}", 1, 2),
        ("get", "false-success={second}", 1, 2),
        ("move", "send-fewer=1", 3, 3),
        ("get", "send-fewer=1", 3, 3),
        ("move", "drop-after=0:always", 3, 6),
    ],
)
def test_a_study_that_did_not_come_is_incomplete_and_the_retry_pulls_only_what_is_missing(
    place: Place,
    flow: Flow,
    seed: int,
    tmp_path: Path,
    by: str,
    lie: str,
    incomplete: int,
    missing: int,
) -> None:
    studies = write_studies(tmp_path, 3, instances=2, seed=seed)
    second = studies[1].study_instance_uid
    name = f"liar-{by}-{lie.partition('=')[0]}"
    place.unit(name)
    with place.pacs(tmp_path, lie.format(second=second)) as pacs:
        place.know(name, pacs.port, by=by)
        first = flow.retrieve(name, unit=name)
        port = pacs.port
    assert first["state"] == "failed", first
    assert (first["found"], first["incomplete"], first["complete"]) == (3, incomplete, 3 - incomplete)
    assert len(first["problems"]) == incomplete
    assert any(second in problem for problem in first["problems"]), first["problems"]
    assert f"{incomplete} of 3 studies incomplete" in first["sentence"]

    with place.pacs(tmp_path, port=port) as honest:
        retry = flow.retrieve(name, unit=name)
        assert retry["state"] == "completed", retry
        assert (retry["complete"], retry["instances"]) == (3, missing)
        assert sum(honest.sent.values()) == missing
    assert place.stored(name) == digests_of(studies)
    place.assert_sound(name)


@BOTH_WAYS
@pytest.mark.parametrize(
    "faults",
    [
        ["wrong-counts", "null-dates=2", "charset=ISO_IR 192", "duplicate-answers"],
        ["missing-counts", "missing-modalities", "no-empty-match", "refuse-nth=3"],
        ["drop-after=3", "single-modality", "case-sensitive-names"],
        ["illegal-values", "slow=0.01", "refuse-nth-association=5"],
    ],
    ids=lambda faults: faults[0].partition("=")[0],
)
def test_a_source_with_bad_manners_is_backed_up_all_the_same(
    place: Place, flow: Flow, seed: int, tmp_path: Path, by: str, faults: list[str]
) -> None:
    studies = write_studies(tmp_path, 5, instances=2, seed=seed)
    name = f"manners-{by}-{faults[0].partition('=')[0]}"
    place.unit(name)
    with place.pacs(tmp_path, *faults) as pacs:
        place.know(name, pacs.port, by=by)
        first = flow.retrieve(name, unit=name)
        assert first["state"] == "completed", first
        assert (first["found"], first["complete"], first["instances"]) == (5, 5, 10)
        assert dict(pacs.acknowledged) == dict.fromkeys(digests_of(studies), 1), "pulled twice without need"
        second = flow.retrieve(name, unit=name)
        assert (second["state"], second["instances"]) == ("completed", 0), second
    assert place.stored(name) == digests_of(studies)
    place.assert_sound(name)


@BOTH_WAYS
def test_a_source_that_takes_one_uid_a_request_is_asked_one_by_one(
    place: Place, flow: Flow, seed: int, tmp_path: Path, by: str
) -> None:
    (study,) = write_studies(tmp_path, 1, instances=2, seed=seed)
    name = f"one-uid-{by}"
    place.unit(name)
    with place.pacs(tmp_path, "one-uid-per-request") as pacs:
        place.know(name, pacs.port, by=by)
        assert flow.retrieve(name, unit=name)["state"] == "completed"
        grown = add_instances(study, 2)
        pacs.look_again()
        second = flow.retrieve(name, unit=name)
        assert (second["state"], second["instances"]) == ("completed", 2), second
        assert set(pacs.sent.values()) == {1}
    assert place.stored(name) == digests_of([grown])


@BOTH_WAYS
def test_a_study_that_grew_during_the_copy_is_copied_to_its_end(
    place: Place, flow: Flow, seed: int, tmp_path: Path, by: str
) -> None:
    studies = write_studies(tmp_path, 2, instances=2, seed=seed)
    name = f"growing-{by}"
    place.unit(name)
    with place.pacs(tmp_path, "grow-during-retrieve=1") as pacs:
        place.know(name, pacs.port, by=by)
        outcome = flow.retrieve(name, unit=name)
        assert outcome["state"] == "completed", outcome
        assert set(pacs.sent.values()) == {1}
    stored = place.stored(name)
    assert len(stored) == 6
    assert digests_of(studies).items() <= stored.items()
    place.assert_sound(name)


def test_a_study_that_grows_without_end_is_reported_as_growing(
    place: Place, flow: Flow, seed: int, tmp_path: Path
) -> None:
    write_studies(tmp_path, 1, instances=1, seed=seed)
    place.unit("endless")
    with place.pacs(tmp_path, "grow-during-retrieve=50") as pacs:
        place.know("endless", pacs.port)
        outcome = flow.retrieve("endless", unit="endless")
        assert (outcome["state"], outcome["complete"], outcome["incomplete"]) == ("failed", 0, 1)
        assert "still growing" in outcome["problems"][0]
        assert set(pacs.sent.values()) == {1}


@BOTH_WAYS
def test_a_source_that_cannot_list_instances_is_stored_and_called_unproven(
    place: Place, flow: Flow, seed: int, tmp_path: Path, by: str
) -> None:
    studies = write_studies(tmp_path, 2, instances=2, seed=seed)
    name = f"unlisted-{by}"
    place.unit(name)
    with place.pacs(tmp_path, "no-image-level") as pacs:
        place.know(name, pacs.port, by=by)
        outcome = flow.retrieve(name, unit=name)
    assert (outcome["state"], outcome["found"], outcome["incomplete"]) == ("failed", 2, 2)
    assert all("stored, unproven" in problem for problem in outcome["problems"])
    assert place.stored(name) == digests_of(studies)


def test_a_cap_of_50_answers_hides_none_of_1000_studies(
    place: Place, flow: Flow, seed: int, tmp_path: Path
) -> None:
    days = [f"{2010 + n % 15}{n % 12 + 1:02d}{n % 28 + 1:02d}" for n in range(910)]
    write_studies(tmp_path, 1000, instances=1, seed=seed, dates=[*["20240229"] * 60, *[""] * 30, *days])
    place.unit("capped")
    with place.pacs(tmp_path, "cap-answers=50", "ignore-key=AccessionNumber") as pacs:
        place.know("capped", pacs.port)
        outcome = flow.retrieve("capped", unit="capped", filters=[f"AccessionNumber=A{seed}-00000*"])
    assert outcome["state"] == "completed", outcome
    assert (outcome["found"], outcome["complete"], outcome["excluded"]) == (10, 10, 990)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("unknown-destination", "does not know the move destination 'BACKUPDR'"),
        ("unknown-destination=C000", "BACKUPDR"),
        ("rubbish", "not DICOM"),
    ],
)
def test_what_cannot_work_ends_in_one_sentence_and_leaves_nothing_half_written(
    place: Place, flow: Flow, seed: int, tmp_path: Path, fault: str, said: str
) -> None:
    write_studies(tmp_path, 2, instances=1, seed=seed)
    name = f"broken-{fault.replace('=', '-')}"
    place.unit(name)
    with place.pacs(tmp_path, fault) as pacs:
        place.know(name, pacs.port)
        outcome = flow.retrieve(name, unit=name)
        assert sum(pacs.sent.values()) == 0
    assert (outcome["state"], outcome["complete"], outcome["instances"]) == ("failed", 0, 0), outcome
    assert said in " ".join(outcome["problems"]), outcome
    assert place.stored(name) == {}
    assert place.rubbish() == []


@BOTH_WAYS
def test_two_runs_at_once_over_the_same_studies_pull_each_instance_once(
    place: Place, flow: Flow, seed: int, tmp_path: Path, by: str
) -> None:
    studies = write_studies(tmp_path, 6, instances=2, seed=seed)
    name = f"twice-{by}"
    place.unit(name)
    with place.pacs(tmp_path, "slow=0.02") as pacs, place.flow() as other:
        other.wait_until_ready()
        place.know(name, pacs.port, by=by)
        flow.ask(name, unit=name)
        other.ask(name, unit=name)
        outcomes = [flow.answer(), other.answer()]
        assert [outcome["state"] for outcome in outcomes] == ["completed", "completed"], outcomes
        assert [outcome["complete"] for outcome in outcomes] == [6, 6]
        assert dict(pacs.sent) == dict.fromkeys(digests_of(studies), 1)
    assert place.stored(name) == digests_of(studies)
    place.assert_sound(name)
