import dataclasses
import itertools
import json
import threading

from sqlalchemy import select
from sqlmodel import SQLModel

from vna.catalog import Catalog, CopyFacts
from vna.catalog.tables import Copy
from vna.identity import version_id
from vna.storage import Event, Received, Stored, Superseded

STUDY = "1.2.3"


def stored(sop: str = "1.2.3.1.1", sha: str = "a" * 64, at: str = "01", **changed: object) -> Stored:
    """`at` stands for the end of a time; the rest of it is the same."""
    version = version_id(STUDY, sop, "1.2.840.10008.1.2.1", sha)
    event = Stored(
        at=f"2024-01-31T00:00:00.0000{at}Z",
        path=f"aa/{STUDY}/1.2.3.1/{sop}.{sha[:16]}.dcm",
        version_id=version,
        study_instance_uid=STUDY,
        series_instance_uid="1.2.3.1",
        sop_instance_uid=sop,
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        dataset_sha256=sha,
        header_sha256="h" * 64,
        header_length=344,
        size=1000,
        mtime_ns=1700000000123456789,
        attributes={"PatientID": f"P{at}", "Modality": "CT", "InstanceNumber": "1"},
    )
    return dataclasses.replace(event, **changed)  # type: ignore[arg-type]


def received(of: Stored, run: str = "run", association: str = "01A", *, new: bool = False) -> Received:
    return Received(
        at=of.at,
        version_id=of.version_id,
        study_instance_uid=of.study_instance_uid,
        sop_instance_uid=of.sop_instance_uid,
        run=run,
        association=association,
        calling_aet="SENDER",
        called_aet="BACKUPDR",
        peer_address="127.0.0.1",
        listener="",
        server="",
        episode="",
        size=of.size,
        is_new_version=new,
    )


def dump(catalog: Catalog) -> dict[str, list[str]]:
    """Every table of the catalog proper as sorted lines."""
    names = ("study", "series", "instance", "version", "copy", "receipt", "manifest")
    with catalog.engine.connect() as connection:
        return {
            name: sorted(
                json.dumps(dict(row), sort_keys=True, default=str)
                for row in connection.execute(select(SQLModel.metadata.tables[name])).mappings()
            )
            for name in names
        }


def empty(catalog: Catalog) -> None:
    with catalog.engine.begin() as connection:
        for table in SQLModel.metadata.sorted_tables:
            connection.execute(table.delete())


def test_the_order_in_which_manifests_are_recorded_changes_nothing(catalog: Catalog) -> None:
    first, second = stored(at="01"), stored(sha="b" * 64, at="02")
    again = stored(at="03", mtime_ns=5)
    bad = Superseded(second.at, first.path, first.version_id, second.path, "differing_checksum", 9, 8, 7, "x")
    manifests: list[list[Event]] = [
        [first, received(first)],
        [second, received(second, new=True), bad],
        [again, received(again, association="01B"), received(again)],
    ]
    dumps = []
    for order in itertools.permutations(range(3)):
        empty(catalog)
        for number in (*order, order[0]):  # and one of them twice
            catalog.record("unit", f"aa/{STUDY}/manifest/{number}.jsonl", manifests[number])
        dumps.append(dump(catalog))
    assert all(one == dumps[0] for one in dumps)
    assert len(dumps[0]["version"]) == 2
    assert len(dumps[0]["receipt"]) == 3


def test_a_run_is_told_what_it_received_and_how_much(catalog: Catalog) -> None:
    one, changed = stored(), stored(sop="1.2.3.1.2", sha="b" * 64, size=500)
    catalog.record("unit", "m", [one, changed, received(one), received(changed, new=True)])
    catalog.record("unit", "n", [one, received(one, run="other")])
    rows = catalog.receipts_of("run", STUDY)
    assert {(row.sop_instance_uid, row.is_new_version) for row in rows} == {
        ("1.2.3.1.1", False),
        ("1.2.3.1.2", True),
    }
    assert catalog.run_totals("run") == (2, 1500)
    assert catalog.run_totals("nothing") == (0, 0)
    assert catalog.runs_that_received("01A", "unit", [one.version_id]) == {one.version_id: {"run", "other"}}


