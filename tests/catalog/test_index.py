"""The catalog as an index: which files stand for an instance, what is vouched for, and how a query finds its way."""

import dataclasses
import random
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text

from benchmarks.query import Population, queries
from tests.catalog.test_recording import STUDY, stored
from vna.catalog import Catalog, CatalogIndex, CopyFacts
from vna.catalog.matching import matcher
from vna.catalog.narrowing import candidates
from vna.catalog.recording import table_of
from vna.catalog.searching import SUPPORTED
from vna.catalog.tables import Study
from vna.dimse import HeldInstance, Query
from vna.errors import CatalogUnavailable
from vna.site import UnitDefinition
from vna.storage import MARKER, Stored, Superseded, create_unit

OF_STUDY = Query("STUDY", {"StudyInstanceUID": STUDY})


@pytest.fixture
def units(tmp_path: Path) -> dict[str, UnitDefinition]:
    """Two prepared storage units."""
    found = {name: UnitDefinition(name=name, path=tmp_path / name) for name in ("one", "two")}
    for unit in found.values():
        create_unit(unit)
    return found


@pytest.fixture
def index(catalog: Catalog, units: dict[str, UnitDefinition]) -> CatalogIndex:
    return CatalogIndex(catalog, lambda: units)


def of(sop: str, series: str = "1.2.3.1", **changed: object) -> Stored:
    return stored(sop=sop, series_instance_uid=series, **changed)  # type: ignore[arg-type]


def files_of(index: CatalogIndex, query: Query = OF_STUDY) -> list[list[Path]]:
    return [[file.path for file in held.files] for held in index.held(query)]


# -- what is held


def test_an_instance_is_held_with_all_its_good_copies_the_units_in_their_order(
    catalog: Catalog, index: CatalogIndex, units: dict[str, UnitDefinition]
) -> None:
    event = stored()
    catalog.record("two", "m", [event])
    catalog.record("one", "m", [event])
    (held,) = index.held(OF_STUDY)
    assert held == HeldInstance(
        study_instance_uid=STUDY,
        series_instance_uid="1.2.3.1",
        sop_instance_uid="1.2.3.1.1",
        sop_class_uid=event.sop_class_uid,
        transfer_syntax_uid=event.transfer_syntax_uid,
        files=held.files,
    )
    assert [file.path for file in held.files] == [
        units["one"].path / event.path,
        units["two"].path / event.path,
    ]
    assert held.files[0].path.is_absolute()
    assert (held.files[0].size, held.files[0].header_length) == (1000, 344)
    assert (held.files[0].dataset_sha256, held.files[0].header_sha256) == ("a" * 64, "h" * 64)


def test_a_damaged_a_replaced_and_an_unmounted_copy_are_not_given(
    catalog: Catalog, index: CatalogIndex, units: dict[str, UnitDefinition]
) -> None:
    event = stored()
    again = stored(at="02", path=event.path.replace(".dcm", ".1.dcm"))
    bad = Superseded(again.at, event.path, event.version_id, again.path, "differing_checksum", 9, 8, 7, "x")
    catalog.record("one", "m", [event])
    catalog.record("two", "m", [event])
    catalog.set_status("one", [CopyFacts(event.path, "differing_checksum", 7)])
    assert files_of(index) == [[units["two"].path / event.path]]
    catalog.record("one", "n", [again, bad])
    assert files_of(index) == [[units["one"].path / again.path, units["two"].path / event.path]]
    (units["one"].path / MARKER).unlink()
    assert files_of(index) == [[units["two"].path / event.path]]
    (units["two"].path / MARKER).unlink()
    assert files_of(index) == [[]]
    assert index.count(OF_STUDY) == 1


