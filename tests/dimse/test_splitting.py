"""The list of studies is complete or there is an error: against sources that cut, ignore, and do not understand.

The source here is a plain list and a plain look at it; every rule it breaks is one of the field's.
"""

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vna.dimse.splitting import AnswersCut, Splitter
from vna.errors import QueryFailed, QueryTruncated
from vna.identity import FoundStudy


@dataclass
class Source:
    """Matches as PS3.4 C.2.2.2 wants it, then cuts at `cap`."""

    studies: Sequence[Mapping[str, str]]
    cap: int | None = None
    ignores: frozenset[str] = frozenset()
    knows_empty: bool = True
    knows_wildcards: bool = True
    lists: bool = True
    knows_uid_wildcards: bool = False
    refuses_the_whole: bool = False
    says_cut: bool = False
    twice: bool = False
    queries: list[Mapping[str, str]] = field(default_factory=list)

    def ask(self, keys: Mapping[str, str]) -> Iterator[FoundStudy]:
        self.queries.append(keys)
        uids = keys.get("StudyInstanceUID", "")
        if "\\" in uids and not self.lists:
            raise QueryFailed("pacs", "STUDY", 0xA900)
        if self.refuses_the_whole and not (keys.get("StudyDate") or keys.get("StudyInstanceUID")):
            return
        answers = [study for study in self.studies if all(self._matches(study, *key) for key in keys.items())]
        answers = [answer for answer in answers for _ in range(2 if self.twice else 1)]
        for answer in answers[: self.cap]:
            yield FoundStudy(answer["StudyInstanceUID"], answer)
        if self.says_cut and self.cap is not None and len(answers) > self.cap:
            raise AnswersCut

    def _matches(self, study: Mapping[str, str], keyword: str, want: str) -> bool:
        value = study.get(keyword, "")
        if not want or keyword in self.ignores:
            return True
        if want == '""' and self.knows_empty:
            return not value
        if keyword in {"StudyDate", "StudyTime"} and "-" in want:
            first, last = want.split("-")
            return bool(value) and (not first or value >= first) and (not last or value[: len(last)] <= last)
        if keyword == "StudyInstanceUID":
            if want.endswith("*"):
                return self.knows_uid_wildcards and value.startswith(want[:-1])
            return value in want.split("\\")
        if "*" in want:
            return self.knows_wildcards and any(fnmatch.fnmatchcase(v, want) for v in value.split("\\"))
        return want in value.split("\\")

    def find(self, **keys: str) -> list[str]:
        return [study.study_instance_uid for study in Splitter("pacs", self.ask, keys).studies()]

    @property
    def uids(self) -> set[str]:
        return {study["StudyInstanceUID"] for study in self.studies}


NOBODY = "no identifier"


def study(number: int, date: str, time: str = "", patient: str = "", modality: str = "CT") -> dict[str, str]:
    return {
        "StudyInstanceUID": f"1.2.{number}",
        "StudyDate": date,
        "StudyTime": time,
        "PatientID": "" if patient == NOBODY else patient or f"P{number:05d}",
        "ModalitiesInStudy": modality,
        "AccessionNumber": "" if number % 7 == 0 else str(number),
    }


def day(number: int) -> str:
    return f"{2000 + number // 336 % 25:04d}{1 + number // 28 % 12:02d}{1 + number % 28:02d}"


def second(number: int) -> str:
    return f"{number // 3600 % 24:02d}{number // 60 % 60:02d}{number % 60:02d}"


def the_issues_archive() -> list[dict[str, str]]:
    """1,000 studies, 60 of them on one day and 30 without date."""
    studies = [study(n, day(n), second(n * 97)) for n in range(910)]
    studies += [study(n, "20240229", second(n * 511)) for n in range(1000, 1060)]
    studies += [study(n, "", second(n * 777)) for n in range(2000, 2030)]
    return studies


@pytest.mark.parametrize("order", [1, -1])
def test_a_source_that_cuts_at_50_still_gives_all_1000(order: int) -> None:
    source = Source(the_issues_archive()[::order], cap=50)
    assert sorted(source.find()) == sorted(source.uids)
    assert len(source.queries) < 200


