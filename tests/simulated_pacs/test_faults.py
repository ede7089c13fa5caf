"""Each fault does what its line in the table says, seen from the other side."""

import time
from collections import Counter
from collections.abc import Callable

import pytest
from pacs_client import Destination, World
from pydicom import dcmread

from vna.errors import FaultInvalid
from vna.simulated_pacs import FAULTS, parse_faults, write_studies

Make = Callable[..., World]


def uids(world: World, **keys: str) -> list[str]:
    return [
        answer.StudyInstanceUID for answer in world.client.find("STUDY", **{"StudyInstanceUID": "", **keys})
    ]


def instance_keys(world: World, number: int = 0) -> dict[str, str]:
    study = world.studies[number]
    return {
        "StudyInstanceUID": study.study_instance_uid,
        "SeriesInstanceUID": study.instances[0].series_instance_uid,
        "SOPInstanceUID": "",
    }


# -- C-FIND


def test_cap_answers_ends_with_success_after_n_studies_but_not_images(world: Make) -> None:
    made = world("cap-answers=4", instances=6)
    assert len(uids(made)) == 4
    assert len(made.client.find("PATIENT", patient_root=True, PatientID="")) == 4
    assert len(made.client.find("IMAGE", **instance_keys(made))) == 6


def test_cap_answers_can_hold_at_every_level(world: Make) -> None:
    made = world("cap-answers=4:all", instances=6)
    assert len(made.client.find("IMAGE", **instance_keys(made))) == 4


def test_ignore_key_is_not_matched_but_answered_and_may_come_twice(world: Make) -> None:
    made = world("ignore-key=PatientID", "ignore-key=AccessionNumber")
    found = made.client.find("STUDY", StudyInstanceUID="", PatientID="NOBODY", AccessionNumber="NONE")
    assert {answer.PatientID for answer in found} == {study.patient_id for study in made.studies}
    assert not uids(made, StudyID="NONE")


def test_null_dates_hides_the_date_of_all_studies_in_matching_and_answers(world: Make) -> None:
    made = world("null-dates")
    assert not uids(made, StudyDate="19000101-20991231")
    assert {answer.StudyDate for answer in made.client.find("STUDY", StudyInstanceUID="", StudyDate="")} == {
        ""
    }
    assert len(uids(made, StudyDate='""')) == 6


def test_null_dates_can_be_of_some_studies_and_stay_with_them(world: Make) -> None:
    made = world("null-dates=2")
    dateless = uids(made, StudyDate='""')
    assert len(dateless) == 2
    assert len(uids(made, StudyDate="19000101-20991231")) == 4
    write_studies(made.folder, 5, seed=9)
    made.pacs.look_again()
    assert uids(made, StudyDate='""') == dateless
    assert made.client.find("STUDY", StudyInstanceUID=dateless[0], StudyDate="")[0].StudyDate == ""


def test_no_empty_match_finds_nothing_by_an_empty_value_key(world: Make) -> None:
    assert len(uids(world(dates=["20240101", ""]), StudyDate='""')) == 3


def test_without_the_fault_the_same_key_finds_the_dateless(world: Make) -> None:
    assert not uids(world("no-empty-match", dates=["20240101", ""]), StudyDate='""')


def test_missing_counts_are_in_neither_answers_nor_responses(world: Make, destination: Destination) -> None:
    made = world("missing-counts")
    for answer in made.client.find("STUDY", StudyInstanceUID="", NumberOfStudyRelatedInstances=""):
        assert "NumberOfStudyRelatedInstances" not in answer
    result = made.client.move(destination, StudyInstanceUID=made.studies[0].study_instance_uid)
    assert set(result.counts) == {(None, None, None, None)}
    assert (result.status, len(result.files)) == (0x0000, 2)


def test_wrong_counts_are_wrong_in_answers_and_responses(world: Make, destination: Destination) -> None:
    made = world("wrong-counts")
    for answer in made.client.find("STUDY", StudyInstanceUID="", NumberOfStudyRelatedInstances=""):
        assert answer.NumberOfStudyRelatedInstances != 2
    result = made.client.move(destination, StudyInstanceUID=made.studies[0].study_instance_uid)
    assert len(result.files) == 2
    assert all(completed != done for done, (_, completed, _, _) in zip((1, 2, 2), result.counts, strict=True))


def test_missing_modalities_are_neither_answered_nor_matched(world: Make) -> None:
    made = world("missing-modalities")
    found = made.client.find("STUDY", StudyInstanceUID="", ModalitiesInStudy="XX")
    assert len(found) == 6
    assert not any("ModalitiesInStudy" in answer for answer in found)