def test_only_the_content_that_came_last_is_held(catalog: Catalog, index: CatalogIndex) -> None:
    catalog.record("one", "m", [stored(at="01"), stored(sha="b" * 64, at="02")])
    (held,) = index.held(OF_STUDY)
    assert [file.dataset_sha256 for file in held.files] == ["b" * 64]
    catalog.set_status(
        "one",
        [CopyFacts(held.files[0].path.relative_to(held.files[0].path.parents[3]).as_posix(), "missing", 0)],
    )
    (held,) = index.held(OF_STUDY)
    assert held.files == ()  # the older content is no stand-in for it


def test_instances_come_series_by_series_and_none_is_left_out_between_pages(
    catalog: Catalog, index: CatalogIndex
) -> None:
    events = [of(f"1.2.3.{n % 3}.{n}", series=f"1.2.3.{n % 3}") for n in range(1601)]
    catalog.record("one", "m", events)
    held = list(index.held(OF_STUDY))
    assert len({one.sop_instance_uid for one in held}) == len(held) == index.count(OF_STUDY) == 1601
    assert [one.series_instance_uid for one in held] == sorted(one.series_instance_uid for one in held)


RETRIEVES = [
    (Query("SERIES", {"StudyInstanceUID": STUDY, "SeriesInstanceUID": "1.2.3.2"}), ["b"]),
    (Query("SERIES", {"SeriesInstanceUID": "1.2.3.2\\1.2.3.1"}), ["a", "b"]),
    (Query("IMAGE", {"SOPInstanceUID": "b\\nothing\\c"}), ["b", "c"]),
    (Query("IMAGE", {"StudyInstanceUID": STUDY, "SOPInstanceUID": "c"}), []),
    (Query("STUDY", {"StudyInstanceUID": f"{STUDY}\\9"}), ["a", "b", "c"]),
    (Query("STUDY", {"StudyInstanceUID": "9", "SOPInstanceUID": "a"}), ["c"]),  # below the level: no key
    (Query("PATIENT", {"PatientID": "P02"}, patient_root=True), ["c"]),
    (Query("STUDY", {"PatientID": "P02", "StudyInstanceUID": STUDY}, patient_root=True), []),
    (Query("STUDY", {"PatientID": "P02", "StudyInstanceUID": STUDY}), ["a", "b"]),
    (Query("STUDY", {}), []),
    (Query("STUDY", {"PatientName": "X"}), []),
]


def test_a_retrieve_gets_what_its_unique_keys_name(catalog: Catalog, index: CatalogIndex) -> None:
    other = dataclasses.replace(of("c", "9.1", at="02"), study_instance_uid="9")
    catalog.record("one", "m", [of("a"), of("b", "1.2.3.2"), other])
    for query, expected in RETRIEVES:
        assert sorted(held.sop_instance_uid for held in index.held(query)) == expected, query
        assert index.count(query) == len(expected), query


def test_a_list_of_uids_may_be_longer_than_any_database_takes_parameters(
    catalog: Catalog, index: CatalogIndex
) -> None:
    catalog.record("one", "m", [of("a"), of("b")])
    uids = "\\".join([*(f"1.2.{n}" for n in range(70_000)), "b"])
    query = Query("IMAGE", {"StudyInstanceUID": STUDY, "SOPInstanceUID": uids})
    assert [held.sop_instance_uid for held in index.held(query)] == ["b"]
    assert index.count(query) == 1
    assert [answer["SOPInstanceUID"] for answer in index.matches(query)] == ["b"]


# -- what is vouched for


@pytest.fixture
def on_disk(catalog: Catalog, units: dict[str, UnitDefinition]) -> Stored:
    """An instance whose copy on unit one is there as it was checked."""
    event = stored(size=7)
    path = units["one"].path / event.path
    path.parent.mkdir(parents=True)
    path.write_bytes(b"content")
    event = dataclasses.replace(event, mtime_ns=path.stat().st_mtime_ns)
    catalog.record("one", "m", [event])
    return event