def test_where_empty_value_matching_is_unknown_the_beginnings_of_uids_still_reach_all() -> None:
    source = Source(the_issues_archive()[-400:], cap=50, knows_empty=False, knows_uid_wildcards=True)
    assert set(source.find()) == source.uids
    assert len(source.queries) < 1000


def test_where_neither_is_known_studies_without_date_may_be_missing_and_that_is_said() -> None:
    source = Source(the_issues_archive()[-400:], cap=50, knows_empty=False)
    with pytest.raises(QueryTruncated, match=r"StudyDate 20240229 \(of those without a date or time"):
        source.find()


def test_when_the_cut_cannot_be_got_under_the_interval_is_named() -> None:
    same_second = [study(n, "20240301", "120000", patient="ANONYMOUS") for n in range(60)]
    source = Source([*the_issues_archive(), *same_second][::-1], cap=50)
    with pytest.raises(QueryTruncated, match="StudyDate 20240301") as caught:
        source.find()
    assert caught.value.cap == 50
    assert "ANONYMOUS" not in str(caught.value)
    assert not caught.value.transient


def test_a_day_above_the_cut_without_times_is_told_apart_by_uid() -> None:
    source = Source([study(n, "20240301") for n in range(120)], cap=50, knows_uid_wildcards=True)
    assert set(source.find()) == source.uids


@pytest.mark.parametrize("knows_empty", [True, False])
@pytest.mark.parametrize("date", ["20240301", ""])
@pytest.mark.parametrize("patient", ["", "\u00c4"], ids=["none", "umlaut"])
def test_beginnings_of_a_patient_id_prove_nothing_once_a_cut_was_seen(
    knows_empty: bool, date: str, patient: str
) -> None:
    """Nobody can ask for all other letters there are."""
    studies = [study(n, date, "000000" if date else "") for n in range(70)]
    studies += [{**study(100 + n, date, "000000" if date else ""), "PatientID": patient} for n in range(5)]
    source = Source(studies, cap=50, knows_empty=knows_empty)
    with pytest.raises(
        QueryTruncated, match=f"StudyDate {date}" if date else "no StudyDate|one beginning of"
    ):
        source.find()
    assert set(replace(source, knows_uid_wildcards=True).find()) == source.uids


def test_what_was_believed_before_a_cut_showed_is_proven_afterwards() -> None:
    first = [study(n, "20240301", "000000") for n in range(50)]
    first += [{**study(100 + n, "20240301", "000000"), "PatientID": ""} for n in range(5)]
    source = Source([*first, *(study(200 + n, "20240302", second(n * 60)) for n in range(100))], cap=50)
    with pytest.raises(QueryTruncated, match="StudyDate 20240301"):
        source.find()
    assert set(replace(source, knows_uid_wildcards=True).find()) == source.uids


def test_a_study_that_comes_while_the_list_is_made_is_no_cut() -> None:
    """Without empty value matching nothing could be proven if it were one."""
    source = Source([study(n, day(n), second(n * 97)) for n in range(333)], knows_empty=False)
    list_before = source.ask
    new = study(9999, day(7), second(7))

    def ask(keys: Mapping[str, str]) -> Iterator[FoundStudy]:
        if len(source.queries) == 1:
            source.studies = [*source.studies, new]
        return list_before(keys)

    found = {one.study_instance_uid for one in Splitter("pacs", ask, {}).studies()}
    assert found == source.uids
    assert new["StudyInstanceUID"] in found
    assert len(source.queries) < 30


@pytest.mark.parametrize("cap", [None, 50])
def test_a_source_that_answers_nothing_to_a_query_without_conditions_is_asked_with_one(
    cap: int | None,
) -> None:
    source = Source(the_issues_archive()[-400:], cap=cap, refuses_the_whole=True)
    assert set(source.find()) == source.uids


def test_such_a_source_is_asked_for_beginnings_within_a_date_only() -> None:
    studies = [study(n, "20240301", "120000", modality="MR" if n < 40 else "CT") for n in range(80)]
    source = Source([*studies, study(500, "")], cap=50, refuses_the_whole=True)
    assert set(source.find()) == source.uids


