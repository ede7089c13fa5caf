import datetime
import errno
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.indexing.arranging import receive, settings_of, spool_of, study
from vna.catalog import Catalog
from vna.errors import (
    CatalogUnavailable,
    DiskFull,
    IndexingStalled,
    NameUnknown,
    SpoolUnusable,
    UnitUnavailable,
)
from vna.indexing import IdentityReader, Indexer, Reading, help_indexing, replay_study
from vna.platform import spawn_bound
from vna.settings import Settings
from vna.site import Site, UnitDefinition, load_site, publish_site
from vna.spool import Expectation, Spool
from vna.storage import MARKER, create_unit, open_unit, study_folder_of
from vna.verification import verify_unit


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_of(tmp_path / "home")


def index(settings: Settings) -> None:
    with Indexer(settings) as indexer:
        indexer.migrate()
        done = indexer.run_once()
    assert not done.errors


def expect(settings: Settings, uid: object, run: str, unit: str) -> None:
    expires = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
    spool_of(settings).expect(Expectation(str(uid), run, unit, expires))


def add_units(settings: Settings, *names: str) -> None:
    units = {name: UnitDefinition(name=name, path=settings.home / "units" / name) for name in names}
    for unit in units.values():
        create_unit(unit)
    publish_site(settings, Site(units=units))


def report_of(settings: Settings, unit: str = "default", level: str = "checksum"):
    with Catalog(settings.catalog_database_url) as catalog:
        opened = open_unit(load_site(settings).unit(unit))
        return verify_unit(opened, catalog, level, spool_of(settings))


def folders(settings: Settings) -> list[Path]:
    return list(spool_of(settings).folders())


def test_what_was_received_is_stored_catalogued_and_gone_from_the_spool(settings: Settings) -> None:
    instances = study(1, 3) + study(2, 2)
    receive(settings, *instances)
    index(settings)
    assert folders(settings) == []
    report = report_of(settings)
    assert (report.checked, report.ok, report.problems) == (5, 5, [])
    with Catalog(settings.catalog_database_url) as catalog:
        held = catalog.instances_of(str(instances[0]["study"]), "default")
        assert set(held) == {of["sop"] for of in instances[:3]}
        assert catalog.study_attributes(str(instances[0]["study"]))["PatientName"] == "Invented^Person"


def test_an_expected_study_goes_to_the_unit_of_each_run_and_is_credited_to_it(settings: Settings) -> None:
    add_units(settings, "nas1", "nas2")
    (of,) = study(1, 1)
    expect(settings, of["study"], "run-a", "nas1")
    expect(settings, of["study"], "run-b", "nas2")
    receive(settings, of)
    index(settings)
    assert report_of(settings, "nas1").ok == 1
    assert report_of(settings, "nas2").ok == 1
    assert not settings.default_unit_path.exists()
    with Catalog(settings.catalog_database_url) as catalog:
        for run in ("run-a", "run-b"):
            (row,) = catalog.receipts_of(run, str(of["study"]))
            assert (row.sop_instance_uid, row.is_new_version) == (of["sop"], False)
            assert catalog.run_totals(run)[0] == 1


def test_a_changed_content_is_a_new_version_and_both_are_kept(settings: Settings) -> None:
    (of,) = study(1, 1)
    receive(settings, of)
    index(settings)
    expect(settings, of["study"], "again", "default")
    receive(settings, {**of, "PatientName": "Corrected^Person"})
    index(settings)
    report = report_of(settings)
    assert (report.checked, report.ok) == (2, 2)
    with Catalog(settings.catalog_database_url) as catalog:
        (row,) = catalog.receipts_of("again", str(of["study"]))
        assert row.is_new_version
        assert catalog.study_attributes(str(of["study"]))["PatientName"] == "Corrected^Person"


def test_the_same_content_received_again_is_no_new_version_and_one_copy(settings: Settings) -> None:
    (of,) = study(1, 1)
    receive(settings, of)
    index(settings)
    expect(settings, of["study"], "again", "default")
    receive(settings, of, calling_aet="OTHER")
    index(settings)
    assert report_of(settings).checked == 1
    with Catalog(settings.catalog_database_url) as catalog:
        (row,) = catalog.receipts_of("again", str(of["study"]))
        assert not row.is_new_version