def test_an_instance_is_vouched_for_by_a_copy_that_is_where_and_as_it_was_checked(
    index: CatalogIndex, on_disk: Stored
) -> None:
    uid = on_disk.sop_instance_uid
    assert index.verified([uid, "1.2.3.4"]) == {uid: on_disk.sop_class_uid}


@pytest.mark.parametrize(
    "what", ["other size", "other time", "gone", "damaged", "unmounted", "newer content"]
)
def test_an_instance_is_not_vouched_for_when_its_copy_is_not_as_it_was(
    catalog: Catalog, index: CatalogIndex, units: dict[str, UnitDefinition], on_disk: Stored, what: str
) -> None:
    path = units["one"].path / on_disk.path
    if what == "other size":
        path.write_bytes(b"other content")
    elif what == "other time":
        path.write_bytes(b"contenT")
    elif what == "gone":
        path.unlink()
    elif what == "damaged":
        catalog.set_status("one", [CopyFacts(on_disk.path, "differing_checksum", on_disk.mtime_ns)])
    elif what == "unmounted":
        del units["one"]
    else:
        catalog.record("two", "m", [stored(sha="b" * 64, at="05")])
    assert index.verified([on_disk.sop_instance_uid]) == {}


# -- queries


def test_a_patient_is_answered_once_with_the_attributes_that_were_told_last(
    catalog: Catalog, index: CatalogIndex
) -> None:
    def patient(study: str, at: str, name: str, issuer: str = "") -> Stored:
        attributes = {"PatientID": "P", "PatientName": name, "IssuerOfPatientID": issuer}
        return dataclasses.replace(
            of(f"{study}.1.1", f"{study}.1", at=at), study_instance_uid=study, attributes=attributes
        )

    catalog.record("one", "m", [patient("5", "02", "New^Name"), patient("4", "01", "Old^Name")])
    catalog.record("one", "n", [patient("6", "03", "Namesake", issuer="ELSEWHERE")])
    asked = {"PatientName": "", "IssuerOfPatientID": "", "NumberOfPatientRelatedStudies": ""}
    answers = list(index.matches(Query("PATIENT", asked, patient_root=True)))
    told = {(a["PatientName"], a["IssuerOfPatientID"], a["NumberOfPatientRelatedStudies"]) for a in answers}
    assert told == {("New^Name", "", "2"), ("Namesake", "ELSEWHERE", "1")}
    old = Query("PATIENT", {"PatientName": "old*"}, patient_root=True)
    assert list(index.matches(old)) == []


def test_a_series_whose_instances_all_moved_to_another_is_no_more(
    catalog: Catalog, index: CatalogIndex
) -> None:
    catalog.record("one", "m", [of("a", "1.2.3.1"), of("a", "1.2.3.2", at="02", sha="b" * 64)])
    (series,) = index.matches(
        Query("SERIES", {"StudyInstanceUID": STUDY, "NumberOfSeriesRelatedInstances": ""})
    )
    assert (series["SeriesInstanceUID"], series["NumberOfSeriesRelatedInstances"]) == ("1.2.3.2", "1")
    asked = {"NumberOfStudyRelatedSeries": "", "ModalitiesInStudy": ""}
    (study,) = index.matches(Query("STUDY", asked))
    assert (study["NumberOfStudyRelatedSeries"], study["ModalitiesInStudy"]) == ("1", "CT")


@pytest.mark.parametrize("level", ["STUDY", "SERIES", "IMAGE"])
def test_what_cannot_be_retrieved_now_is_offline(
    catalog: Catalog, index: CatalogIndex, units: dict[str, UnitDefinition], level: str
) -> None:
    other = dataclasses.replace(of("b", "9.1"), study_instance_uid="9", version_id="f" * 32)
    catalog.record("one", "m", [stored()])
    catalog.record("two", "m", [other])

    def told() -> list[str]:
        answers = index.matches(Query(level, {"InstanceAvailability": ""}))
        return [answer["InstanceAvailability"] for answer in answers]

    assert told() == ["ONLINE", "ONLINE"]
    (units["two"].path / MARKER).unlink()
    assert told() == ["ONLINE", "OFFLINE"]
    catalog.set_status("one", [CopyFacts(stored().path, "missing", 0)])
    assert told() == ["OFFLINE", "OFFLINE"]