def test_without_a_whole_to_compare_with_studies_without_date_must_be_proven() -> None:
    source = Source([study(n, "") for n in range(3)] + [study(9, "20240301")], refuses_the_whole=True)
    assert set(source.find()) == source.uids
    with pytest.raises(QueryTruncated, match="without a date"):
        replace(source, knows_empty=False).find()


def test_one_patients_studies_of_one_second_are_told_apart_by_modality() -> None:
    studies = [study(n, "20240301", "120000", "SAME", "CT" if n % 2 else "MR") for n in range(80)]
    source = Source(studies, cap=50)
    assert set(source.find()) == source.uids


def test_a_time_with_a_fraction_lies_between_two_queries_that_meet() -> None:
    studies = [study(n, "20240301", f"{second(43190 + n // 4)}.{n % 4 * 25:02d}") for n in range(80)]
    source = Source(studies, cap=10)
    assert set(source.find()) == source.uids


def test_a_small_list_costs_a_handful_of_queries() -> None:
    source = Source([study(n, day(n * 50), second(n)) for n in range(5)])
    assert set(source.find()) == source.uids
    assert len(source.queries) <= 5


def test_an_uncut_list_is_asked_for_twice_and_not_more() -> None:
    source = Source([study(n, day(n), second(n * 97)) for n in range(1234)])
    assert set(source.find()) == source.uids
    assert len(source.queries) <= 8


def test_nothing_found_is_asked_once_with_and_once_without_a_condition() -> None:
    source = Source([])
    assert source.find() == []
    assert [query.get("StudyDate", "") for query in source.queries] == ["", "19000101-"]
    assert source.find(PatientID="P1") == []
    assert len(source.queries) == 3


def test_a_source_that_ignores_dates_is_cut_by_times() -> None:
    source = Source(the_issues_archive()[-400:], cap=50, ignores=frozenset({"StudyDate"}))
    assert set(source.find()) == source.uids


def test_dates_are_given_up_at_once_where_studies_without_one_answer_to_a_range() -> None:
    studies = sorted(the_issues_archive()[-300:], key=lambda one: one["StudyDate"])
    source = Source(
        studies, cap=20, ignores=frozenset({"StudyDate"}), knows_empty=False, knows_uid_wildcards=True
    )
    assert set(source.find()) == source.uids
    assert len(source.queries) < 1000


def test_a_source_that_ignores_every_key_cannot_be_trusted() -> None:
    ignores = frozenset({"StudyDate", "StudyTime", "PatientID", "ModalitiesInStudy"})
    with pytest.raises(QueryTruncated, match="the list of all studies"):
        Source(the_issues_archive(), cap=50, ignores=ignores).find()


def test_a_source_that_says_that_there_is_more_is_believed() -> None:
    source = Source(the_issues_archive(), cap=50, says_cut=True)
    assert set(source.find()) == source.uids


def test_answers_sent_twice_are_one_study() -> None:
    source = Source(the_issues_archive(), cap=50, twice=True)
    found = source.find()
    assert len(found) == len(set(found)) == 1000


def test_a_range_of_the_caller_is_kept_and_cut_inside() -> None:
    source = Source(the_issues_archive(), cap=50)
    wanted = {s["StudyInstanceUID"] for s in source.studies if "20050101" <= s["StudyDate"] <= "20061231"}
    assert set(source.find(StudyDate="20050101-20061231")) == wanted
    assert all(query["StudyDate"] != '""' for query in source.queries)


def test_a_list_of_uids_is_asked_in_parts_and_what_is_not_there_is_not_found() -> None:
    source = Source(the_issues_archive(), cap=20)
    uids = [s["StudyInstanceUID"] for s in source.studies][:130]
    assert sorted(source.find(StudyInstanceUID="\\".join([*uids, "1.9.9", "1.9.8"]))) == sorted(uids)


def test_a_source_that_takes_one_uid_a_request_is_asked_one_by_one() -> None:
    source = Source(the_issues_archive(), lists=False)
    uids = [s["StudyInstanceUID"] for s in source.studies][:9]
    assert sorted(source.find(StudyInstanceUID="\\".join(uids))) == sorted(uids)


