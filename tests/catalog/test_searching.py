"""The catalog as an index: what a query is answered with, and how it finds its way."""

import dataclasses
import random
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text

from benchmarks.query import Population, queries
from tests.catalog.test_holding import of
from tests.catalog.test_recording import STUDY, stored
from vna.catalog import Catalog, CatalogIndex, CopyFacts
from vna.catalog.matching import matcher
from vna.catalog.narrowing import candidates
from vna.catalog.recording import table_of
from vna.catalog.searching import SUPPORTED
from vna.catalog.tables import Study
from vna.dimse import Query
from vna.errors import CatalogUnavailable
from vna.site import UnitDefinition
from vna.storage import MARKER, Stored


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


def test_several_requesters_are_answered_while_studies_arrive(catalog: Catalog, index: CatalogIndex) -> None:
    """No answer is half a study: what is recorded together is seen together."""
    population = Population(studies=40, instances=200)
    wrong: list[object] = []
    done = threading.Event()

    def ask() -> None:
        asked = {"PatientName": "*a*", "NumberOfStudyRelatedInstances": ""}
        try:
            while not done.is_set():
                for answer in index.matches(Query("STUDY", asked)):
                    number = int(answer["StudyInstanceUID"].rsplit(".", 1)[1])
                    expected = sum(isinstance(one, Stored) for one in population.events(number))
                    if answer["NumberOfStudyRelatedInstances"] != str(expected):
                        wrong.append(answer)
        except Exception as error:
            wrong.append(error)

    requesters = [threading.Thread(target=ask) for _ in range(3)]
    for requester in requesters:
        requester.start()
    for number in range(population.studies):
        catalog.record("one", f"m{number}", population.events(number))
    done.set()
    for requester in requesters:
        requester.join()
    assert wrong == []


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