def test_the_current_version_is_the_one_the_unit_got_last_and_another_unit_has_its_own(
    catalog: Catalog,
) -> None:
    old, new = stored(at="01"), stored(sha="b" * 64, at="02")
    catalog.record("one", "m", [old, new])
    catalog.record("two", "m", [old])
    (copy,) = catalog.instances_of(STUDY, "one")["1.2.3.1.1"]
    assert copy.dataset_sha256 == "b" * 64
    (copy,) = catalog.instances_of(STUDY, "two")["1.2.3.1.1"]
    assert copy.dataset_sha256 == "a" * 64
    assert catalog.instances_of(STUDY, "three") == {}
    known = catalog.versions_of([(STUDY, "1.2.3.1.1"), ("1.2.9", "1.2.3.1.1")])
    assert known == {(STUDY, "1.2.3.1.1"): {old.version_id, new.version_id}}
    catalog.record("one", "n", [stored(at="03")])  # the source went back to its first content
    (copy,) = catalog.instances_of(STUDY, "one")["1.2.3.1.1"]
    assert copy.dataset_sha256 == "a" * 64


def test_a_replaced_copy_is_no_more_asked_for(catalog: Catalog) -> None:
    first = stored()
    second = stored(at="02", path=first.path.replace(".dcm", ".1.dcm"))
    bad = Superseded(second.at, first.path, first.version_id, second.path, "differing_checksum", 9, 8, 7, "x")
    catalog.record("unit", "m", [first])
    catalog.record("unit", "n", [second, bad])
    (copy,) = catalog.instances_of(STUDY, "unit")["1.2.3.1.1"]
    assert copy.path == second.path
    assert [copy.path for page in catalog.copies("unit") for copy in page] == [second.path]
    assert catalog.known_paths("unit", [first.path, second.path, "x"]) == {first.path, second.path}
    assert catalog.counts_of("unit") == (1, 1, 1)


def test_study_attributes_are_those_of_the_content_that_came_last(catalog: Catalog) -> None:
    assert catalog.study_attributes(STUDY) == {}
    catalog.record("unit", "n", [stored(at="02")])
    catalog.record("unit", "m", [stored(at="01")])
    assert catalog.study_attributes(STUDY) == {"PatientID": "P02"}


def test_texts_of_any_script_come_back_as_they_were(catalog: Catalog) -> None:
    name = "Æ^Ø=山田^太郎=\U0001f600"
    catalog.record("unit", "m", [stored(attributes={"PatientName": name})])
    assert catalog.study_attributes(STUDY) == {"PatientName": name}


def test_pages_of_copies_leave_none_out(catalog: Catalog) -> None:
    events = [stored(sop=f"1.2.3.1.{n}") for n in range(2501)]
    catalog.record("unit", "m", events)
    paths = [copy.path for page in catalog.copies("unit") for copy in page]
    assert len(paths) == 2501
    assert set(paths) == {event.path for event in events}


def test_manifests_of_a_study_are_not_those_of_one_whose_name_begins_alike(catalog: Catalog) -> None:
    catalog.record("unit", "aa/1.2/manifest/A.jsonl", [])
    catalog.record("unit", "aa/1.2.3/manifest/B.jsonl", [])
    catalog.record("other", "aa/1.2/manifest/C.jsonl", [])
    assert catalog.manifests_of("unit", "aa/1.2") == {"aa/1.2/manifest/A.jsonl"}


def test_a_status_is_written_for_the_copies_of_one_unit(catalog: Catalog) -> None:
    event = stored()
    catalog.record("one", "m", [event])
    catalog.record("two", "m", [event])
    catalog.set_status("one", [CopyFacts(event.path, "missing", 7)])
    with catalog.engine.connect() as connection:
        found = connection.execute(select(Copy.unit, Copy.status, Copy.mtime_ns)).all()
    assert set(found) == {("one", "missing", 7), ("two", "ok", event.mtime_ns)}


def test_several_writers_at_once_lose_nothing(catalog: Catalog) -> None:
    errors: list[BaseException] = []

    def write(number: int) -> None:
        try:
            for n in range(20):
                events = [stored(sop=f"1.2.3.1.{m}", at=f"{number}{n}") for m in range(10)]
                catalog.record("unit", f"aa/{STUDY}/manifest/{number}.{n}", events)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(catalog.manifests_of("unit", f"aa/{STUDY}")) == 80
    assert catalog.counts_of("unit") == (1, 10, 10)