def test_a_damaged_copy_is_replaced_when_the_instance_comes_again(settings: Settings) -> None:
    (of,) = study(1, 1)
    receive(settings, of)
    index(settings)
    unit = open_unit(load_site(settings).unit("default"))
    (path,) = unit.iterate()
    (unit.path / path).write_bytes(b"rubbish")
    assert report_of(settings).differing_size == 1
    receive(settings, of)
    index(settings)
    report = report_of(settings)
    assert (report.checked, report.ok, report.orphaned, report.problems) == (1, 1, 0, [])
    assert (unit.path / path).read_bytes() == b"rubbish"


def test_while_a_unit_is_away_its_files_wait_and_others_are_placed(settings: Settings) -> None:
    add_units(settings, "nas1", "nas2")
    away, other = study(1, 2), study(2, 2)
    expect(settings, away[0]["study"], "run", "nas1")
    expect(settings, other[0]["study"], "run", "nas2")
    marker = settings.home / "units" / "nas1" / MARKER
    text = marker.read_bytes()
    marker.unlink()
    receive(settings, *away, *other)
    with Indexer(settings) as indexer:
        indexer.migrate()
        done = indexer.run_once()
        assert done.placed == 2
        assert [type(error) for error in done.errors] == [UnitUnavailable]
    assert spool_of(settings).pending([str(of["sop"]) for of in away + other]) == {of["sop"] for of in away}
    assert list((settings.home / "units" / "nas1").iterdir()) == []
    with pytest.raises(UnitUnavailable):
        help_indexing(settings, [str(away[0]["sop"])])
    marker.write_bytes(text)
    help_indexing(settings, [str(of["sop"]) for of in away])
    assert report_of(settings, "nas1").ok == 2
    assert folders(settings) == []


def test_a_unit_that_comes_back_after_the_expectation_ended_gets_its_study_all_the_same(
    settings: Settings,
) -> None:
    add_units(settings, "nas1")
    (of,) = study(1, 1)
    expires = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=1)
    spool_of(settings).expect(Expectation(str(of["study"]), "run", "nas1", expires))
    receive(settings, of)
    (settings.home / "units" / "nas1" / MARKER).rename(settings.home / "aside")
    with Indexer(settings) as indexer:
        indexer.migrate()
        assert [type(error) for error in indexer.run_once().errors] == [UnitUnavailable]
        time.sleep(max(0.0, (expires - datetime.datetime.now(datetime.UTC)).total_seconds()) + 0.1)
        assert [type(error) for error in indexer.run_once().errors] == [UnitUnavailable]
        (settings.home / "aside").rename(settings.home / "units" / "nas1" / MARKER)
        assert indexer.run_once().placed == 1
    assert report_of(settings, "nas1").ok == 1
    assert not settings.default_unit_path.exists()
    with Catalog(settings.catalog_database_url) as catalog:
        assert len(catalog.receipts_of("run", str(of["study"]))) == 1


def test_expectations_of_studies_that_never_came_do_not_pile_up(settings: Settings) -> None:
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=1)
    for number in range(5):
        spool_of(settings).expect(Expectation(f"1.2.{number}", "run", "default", past))
    expect(settings, "1.3", "run", "default")
    index(settings)
    assert [path.name for path in settings.spool_path.glob("expect/*.json")] == ["1.3.run.json"]


def test_a_study_for_two_units_of_which_one_is_away_is_not_written_again_and_again(
    settings: Settings,
) -> None:
    add_units(settings, "nas1", "nas2")
    (of,) = study(1, 1)
    expect(settings, of["study"], "run-a", "nas1")
    expect(settings, of["study"], "run-b", "nas2")
    (settings.home / "units" / "nas2" / MARKER).rename(settings.home / "aside")
    receive(settings, of)
    with Indexer(settings) as indexer:
        indexer.migrate()
        for _ in range(3):
            assert indexer.run_once().errors
    assert report_of(settings, "nas1").ok == 1
    manifests = list((settings.home / "units" / "nas1").glob("*/*/manifest/*"))
    assert len(manifests) == 1
    (settings.home / "aside").rename(settings.home / "units" / "nas2" / MARKER)
    index(settings)
    assert report_of(settings, "nas2").ok == 1
    assert folders(settings) == []