def test_single_modality_finds_only_studies_of_exactly_that_one(world: Make) -> None:
    made = world("single-modality", series=2, modalities=["CT", "SR"])
    plain = write_studies(made.folder, 1, seed=9, modalities=["CT"])
    made.pacs.look_again()
    assert uids(made, ModalitiesInStudy="CT") == [plain[0].study_instance_uid]


def test_without_single_modality_any_series_of_it_counts(world: Make) -> None:
    assert len(uids(world(series=2, modalities=["CT", "SR"]), ModalitiesInStudy="CT")) == 6


def test_case_sensitive_names_match_only_as_written(world: Make) -> None:
    made = world("case-sensitive-names")
    assert not uids(made, PatientName="exempel*")
    assert len(uids(made, PatientName="Exempel*")) == 2


def test_without_the_fault_names_match_in_any_case(world: Make) -> None:
    assert len(uids(world(), PatientName="exempel^ADA")) == 2


def test_duplicate_answers_come_twice(world: Make) -> None:
    assert set(Counter(uids(world("duplicate-answers"))).values()) == {2}


def test_illegal_values_are_over_long_and_not_of_their_vr(world: Make) -> None:
    found = world("illegal-values").client.find(
        "STUDY",
        StudyInstanceUID="",
        StudyDescription="",
        PatientSex="",
        StudyDate="",
        StudyTime="",
        NumberOfStudyRelatedInstances="",
    )
    assert len(found) == 6
    for answer in found:
        assert len(answer["StudyDescription"].value) > 64
        assert len(answer["PatientSex"].value) > 16
        assert "." in answer["StudyDate"].value
        assert ":" in answer["StudyTime"].value
        with pytest.raises((TypeError, ValueError)):
            int(answer["NumberOfStudyRelatedInstances"].value)


@pytest.mark.parametrize("charset", ["ISO_IR 192", "ISO_IR 100", "\\ISO 2022 IR 87"])
def test_charset_is_that_of_all_answers(world: Make, charset: str) -> None:
    made = world(f"charset={charset}", count=12)
    found = made.client.find("STUDY", StudyInstanceUID="", PatientName="")
    names = {answer.StudyInstanceUID: str(answer.PatientName) for answer in found}
    readable = {"ISO_IR 192": "Жучок Łódź", "ISO_IR 100": "Mustermann-Höß^Jörg", "\\ISO 2022 IR 87": "山田"}[
        charset
    ]
    for answer in found:
        terms = answer.SpecificCharacterSet
        assert (terms if isinstance(terms, str) else "\\".join(terms)) == charset
    if charset == "ISO_IR 192":
        assert names == {study.study_instance_uid: study.patient_name for study in made.studies}
    else:
        assert any(readable in name for name in names.values())
        assert any("?" in name for name in names.values())  # what the character set does not have


def test_rubbish_cannot_be_decoded(world: Make) -> None:
    found, final = world("rubbish").client.ask("STUDY", StudyInstanceUID="")
    assert not any("StudyInstanceUID" in answer for answer in found)
    assert final.Status in {0xC000, 0x0000}


@pytest.mark.parametrize(("fault", "status"), [("no-image-level", 0xA900), ("no-image-level=C001", 0xC001)])
def test_no_image_level_refuses_that_level_only(world: Make, fault: str, status: int) -> None:
    made = world(fault)
    found, final = made.client.ask("IMAGE", **instance_keys(made))
    assert (found, final.Status) == ([], status)
    assert len(uids(made)) == 6


def test_one_uid_per_request_refuses_lists_in_queries_and_retrieves(
    world: Make, destination: Destination
) -> None:
    made = world("one-uid-per-request")
    several = "\\".join(study.study_instance_uid for study in made.studies[:2])
    assert made.client.ask("STUDY", StudyInstanceUID=several)[1].Status == 0xA900
    assert made.client.move(destination, StudyInstanceUID=several).statuses == [0xA900]
    one = made.studies[0].study_instance_uid
    assert uids(made, StudyInstanceUID=one) == [one]
    assert made.client.move(destination, StudyInstanceUID=one).status == 0x0000


# -- C-MOVE and C-GET


@pytest.mark.parametrize("service", ["get", "move"])
def test_a_service_that_is_not_offered_finds_no_context(
    world: Make, destination: Destination, service: str
) -> None:
    made = world(f"no-{service}")
    uid = made.studies[0].study_instance_uid
    asked = {
        "get": lambda: made.client.get(StudyInstanceUID=uid),
        "move": lambda: made.client.move(destination, StudyInstanceUID=uid),
    }
    with pytest.raises((ValueError, RuntimeError)):
        asked.pop(service)()
    [other] = asked.values()
    assert len(other().files) == 2


