"""Keys that came from the field: what each finds, on both databases alike."""

import dataclasses

import pytest
from sqlalchemy import make_url, text

from tests.catalog.test_recording import stored
from vna.catalog import Catalog, CatalogIndex
from vna.catalog.matching import plain_key
from vna.catalog.narrowing import candidates
from vna.catalog.searching import SUPPORTED
from vna.dimse import Query
from vna.storage import Stored


def one(number: int, **attributes: str) -> Stored:
    study = f"1.2.{number}"
    return dataclasses.replace(
        stored(sop=f"{study}.1.1"),
        study_instance_uid=study,
        series_instance_uid=f"{study}.1",
        version_id=f"v{number}",
        attributes={"Modality": "CT", **attributes},
    )


def found(index: CatalogIndex, **keys: str) -> list[str]:
    return sorted(answer["StudyInstanceUID"] for answer in index.matches(Query("STUDY", keys)))


TEXTS = ["chest", "Chest", "CT Abd", "Aalborg", "zebra", "  lead", "dž", "Müller", "a" * 300]


@pytest.mark.parametrize("keyword", ["StudyDescription", "StudyID", "IssuerOfPatientID"])
def test_a_text_of_the_attributes_is_found_as_the_standard_has_it(
    catalog: Catalog, index: CatalogIndex, keyword: str
) -> None:
    catalog.record("one", "m", [one(n, **{keyword: each}) for n, each in enumerate(TEXTS)])
    expected = {
        "c*": [0], "C*": [1, 2], "A*": [3], "z*": [4], "d*": [6], "M*r": [7], "lead": [5],
        "a" * 300: [8], "a*": [8], "a" * 250 + "*": [8], "a" * 299 + "b": [],
    }  # fmt: skip
    for key, numbers in expected.items():
        assert found(index, **{keyword: key}) == [f"1.2.{number}" for number in numbers], key[:20]


@pytest.mark.parametrize("keyword", ["StudyDescription", "StudyID", "IssuerOfPatientID"])
def test_the_order_of_texts_is_not_left_to_the_databases_language(catalog: Catalog, keyword: str) -> None:
    """A national collation has `c` between `B` and `D`, and `aa` after `z`."""
    (part,) = candidates("postgresql", {keyword: "c*"}, SUPPORTED["STUDY"])
    if catalog.engine.dialect.name == "postgresql":
        (condition,) = part.conditions
        assert str(condition.compile(dialect=catalog.engine.dialect)).count('COLLATE "C"') >= 2


def test_a_database_with_a_national_collation_answers_the_same(url: str) -> None:
    if not url.startswith("postgresql"):
        pytest.skip("SQLite has no national collation")
    national = make_url(url).set(database="national")
    with Catalog(url) as catalog:
        connection = catalog.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        with connection:
            connection.execute(
                text(
                    "CREATE DATABASE national TEMPLATE template0 ENCODING 'UTF8' "
                    "LOCALE_PROVIDER icu ICU_LOCALE 'da-DK' LOCALE 'C'"
                )
            )
            try:
                with Catalog(national.render_as_string(hide_password=False)) as danish:
                    danish.migrate()
                    danish.record("one", "m", [one(n, StudyDescription=each) for n, each in enumerate(TEXTS)])
                    index = CatalogIndex(danish, dict)
                    for key, number in {"A*": "1.2.3", "z*": "1.2.4", "M*r": "1.2.7", "c*": "1.2.0"}.items():
                        assert found(index, StudyDescription=key) == [number], key
            finally:
                connection.execute(text("DROP DATABASE national WITH (FORCE)"))


def test_patients_without_an_id_are_told_apart_by_name_and_birth_date(
    catalog: Catalog, index: CatalogIndex
) -> None:
    catalog.record(
        "one",
        "m",
        [
            one(1, PatientName="ALPHA^A", PatientBirthDate="19500101"),
            one(2, PatientName="ALPHA^A", PatientBirthDate="19600101"),
            one(3, PatientName="BETA^B"),
            one(4, PatientName="Beta^B^"),
        ],
    )
    asked = {"PatientID": "", "PatientName": "", "PatientBirthDate": "", "NumberOfPatientRelatedStudies": ""}

    def patients(**keys: str) -> list[tuple[str, str, str]]:
        answers = index.matches(Query("PATIENT", {**asked, **keys}, patient_root=True))
        told = ("PatientName", "PatientBirthDate", "NumberOfPatientRelatedStudies")
        return sorted(tuple(answer[k].upper().rstrip("^") for k in told) for answer in answers)  # type: ignore[misc]

    alphas = [("ALPHA^A", "19500101", "1"), ("ALPHA^A", "19600101", "1")]
    assert patients() == [*alphas, ("BETA^B", "", "2")]
    assert patients(PatientName="alpha*") == alphas
    assert patients(PatientName="beta*") == [("BETA^B", "", "2")]
    (study,) = index.matches(Query("STUDY", {**asked, "StudyInstanceUID": "1.2.1"}, patient_root=True))
    assert study["NumberOfPatientRelatedStudies"] == "1"


def test_a_lone_star_is_universal_for_every_key(catalog: Catalog, index: CatalogIndex) -> None:
    catalog.record("one", "m", [one(1, StudyDate="20240101"), one(2)])
    for keyword in sorted(SUPPORTED["IMAGE"]):
        level = next(each for each in ("STUDY", "SERIES", "IMAGE") if keyword in SUPPORTED[each])
        answers = index.matches(Query(level, {keyword: "*"}, patient_root=True))
        assert len(list(answers)) == 2, keyword


def test_empty_components_before_a_star_are_as_good_as_none(catalog: Catalog, index: CatalogIndex) -> None:
    names = ["DOE", "DOE^X", "Doe^X^Y", "DOE^^^^", "DOES", "ROE"]
    catalog.record("one", "m", [one(n, PatientName=name) for n, name in enumerate(names)])
    for key, numbers in {
        "DOE^^*": [0, 1, 2, 3],
        "doe^*": [0, 1, 2, 3],
        "DOE^X^^*": [1, 2],
        "DOE*^^*": [0, 1, 2, 3, 4],
        "DOE^^": [0, 3],
        "DOE": [0, 3],
    }.items():
        assert found(index, PatientName=key) == [f"1.2.{number}" for number in numbers], key


def test_uids_of_a_list_are_each_without_their_padding(catalog: Catalog, index: CatalogIndex) -> None:
    catalog.record("one", "m", [one(1), one(2), one(3)])
    assert found(index, StudyInstanceUID="1.2.1 \\ 1.2.3\0") == ["1.2.1", "1.2.3"]
    assert plain_key("SOPInstanceUID", "1.2 \\ 1.3\\") == "1.2\\1.3"
    asked = Query("STUDY", {"StudyInstanceUID": "1.2.1 \\ 1.2.3\0"})
    assert index.count(asked) == 2
    images = Query("IMAGE", {"SOPInstanceUID": " 1.2.1.1.1\\1.2.2.1.1 "})
    assert len(list(index.matches(images))) == 2