def test_a_unit_that_nobody_defined_keeps_the_study_in_the_spool(settings: Settings) -> None:
    (of,) = study(1, 1)
    expect(settings, of["study"], "run", "removed")
    receive(settings, of)
    with pytest.raises(NameUnknown):
        help_indexing(settings, [str(of["sop"])])
    assert spool_of(settings).pending([str(of["sop"])])


def test_while_the_database_is_away_everything_waits_in_the_spool(settings: Settings, tmp_path: Path) -> None:
    (of,) = study(1, 1)
    receive(settings, of)
    away = settings_of(settings.home, catalog_url="postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(CatalogUnavailable):
        help_indexing(away, [str(of["sop"])])
    assert spool_of(settings).pending([str(of["sop"])])
    help_indexing(settings, [str(of["sop"])])
    assert report_of(settings).ok == 1


def test_one_who_helps_places_what_came_with_what_is_asked_for_and_nothing_else(settings: Settings) -> None:
    wanted, along, other = study(1, 1), study(3, 1), study(2, 1)
    receive(settings, *wanted, *along)
    receive(settings, *other)
    help_indexing(settings, [str(wanted[0]["sop"])])
    assert not spool_of(settings).pending([str(along[0]["sop"])])
    assert spool_of(settings).pending([str(other[0]["sop"])])
    assert report_of(settings).checked == 2


def test_several_threads_of_a_run_may_wait_for_different_studies_of_one_association(
    settings: Settings,
) -> None:
    studies = [study(number, 3) for number in range(1, 7)]
    receive(settings, *(of for instances in studies for of in instances))
    with ThreadPoolExecutor(6) as threads:
        waiting = [
            threads.submit(help_indexing, settings, [str(of["sop"]) for of in instances])
            for instances in studies
        ]
        for one in waiting:
            one.result(timeout=60)
    report = report_of(settings)
    assert (report.checked, report.ok, report.problems) == (18, 18, [])
    assert folders(settings) == []


def test_one_indexer_serves_all_threads_of_a_run_with_one_catalog_prepared_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    studies = [study(number, 4) for number in range(1, 9)]
    receive(settings, *(of for instances in studies for of in instances[:2]))
    for instances in studies:
        receive(settings, *instances[2:])
    prepared: list[Catalog] = []
    migrate = Catalog.migrate

    def counted(catalog: Catalog) -> None:
        prepared.append(catalog)
        migrate(catalog)

    monkeypatch.setattr(Catalog, "migrate", counted)
    with Catalog(settings.catalog_database_url) as catalog:
        with Indexer(settings, catalog=catalog) as indexer, ThreadPoolExecutor(8) as threads:
            waiting = [
                threads.submit(help_indexing, settings, [str(of["sop"]) for of in instances], indexer=indexer)
                for instances in studies
            ]
            for one in waiting:
                one.result(timeout=60)
        assert prepared == [catalog]
        assert catalog.counts_of("default") == (8, 32, 32), "the run's catalog is open after its indexer"
    assert report_of(settings).problems == []
    assert folders(settings) == []


def test_another_indexer_that_hangs_is_not_waited_for_without_end(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vna.indexing.helping.STALLED_SECONDS", 0.3)
    (of,) = study(1, 1)
    receive(settings, of)
    (folder,) = folders(settings)
    lock = spool_of(settings).lock_for_indexing(folder)
    assert lock is not None
    with lock, pytest.raises(IndexingStalled, match=f"{folder.name}.* 1 files wait") as caught:
        help_indexing(settings, [str(of["sop"])])
    assert caught.value.transient
    help_indexing(settings, [str(of["sop"])])
    assert report_of(settings).ok == 1


def test_another_indexer_that_is_busy_with_the_same_association_is_waited_for(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It places one file after the other, ours last, and all of it takes longer than a stall may last."""
    monkeypatch.setattr("vna.indexing.helping.STALLED_SECONDS", 0.6)
    instances = study(1, 6)
    receive(settings, *instances)
    spool = spool_of(settings)
    (folder,) = folders(settings)
    lock = spool.lock_for_indexing(folder)
    assert lock is not None

    def place_slowly() -> None:
        for file in spool.received(folder):
            time.sleep(0.3)
            spool.remove_received(file)

    busy = threading.Thread(target=place_slowly)
    with lock:
        busy.start()
        help_indexing(settings, [str(instances[-1]["sop"])])
        busy.join()
    assert folders(settings) == [folder]


def test_files_of_an_association_that_is_still_open_are_placed_as_they_come(settings: Settings) -> None:
    from tests.indexing.arranging import store
    from tests.storage.received_files import content

    (of,) = study(1, 1)
    data, _ = content(**of)  # type: ignore[arg-type]
    with spool_of(settings).open_association(
        calling_aet="SENDER", called_aet="BACKUPDR", peer_address="127.0.0.1", listener="scp"
    ) as association:
        store(association, of, data[144 + int.from_bytes(data[140:144], "little") :])
        index(settings)
        assert report_of(settings).ok == 1
        assert association.path.is_dir()
    assert folders(settings) == []


def test_a_spool_file_that_its_disk_damaged_is_set_aside_and_the_others_are_placed(
    settings: Settings,
) -> None:
    instances = study(1, 3)
    receive(settings, *instances)
    spool = spool_of(settings)
    (folder,) = spool.folders()
    victim = spool.received(folder)[1]
    data = bytearray(victim.path.read_bytes())
    data[-1] ^= 1
    victim.path.write_bytes(data)
    help_indexing(settings, [str(of["sop"]) for of in instances])
    (entry,) = spool.aside()
    assert entry.sop_instance_uid == victim.sop_instance_uid
    assert "damaged" in entry.reason
    report = report_of(settings)
    assert (report.checked, report.ok, report.orphaned) == (2, 2, 0)


def test_an_instance_that_is_not_what_it_was_sent_as_is_set_aside(settings: Settings) -> None:
    (of,) = study(1, 1)
    receive(settings, {**of, "command_sop": "1.2.3.4"})
    receive(settings, {**of, "study": None})
    help_indexing(settings, ["1.2.3.4", str(of["sop"])])
    reasons = {entry.sop_instance_uid: entry.reason for entry in spool_of(settings).aside()}
    assert "not the one it was sent under" in reasons["1.2.3.4"]
    assert "no Study Instance UID" in reasons[str(of["sop"])]
    assert folders(settings) == []


def test_an_indexer_that_runs_places_what_comes_and_ends_when_told(settings: Settings) -> None:
    stop = threading.Event()
    with Indexer(settings) as indexer:
        thread = threading.Thread(target=indexer.run, args=(stop,))
        thread.start()
        instances = study(1, 5)
        receive(settings, *instances)
        deadline = time.monotonic() + 30
        while folders(settings) and time.monotonic() < deadline:
            time.sleep(0.05)
        stop.set()
        thread.join(timeout=10)
    assert not thread.is_alive()
    assert folders(settings) == []
    assert report_of(settings).ok == 5


def test_a_catalog_that_is_older_than_its_unit_catches_up_at_the_start(settings: Settings) -> None:
    receive(settings, *study(1, 2))
    index(settings)
    database = settings.home / "catalog.sqlite"
    old = database.read_bytes()
    receive(settings, *study(2, 2))
    index(settings)
    for left in settings.home.glob("catalog.sqlite*"):
        left.unlink()
    database.write_bytes(old)
    assert report_of(settings, level="exists").orphaned == 2
    with Indexer(settings) as indexer:
        indexer.prepare()
    report = report_of(settings)
    assert (report.checked, report.ok, report.orphaned) == (4, 4, 0)


def test_what_a_killed_indexer_placed_and_did_not_catalogue_is_known_again_study_by_study(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    instances = study(1, 2)
    uid = str(instances[0]["study"])
    receive(settings, *instances)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Catalog, "record_many", killed)
        with Indexer(settings) as indexer:
            indexer.migrate()
            with pytest.raises(KeyboardInterrupt):
                indexer.run_once()
    unit = open_unit(load_site(settings).unit("default"))
    with Catalog(settings.catalog_database_url) as catalog:
        assert not catalog.instances_of(uid, "default")
        assert replay_study(unit, catalog, study_folder_of(uid)) == 1
        assert len(catalog.instances_of(uid, "default")) == 2
        assert replay_study(unit, catalog, study_folder_of(uid)) == 0
        with monkeypatch.context() as patched:
            patched.setattr(Catalog, "manifests_of", killed)
            assert replay_study(unit, catalog, study_folder_of("1.2.3.4")) == 0, (
                "nothing there, nothing asked"
            )


def test_a_clock_that_was_set_back_does_not_make_an_older_content_current(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    (of,) = study(1, 1)
    receive(settings, of)
    index(settings)

    class Earlier(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.datetime(2001, 1, 1, tzinfo=tz)

    receive(settings, {**of, "PatientName": "Corrected^Person"})
    monkeypatch.setattr("vna.indexing.placement.datetime.datetime", Earlier)
    index(settings)
    with Catalog(settings.catalog_database_url) as catalog:
        assert catalog.study_attributes(str(of["study"]))["PatientName"] == "Corrected^Person"


def test_invalid_uids_are_kept_under_safe_names(settings: Settings) -> None:
    of = {"study": "../../evil", "series": "/etc", "sop": "1.2.3"}
    with pytest.warns(UserWarning, match="Invalid value"):
        receive(settings, of)
    index(settings)
    report = report_of(settings)
    assert (report.checked, report.ok) == (1, 1)
    assert not list(settings.home.parent.glob("evil*"))


def test_a_unit_that_is_full_keeps_its_files_in_the_spool(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    instances = study(1, 2)
    receive(settings, *instances)

    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    with monkeypatch.context() as patched:
        patched.setattr("vna.storage.placing.os.link", full)
        with pytest.raises(DiskFull) as caught:
            help_indexing(settings, [str(of["sop"]) for of in instances])
        assert caught.value.transient
    assert len(spool_of(settings).pending([str(of["sop"]) for of in instances])) == 2
    help_indexing(settings, [str(of["sop"]) for of in instances])
    assert report_of(settings).ok == 2


def test_a_spool_file_that_cannot_be_read_is_an_error_and_no_endless_wait(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    (of,) = study(1, 1)
    receive(settings, of)

    def fails(self: IdentityReader, paths: list[Path]) -> list[Reading]:
        return [Reading(path, retry="Input/output error") for path in paths]

    monkeypatch.setattr(IdentityReader, "read", fails)
    with pytest.raises(SpoolUnusable, match="Input/output error"):
        help_indexing(settings, [str(of["sop"])])
    assert spool_of(settings).pending([str(of["sop"])])


def unreadable(folder: Path, patched: pytest.MonkeyPatch) -> None:
    """Let the disk refuse a folder; its rights would not stop an administrator."""
    for name in ("scandir", "listdir"):
        look = getattr(os, name)

        def refuse(path, look=look):
            if Path(path) == folder:
                raise OSError(errno.EIO, "Input/output error")
            return look(path)

        patched.setattr(os, name, refuse)


def test_a_folder_of_the_spool_that_cannot_be_read_stops_nothing_but_itself(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lost, first, second = study(1, 1), study(2, 1), study(3, 2)
    for instances in (lost, first, second):
        receive(settings, *instances)
    bad = folders(settings)[0]
    spool = spool_of(settings)
    with monkeypatch.context() as patched:
        unreadable(bad, patched)
        everything = [str(of["sop"]) for of in lost + first + second]
        assert spool.pending(everything) == {str(of["sop"]) for of in first + second}
        assert spool.pending(everything)
        assert caplog.text.count(bad.name) == 1, "told, and once"
        help_indexing(settings, [str(of["sop"]) for of in first])
        with Indexer(settings) as indexer:
            indexer.migrate()
            done = indexer.run_once()
        assert done.placed == 2
        (error,) = done.errors
        assert isinstance(error, SpoolUnusable)
        assert bad.name in str(error)
        assert [bad.name in str(told) for told in spool.waiting().unreadable] == [True]
    index(settings)
    assert report_of(settings).ok == 4


def test_a_folder_that_refuses_its_lock_is_an_error_of_those_who_wait_for_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    import vna.spool.spool

    lost, other = study(1, 1), study(2, 1)
    receive(settings, *lost)
    receive(settings, *other)
    bad = folders(settings)[0]
    lock = vna.spool.spool.try_lock

    def refuse(path: Path):
        if path.parent == bad:
            raise PermissionError(errno.EACCES, "Permission denied")
        return lock(path)

    with monkeypatch.context() as patched:
        patched.setattr(vna.spool.spool, "try_lock", refuse)
        help_indexing(settings, [str(other[0]["sop"])])
        with pytest.raises(SpoolUnusable, match=bad.name):
            help_indexing(settings, [str(lost[0]["sop"])])
    index(settings)
    assert report_of(settings).ok == 2


def test_what_nobody_thought_of_stops_one_study_only(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    import vna.indexing.placer

    place = vna.indexing.placer.place_on_unit

    def fails_for_one(unit, catalog, studies, association) -> None:
        if study(1, 1)[0]["study"] in {each.study_instance_uid for each in studies}:
            raise ZeroDivisionError
        place(unit, catalog, studies, association)

    monkeypatch.setattr(vna.indexing.placer, "place_on_unit", fails_for_one)
    receive(settings, *study(1, 1), *study(2, 3))
    with Indexer(settings) as indexer:
        indexer.migrate()
        done = indexer.run_once()
    assert done.placed == 3
    assert "ZeroDivisionError" in str(done.errors[0])


def test_the_process_indexes_until_it_is_told_to_stop_or_its_parent_is_gone(settings: Settings) -> None:
    environment = {**os.environ, "BACKUPDR_HOME": str(settings.home), "BACKUPDR_RESERVE_BYTES": "0"}
    for end in ("signal", "parent"):
        process = spawn_bound([sys.executable, "-m", "vna.indexing", "--bound"], env=environment)
        try:
            receive(settings, *study(1 if end == "signal" else 2, 3))
            deadline = time.monotonic() + 60
            while folders(settings) and time.monotonic() < deadline:
                time.sleep(0.05)
            assert folders(settings) == []
            if end == "signal":
                process.send_signal(signal.SIGTERM)
            else:
                assert process.stdin is not None
                process.stdin.close()
            assert process.wait(timeout=20) == 0
        finally:
            process.kill()
    assert report_of(settings).ok == 6


def test_with_one_unit_defined_what_nobody_asked_for_goes_there(settings: Settings) -> None:
    add_units(settings, "nas1")
    receive(settings, *study(1, 2))
    index(settings)
    assert report_of(settings, "nas1").ok == 2
    assert not settings.default_unit_path.exists()


def test_with_several_units_defined_what_nobody_asked_for_goes_to_the_default_one(settings: Settings) -> None:
    add_units(settings, "nas1", "nas2")
    receive(settings, *study(1, 2))
    index(settings)
    assert report_of(settings).ok == 2


def test_a_folder_larger_than_a_page_is_placed_whole_and_a_study_that_fails_holds_up_no_page(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Spool.page
    monkeypatch.setattr(Spool, "page", lambda self, folder, after="", most=7: page(self, folder, after, most))
    add_units(settings, "nas1", "nas2")
    expect(settings, study(1, 1)[0]["study"], "run", "nas1")
    (settings.home / "units" / "nas1" / MARKER).rename(settings.home / "aside")
    receive(settings, *study(1, 20), *study(2, 20), *study(3, 5))
    with Indexer(settings) as indexer:
        indexer.migrate()
        done = indexer.run_once()
        assert (done.placed, done.failed) == (25, 3)
        (settings.home / "aside").rename(settings.home / "units" / "nas1" / MARKER)
        assert indexer.run_once().placed == 20
    assert report_of(settings, "nas1").ok == 20
    assert folders(settings) == []


def test_while_no_unit_can_be_reached_what_waits_is_not_read_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vna.indexing.indexer._RETRY_SECONDS", (0.01, 0.02))
    index(settings)
    settings.default_unit_path.mkdir(parents=True)
    receive(settings, *study(1, 3))
    reads: list[int] = []
    read = IdentityReader.read
    monkeypatch.setattr(
        IdentityReader, "read", lambda self, paths: reads.append(len(paths)) or read(self, paths)
    )
    with Indexer(settings) as indexer:
        for _ in range(5):
            assert indexer.run_once(patient=True).failed in {0, 1}
            time.sleep(0.05)
        assert reads == [3]
        settings.default_unit_path.rmdir()
        assert indexer.run_once(patient=True).placed == 3
    assert report_of(settings).ok == 3


def test_of_thousands_of_studies_that_fail_only_the_first_errors_are_kept() -> None:
    from vna.indexing.placer import Pass

    done = Pass()
    for _ in range(3000):
        done.postpone(UnitUnavailable("nas1", "/nas1", "away"))
    assert (done.failed, len(done.errors)) == (3000, 1000)