def test_progress_ends_at_the_number_found() -> None:
    told: list[int] = []
    source = Source(the_issues_archive(), cap=50)
    list(Splitter("pacs", source.ask, {}, told.append).studies())
    assert told == sorted(told)
    assert told[-1] == 1000


DATES = st.sampled_from(
    ["", "", "20240101", "20240102", "20240229", "19991231", "20231105"]
) | st.dates().map(lambda d: f"{d.year:04d}{d.month:02d}{d.day:02d}")
TIMES = st.sampled_from(["", "000000", "120000", "115959.5", "235959.999999", "12", "1200"]) | st.integers(
    0, 86399
).map(second)
PATIENTS = st.sampled_from(["A", "A1", "B-2", "a1", "9", NOBODY, "\u00c4\u00df"]) | st.text(
    "0123456789ABCab", min_size=1, max_size=4
)
ARCHIVES = st.lists(
    st.tuples(DATES, TIMES, PATIENTS, st.sampled_from(["CT", "MR", "CT\\SR", ""])), min_size=0, max_size=400
)


@settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(
    archive=ARCHIVES,
    copies=st.integers(1, 40),
    cap=st.sampled_from([10, 11, 20, 37, 50, 100, 128, 500, None]),
    knows_empty=st.booleans(),
    knows_wildcards=st.booleans(),
    knows_uid_wildcards=st.booleans(),
    refuses_the_whole=st.booleans(),
    ignores=st.sampled_from(
        [(), (), (), ("StudyDate",), ("StudyTime",), ("StudyDate", "StudyTime"), ("PatientID",)]
    ),
)
def test_whatever_is_stored_all_is_found_or_an_error_is_raised(
    archive: list[tuple[str, str, str, str]],
    copies: int,
    cap: int | None,
    knows_empty: bool,
    knows_wildcards: bool,
    knows_uid_wildcards: bool,
    refuses_the_whole: bool,
    ignores: tuple[str, ...],
) -> None:
    rows = (archive * copies)[:800]
    studies = [study(n, *row) for n, row in enumerate(rows)]
    source = Source(
        studies,
        cap,
        frozenset(ignores),
        knows_empty,
        knows_wildcards,
        knows_uid_wildcards=knows_uid_wildcards,
        refuses_the_whole=refuses_the_whole and any(date >= "1900" for date, *_ in rows),
    )
    try:
        found = source.find()
    except QueryTruncated:
        return
    assert sorted(found) == sorted(source.uids)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(archive=ARCHIVES)
def test_a_source_by_the_standard_that_does_not_cut_is_never_refused(
    archive: list[tuple[str, str, str, str]],
) -> None:
    rows = [
        (date, time, f"{patient}{n}", modality) for n, (date, time, patient, modality) in enumerate(archive)
    ]
    source = Source([study(n, *row) for n, row in enumerate(rows)])
    assert sorted(source.find()) == sorted(source.uids)


def like_dcmqrscp(dated: int, undated: int, nameless: int) -> Source:
    """It knows neither empty values nor modalities, and does not tell the latter."""
    studies = [study(n, day(n * 9)) for n in range(dated)] + [study(500 + n, "") for n in range(undated)]
    studies += [{**study(900 + n, ""), "PatientID": ""} for n in range(nameless)]
    told = [{**one, "ModalitiesInStudy": ""} for one in studies]
    return Source(told, knows_empty=False, ignores=frozenset({"ModalitiesInStudy"}))


def test_a_few_studies_that_no_part_can_name_do_not_make_an_uncut_list_an_error() -> None:
    source = like_dcmqrscp(dated=26, undated=12, nameless=3)
    assert set(source.find()) == source.uids
    assert len(source.queries) < 300


def test_they_do_if_the_count_may_be_a_limit_or_there_are_many_of_them() -> None:
    for source in (like_dcmqrscp(26, 12, 2), like_dcmqrscp(26, 3, 12)):
        with pytest.raises(QueryTruncated):
            source.find()