@pytest.mark.parametrize("level", ["PATIENT", "STUDY", "SERIES", "IMAGE"])
def test_every_supported_keyword_is_answered_and_no_other(
    catalog: Catalog, index: CatalogIndex, level: str
) -> None:
    catalog.record("one", "m", [stored()])
    keys = dict.fromkeys([*SUPPORTED[level], "Occupation"], "")
    (answer,) = index.matches(Query(level, keys, patient_root=True))
    assert answer.keys() == SUPPORTED[level]


def test_pages_of_answers_leave_none_out_and_give_none_twice(catalog: Catalog, index: CatalogIndex) -> None:
    def one(number: int) -> Stored:
        name = f"Same^Name={number % 7}" if number % 2 else "Same^Name"
        attributes = {"PatientID": f"P{number // 3}", "PatientName": name, "StudyDate": "20240101"}
        return dataclasses.replace(
            stored(sop=f"1.{number}.1"), study_instance_uid=f"1.{number}", attributes=attributes
        )

    catalog.record("one", "m", [one(number) for number in range(1300)])
    for keys in (
        {},
        {"PatientName": "same*"},
        {"PatientName": "*e"},
        {"StudyDate": "2024-"},
        {"PatientID": "P*"},
    ):
        found = [answer["StudyInstanceUID"] for answer in index.matches(Query("STUDY", keys))]
        assert len(found) == len(set(found)) == 1300, keys
    images = [answer["SOPInstanceUID"] for answer in index.matches(Query("IMAGE", {}))]
    assert len(images) == len(set(images)) == 1300
    patients = [answer["PatientID"] for answer in index.matches(Query("PATIENT", {}, patient_root=True))]
    assert len(patients) == len(set(patients)) == 434


UNKIND = [
    "*" * 5000,
    "?" * 5000,
    "*a" * 2000,
    "%_!['\\\"",
    "\\" * 300,
    "x" * 60_000,
    "\ufffd\U0001f600*",
    "[a-z]*",
    "=" * 500,
]


def test_keys_that_nobody_means_well_with_are_answered_all_the_same(
    catalog: Catalog, index: CatalogIndex
) -> None:
    catalog.record(
        "one", "m", [stored(attributes={"PatientName": "a" * 1000, "StudyDescription": "a" * 1000})]
    )
    for key in UNKIND:
        for keyword in (
            "PatientName",
            "StudyDescription",
            "StudyDate",
            "PatientID",
            "StudyTime",
            "ModalitiesInStudy",
        ):
            assert len(list(index.matches(Query("STUDY", {keyword: key})))) <= 1


def test_a_value_longer_than_an_index_takes_is_recorded_and_found(
    catalog: Catalog, index: CatalogIndex
) -> None:
    long = "".join(random.Random(1).choices("abcdefgh山田", k=1000))
    catalog.record(
        "one", "m", [stored(attributes={"PatientName": long, "AccessionNumber": long, "PatientID": long})]
    )
    for keyword in ("PatientName", "AccessionNumber", "PatientID"):
        for key in (long, f"{long[:300]}*", f"*{long[-5:]}", f"?{long[1:]}"):
            assert list(index.matches(Query("STUDY", {keyword: key}))), (keyword, key[:10])
        assert not list(index.matches(Query("STUDY", {keyword: f"{long}x"})))
    counted = {"PatientID": long, "NumberOfPatientRelatedStudies": ""}
    for level in ("PATIENT", "STUDY"):
        (answer,) = index.matches(Query(level, counted, patient_root=True))
        assert (answer["PatientID"], answer["NumberOfPatientRelatedStudies"]) == (long, "1")