@pytest.mark.parametrize(
    ("fault", "status"), [("unknown-destination", 0xA801), ("unknown-destination=A900", 0xA900)]
)
def test_unknown_destination_is_told_with_the_status_asked_for(
    world: Make, destination: Destination, fault: str, status: int
) -> None:
    made = world(fault)
    result = made.client.move(destination, StudyInstanceUID=made.studies[0].study_instance_uid)
    assert (result.statuses, result.files) == ([status], {})


def test_unknown_destination_can_be_silence(world: Make, destination: Destination) -> None:
    made = world("unknown-destination=silence")
    with made.client.association("1.2.840.10008.5.1.4.1.2.2.2", dimse_timeout=0.5) as association:
        from pacs_client import identifier

        keys = identifier("STUDY", StudyInstanceUID=made.studies[0].study_instance_uid)
        answers = list(association.send_c_move(keys, destination.aet, "1.2.840.10008.5.1.4.1.2.2.2"))
    assert "Status" not in answers[0][0]
    assert not destination.result.files


def test_false_success_claims_everything_and_sends_nothing(world: Make, destination: Destination) -> None:
    made = world("false-success")
    for ask in (made.client.get, lambda **keys: made.client.move(destination, **keys)):
        result = ask(StudyInstanceUID=made.studies[0].study_instance_uid)
        assert (result.statuses, result.files) == ([0x0000], {})
        assert result.counts[-1][1:] == (2, 0, 0)
    assert not made.pacs.sent


def test_false_success_can_be_of_one_study(world: Make, destination: Destination) -> None:
    lied_about = write_studies_uid()
    made = world(f"false-success={lied_about}")
    assert not made.client.move(destination, StudyInstanceUID=lied_about).files
    other = next(s.study_instance_uid for s in made.studies if s.study_instance_uid != lied_about)
    assert len(made.client.move(destination, StudyInstanceUID=other).files) == 2


def write_studies_uid() -> str:
    from vna.simulated_pacs.studies import _uid

    return _uid(1, 3)  # the fourth study of seed 1


@pytest.mark.parametrize(("fault", "fewer"), [("send-fewer", 1), ("send-fewer=2", 2)])
def test_send_fewer_leaves_the_last_ones_out_of_every_retrieve(
    world: Make, destination: Destination, fault: str, fewer: int
) -> None:
    made = world(fault, instances=5)
    study = made.studies[0]
    expected = [instance.sop_instance_uid for instance in study.instances]
    result = made.client.move(destination, StudyInstanceUID=study.study_instance_uid)
    assert result.status == 0x0000
    assert list(result.files) == expected[:-fewer]
    last = {**instance_keys(made), "SOPInstanceUID": expected[-1]}
    again = made.client.get("IMAGE", **last)
    assert (again.status, again.files) == (0x0000, {})


def test_drop_after_aborts_once_and_never_again(world: Make, destination: Destination) -> None:
    made = world("drop-after=3", instances=5)
    uid = made.studies[0].study_instance_uid
    broken = made.client.move(destination, StudyInstanceUID=uid)
    assert broken.broke_off
    assert len(broken.files) == 3
    whole = made.client.move(destination, StudyInstanceUID=uid)
    assert (whole.status, len(whole.files)) == (0x0000, 5)


def test_drop_after_counts_over_several_retrieves(world: Make) -> None:
    made = world("drop-after=3", instances=2)
    results = [made.client.get(StudyInstanceUID=study.study_instance_uid) for study in made.studies]
    assert [result.broke_off for result in results] == [False, True, False, False, False, False]


def test_drop_after_always_aborts_every_retrieve(world: Make) -> None:
    made = world("drop-after=1:always")
    for _ in range(3):
        result = made.client.get(StudyInstanceUID=made.studies[0].study_instance_uid)
        assert (result.broke_off, len(result.files)) == (True, 1)


def test_refuse_nth_fails_without_sending_and_names_what_failed(
    world: Make, destination: Destination
) -> None:
    made = world("refuse-nth=3", instances=7)
    study = made.studies[0]
    result = made.client.move(destination, StudyInstanceUID=study.study_instance_uid)
    refused = [study.instances[index].sop_instance_uid for index in (2, 5)]
    assert result.status == 0xB000
    assert result.failed == refused
    assert result.counts[-1][1:] == (5, 2, 0)
    assert not set(refused) & result.files.keys()
    assert not set(refused) & made.pacs.sent.keys()


