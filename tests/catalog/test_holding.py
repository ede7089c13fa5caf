"""The catalog as an index: which files stand for an instance, and what is vouched for."""

import dataclasses
from pathlib import Path

import pytest

from tests.catalog.test_recording import STUDY, stored
from vna.catalog import Catalog, CatalogIndex, CopyFacts
from vna.dimse import HeldInstance, Query
from vna.site import UnitDefinition
from vna.storage import MARKER, Stored, Superseded

OF_STUDY = Query("STUDY", {"StudyInstanceUID": STUDY})


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