def test_a_query_without_tables_is_one_error(
    url: str, units: dict[str, UnitDefinition], tmp_path: Path
) -> None:
    (tmp_path / "home").mkdir(exist_ok=True)
    with Catalog(url) as empty, pytest.raises(CatalogUnavailable):
        list(CatalogIndex(empty, lambda: units).matches(Query("STUDY", {})))


# -- how a query finds its way


USUAL: list[tuple[dict[str, str], str]] = [
    ({"StudyInstanceUID": "1.2"}, "study_instance_uid|study_pkey|autoindex_study"),
    ({"SeriesInstanceUID": "1.2.3"}, "ix_series_uid"),
    ({"SOPInstanceUID": "1.2.3"}, "ix_instance_sop_instance_uid"),
    ({"AccessionNumber": "A1"}, "ix_study_accession_number"),
    ({"PatientID": "P1"}, "ix_study_patient_id"),
    ({"PatientID": "P1*", "PatientSex": "M"}, "ix_study_patient_id"),
    ({"PatientName": "DOE^JANE"}, "ix_study_patient_name"),
    ({"PatientName": "doe*"}, "ix_study_patient_name"),
    ({"StudyDate": "20240101-20240107", "PatientName": "d*"}, "ix_study_date"),
    ({"StudyDate": "20240101", "ModalitiesInStudy": "CT"}, "ix_study_date"),
    ({"PatientBirthDate": "20000101"}, "ix_study_birth_date"),
    ({"ModalitiesInStudy": "XA"}, "ix_series_modality"),
]


def test_a_usual_key_is_found_by_its_index(catalog: Catalog) -> None:
    Population(studies=500, instances=500).fill(catalog)
    dialect = catalog.engine.dialect.name
    for keys, used in USUAL:
        part = candidates(dialect, keys, SUPPORTED["STUDY"])[0]
        plan = plan_of(catalog, part)
        assert any(name in plan for name in used.split("|")), (keys, plan)
        assert "SCAN study\n" not in plan, (keys, plan)


def plan_of(catalog: Catalog, part: Any) -> str:
    """How the database would read the first page."""
    study = table_of(Study)
    order = [*([] if part.order is None else [part.order]), study.c.study_instance_uid]
    statement = select(study.c.study_instance_uid).where(*part.conditions).order_by(*order).limit(32)
    with catalog.engine.connect() as connection:
        is_postgresql = connection.dialect.name == "postgresql"
        if is_postgresql:
            connection.execute(text("SET LOCAL enable_seqscan = off"))  # a small table is always read whole
        explain = "EXPLAIN" if is_postgresql else "EXPLAIN QUERY PLAN"
        compiled = statement.compile(dialect=connection.dialect)
        values = [compiled.params[name] for name in compiled.positiontup or ()]
        rows = connection.exec_driver_sql(
            f"{explain} {compiled}", compiled.params if is_postgresql else tuple(values)
        )
        return "".join(f"{row[-1]}\n" for row in rows)


def test_the_queries_of_a_day_are_answered_as_if_every_study_was_looked_at(
    catalog: Catalog, index: CatalogIndex
) -> None:
    """What narrows a query must never narrow it too far: compared with the same keys without any help of SQL."""
    population = Population(studies=300, instances=600)
    population.fill(catalog)
    everything = list(index.matches(Query("STUDY", dict.fromkeys(SUPPORTED["STUDY"], ""))))
    assert len(everything) == 300
    for kind, keys in queries(population, 60, seed=4):
        wanted = {keyword: match for keyword, key in keys.items() if (match := matcher(keyword, key))}
        expected = {
            one["StudyInstanceUID"] for one in everything if all(m(one[k]) for k, m in wanted.items())
        }
        assert {one["StudyInstanceUID"] for one in index.matches(Query("STUDY", keys))} == expected, kind