def test_a_study_grows_during_its_retrieve_as_often_as_asked(world: Make, destination: Destination) -> None:
    made = world("grow-during-retrieve=2")
    uid = made.studies[0].study_instance_uid

    def listed() -> int:
        return len(made.client.find("IMAGE", **instance_keys(made)))

    sizes = []
    for _ in range(4):
        result = made.client.move(destination, StudyInstanceUID=uid)
        sizes.append((len(result.files), listed()))
    assert sizes == [(2, 3), (3, 4), (4, 4), (4, 4)]
    assert len(list(made.folder.rglob("*.dcm"))) == 12  # the folder we were given is as it was


def test_change_content_shows_after_the_first_retrieve_under_the_same_uids(
    world: Make, destination: Destination
) -> None:
    made = world("change-content")
    uid = made.studies[0].study_instance_uid
    before = made.client.find("STUDY", StudyInstanceUID=uid, StudyDescription="")
    first = made.client.move(destination, StudyInstanceUID=uid)
    assert first.files == made.digests(made.studies[0])
    after = made.client.find("STUDY", StudyInstanceUID=uid, StudyDescription="")
    assert before[0].StudyDescription != after[0].StudyDescription
    second, third = (made.client.move(destination, StudyInstanceUID=uid) for _ in range(2))
    assert second.files.keys() == first.files.keys()
    assert not set(second.files.values()) & set(first.files.values())
    assert third.files == second.files
    assert dcmread(made.studies[0].instances[0].path).StudyDescription == before[0].StudyDescription


def test_change_content_can_be_silent(world: Make, destination: Destination) -> None:
    made = world("change-content=silent")
    keys = {"StudyDate": "", "StudyDescription": "", "PatientName": "", "StudyTime": ""}
    image_keys = {**instance_keys(made), "InstanceNumber": "", "ContentDate": "", "Rows": "", "ImageType": ""}

    def told() -> tuple[object, object]:
        uid = made.studies[0].study_instance_uid
        return made.client.find("STUDY", StudyInstanceUID=uid, **keys), made.client.find(
            "IMAGE", **image_keys
        )

    before = told()
    first, second = (
        made.client.move(destination, StudyInstanceUID=made.studies[0].study_instance_uid) for _ in range(2)
    )
    assert told() == before
    assert second.files.keys() == first.files.keys()
    assert not set(second.files.values()) & set(first.files.values())


# -- all


def test_slow_waits_before_every_answer(world: Make) -> None:
    made = world("slow=0.1")
    started = time.monotonic()
    assert len(uids(made)) == 6
    assert 0.7 <= time.monotonic() - started < 8


def test_slow_waits_before_every_suboperation(world: Make) -> None:
    made = world("slow=0.1", instances=5)
    started = time.monotonic()
    made.client.get(StudyInstanceUID=made.studies[0].study_instance_uid)
    assert 0.6 <= time.monotonic() - started < 8


def test_hang_accepts_and_never_answers(world: Make) -> None:
    made = world("hang")
    with made.client.association("1.2.840.10008.1.1", dimse_timeout=0.5) as association:
        assert association.is_established
        assert "Status" not in association.send_c_echo()


def test_refuse_nth_association_is_transient_and_every_nth(world: Make) -> None:
    made = world("refuse-nth-association=3")
    refused = []
    for _ in range(6):
        with made.client.association("1.2.840.10008.1.1") as association:
            refused.append(association.is_rejected)
            if association.is_rejected:
                assert association.acceptor.primitive.result == 2
    assert refused == [False, False, True, False, False, True]
    assert made.pacs.associations == 4


def test_faults_combine(world: Make) -> None:
    made = world("cap-answers=3", "duplicate-answers", "missing-counts")
    found = made.client.find("STUDY", StudyInstanceUID="", NumberOfStudyRelatedInstances="")
    assert len(found) == 3
    assert not any("NumberOfStudyRelatedInstances" in answer for answer in found)


# -- how they are written


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        "cap-answers",
        "cap-answers=",
        "cap-answers=0",
        "cap-answers=5:some",
        "ignore-key=NoSuchKeyword",
        "charset=KLINGON",
        "hang=1",
        "slow=quick",
        "unknown-destination=FFFFF",
        "no-image-level=silence",
        "change-content=loud",
        "send-fewer=0",
        "refuse-nth=0",
        "drop-after=x",
    ],
)
def test_a_fault_that_cannot_be_is_one_sentence(text: str) -> None:
    with pytest.raises(FaultInvalid) as caught:
        parse_faults([text])
    assert text in str(caught.value)
    assert str(caught.value).count("\n") == 0


def test_every_fault_of_the_table_has_a_test_here() -> None:
    from pathlib import Path

    source = Path(__file__).read_text(encoding="utf-8").replace("no-{service}", "no-get no-move")
    assert [name for name in FAULTS if name not in source.split("how they are written")[0]] == []
