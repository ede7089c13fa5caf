"""One folder, file or setting that is beyond the indexer stops nothing but itself."""

import errno
import logging
import os
import threading
import time
from pathlib import Path

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom.ae import ApplicationEntity

from tests.indexing.arranging import receive, settings_of, spool_of, store, study
from tests.storage.received_files import content
from vna.catalog import Catalog
from vna.dimse.ports import listen
from vna.dimse.receiver import Receiver
from vna.errors import SettingsError, SpoolUnusable
from vna.indexing import Indexer
from vna.indexing.placer import Placer
from vna.settings import Settings
from vna.site import Site, UnitDefinition, WatchedSite, load_site, publish_site
from vna.spool import OpenAssociation, Spool, dataset_offset, read_association
from vna.storage import create_unit, open_unit
from vna.verification import verify_unit

PATIENT = "DOE^JOHN"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_of(tmp_path / "home")


def folders(settings: Settings) -> list[Path]:
    return list(spool_of(settings).folders())


def unit(settings: Settings, name: str) -> UnitDefinition:
    definition = UnitDefinition(name=name, path=settings.home / "units" / name)
    if not definition.path.exists():
        create_unit(definition)
    return definition


def publish(settings: Settings, *names: str) -> None:
    publish_site(settings, Site(units={name: unit(settings, name) for name in names}))


def good_copies(settings: Settings, name: str = "default") -> int:
    with Catalog(settings.catalog_database_url) as catalog:
        definition = load_site(settings).units.get(name) or unit(settings, name)
        return verify_unit(open_unit(definition), catalog, "checksum", spool_of(settings)).ok


def keeps_its_names(folder: Path, patched: pytest.MonkeyPatch) -> None:
    """As `chattr +a` makes a folder: files may be added and none removed."""
    unlink, rename = os.unlink, os.rename

    def refuse(path: "str | Path", *others: "str | Path", **options: object) -> None:
        if folder in Path(path).parents:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        (rename if others else unlink)(path, *others, **options)  # type: ignore[operator]

    for name in ("unlink", "rename", "replace"):
        patched.setattr(os, name, refuse)


def test_a_folder_that_lets_nothing_go_holds_up_neither_its_own_studies_nor_other_folders(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vna.indexing.placer.BATCH_FILES", 2)
    receive(settings, *study(1, 3), *study(2, 3))
    receive(settings, *study(3, 2))
    bad = folders(settings)[0]
    with Indexer(settings) as indexer:
        indexer.migrate()
        with monkeypatch.context() as patched:
            keeps_its_names(bad, patched)
            done = indexer.run_once()
        assert done.placed == 2
        assert {type(error) for error in done.errors} == {SpoolUnusable}
        assert all(
            "Operation not permitted" in str(error) and bad.name in str(error) for error in done.errors
        )
        assert folders(settings) == [bad]
        assert good_copies(settings) == 8
        assert not indexer.run_once().errors
    assert folders(settings) == []
    assert good_copies(settings) == 8


def test_a_folder_whose_lock_cannot_be_looked_at_stops_no_other(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    receive(settings, *study(1, 1))
    bad = folders(settings)[0]
    for file in spool_of(settings).received(bad):
        file.path.unlink()
    receive(settings, *study(2, 2))

    def refuse(path: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("vna.spool.spool.is_locked", refuse)
    with Indexer(settings) as indexer:
        indexer.migrate()
        done = indexer.run_once()
    assert done.placed == 2
    assert [bad.name in str(error) for error in done.errors] == [True]


def test_what_nobody_thought_of_stops_one_folder_only_and_tells_no_patient(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    receive(settings, *study(1, 1))
    bad = folders(settings)[0]
    receive(settings, *study(2, 2))
    page = Spool.page

    def fails_for_one(self: Spool, folder: Path, after: str = "", most: int = 4096):
        if folder == bad:
            raise ZeroDivisionError(PATIENT)
        return page(self, folder, after, most)

    with Indexer(settings) as indexer:
        indexer.migrate()
        with monkeypatch.context() as patched:
            patched.setattr(Spool, "page", fails_for_one)
            for _ in range(2):
                done = indexer.run_once(patient=True)
        assert folders(settings) == [bad]
        assert not done.errors, "it waits before it is tried again"
        assert "ZeroDivisionError" in caplog.text
        assert "fails_for_one" in caplog.text
        assert PATIENT not in caplog.text
        assert indexer.run_once().placed == 1


def test_an_indexer_survives_a_pass_that_fails_and_pauses_longer_each_time(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("vna.indexing.indexer._RETRY_SECONDS", (0.02, 60.0))
    receive(settings, *study(1, 1))
    run_once = Indexer.run_once
    times: list[float] = []

    def fails(self: Indexer, only=None, *, patient: bool = False):
        times.append(time.monotonic())
        if len(times) <= 4:
            raise RuntimeError(PATIENT)
        return run_once(self, only, patient=patient)

    monkeypatch.setattr(Indexer, "run_once", fails)
    stop = threading.Event()
    with Indexer(settings) as indexer, caplog.at_level(logging.WARNING):
        running = threading.Thread(target=indexer.run, args=(stop,))
        running.start()
        deadline = time.monotonic() + 20
        while folders(settings) and running.is_alive() and time.monotonic() < deadline:
            time.sleep(0.02)
        stop.set()
        running.join(timeout=20)
    assert folders(settings) == []
    assert times[4] - times[3] > times[1] - times[0]
    assert "RuntimeError" in caplog.text
    assert PATIENT not in caplog.text


def test_a_unit_that_fails_in_a_new_way_at_the_start_does_not_keep_the_others_from_being_used(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(settings, "bad")
    receive(settings, *study(1, 1))

    def fails(self: Indexer, of: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Indexer, "_replay", fails)
    with Indexer(settings) as indexer:
        indexer.prepare()
        assert indexer.run_once().placed == 1


# -- the same instance sent again while the first is in work


def again(association: OpenAssociation) -> None:
    (of,) = study(1, 1)
    data, _ = content(**of)  # type: ignore[arg-type]
    store(association, of, data[144 + int.from_bytes(data[140:144], "little") :])


def opened(settings: Settings) -> OpenAssociation:
    return spool_of(settings).open_association(
        calling_aet="SENDER", called_aet="BACKUPDR", peer_address="127.0.0.1", listener="scp"
    )


def test_an_instance_sent_again_while_its_first_file_is_placed_is_placed_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    import vna.indexing.placer

    place = vna.indexing.placer.place_on_unit
    with opened(settings) as association, Indexer(settings) as indexer:
        indexer.migrate()
        again(association)

        def placed(*arguments) -> None:
            place(*arguments)
            again(association)

        with monkeypatch.context() as patched:
            patched.setattr(vna.indexing.placer, "place_on_unit", placed)
            assert indexer.run_once().placed == 1
        assert spool_of(settings).received(association.path) == []
        again(association)
        assert indexer.run_once().placed == 1
    assert folders(settings) == []
    assert good_copies(settings) == 1


@pytest.mark.parametrize("place", [slice(0, 64), slice(-1, None)], ids=["unreadable", "wrong"])
def test_a_rotted_file_that_is_sent_again_while_it_is_read_is_placed_and_not_set_aside(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, place: slice
) -> None:
    with opened(settings) as association, Indexer(settings) as indexer:
        indexer.migrate()
        again(association)
        (file,) = spool_of(settings).received(association.path)
        whole = file.path.read_bytes()
        header, data = whole[: dataset_offset(file.path)], bytearray(whole[dataset_offset(file.path) :])
        data[place] = b"\xff" * len(data[place])
        file.path.write_bytes(header + data)
        identify = Placer._identify

        def in_between(self: Placer, *arguments):
            again(association)
            return identify(self, *arguments)

        with monkeypatch.context() as patched:
            patched.setattr(Placer, "_identify", in_between)
            indexer.run_once()
        indexer.run_once()
        assert spool_of(settings).aside() == []
    assert folders(settings) == []
    assert good_copies(settings) == 1


# -- where what nobody asked for belongs


def receive_for(settings: Settings, unit_name: str) -> None:
    (of,) = study(1, 1)
    data, _ = content(**of)  # type: ignore[arg-type]
    with spool_of(settings).open_association(
        calling_aet="SENDER", called_aet="BACKUPDR", peer_address="127.0.0.1", listener="scp", unit=unit_name
    ) as association:
        store(association, of, data[144 + int.from_bytes(data[140:144], "little") :])


def test_what_waited_for_the_only_unit_goes_there_also_when_a_second_was_added(settings: Settings) -> None:
    publish(settings, "nas")
    receive_for(settings, "nas")
    path = settings.home / "units" / "nas"
    path.rename(settings.home / "unmounted")
    with Indexer(settings) as indexer:
        indexer.migrate()
        assert indexer.run_once().failed == 1
        nas = UnitDefinition(name="nas", path=path)
        publish_site(settings, Site(units={"nas": nas, "nas2": unit(settings, "nas2")}))
        assert indexer.run_once().failed == 1
        (settings.home / "unmounted").rename(path)
        assert indexer.run_once().placed == 1
    assert good_copies(settings, "nas") == 1
    assert not settings.default_unit_path.exists()


def test_the_receiver_of_a_home_remembers_the_unit_that_is_implied_when_an_association_begins(
    settings: Settings,
) -> None:
    publish(settings, "nas")
    receiver = Receiver.from_settings(
        settings, WatchedSite(settings), open_to_loopback=True, socket=listen("127.0.0.1", 0)
    )
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, "1.2.3"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    sender = ApplicationEntity("SENDER")
    sender.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    with receiver:
        association = sender.associate("127.0.0.1", receiver.port, ae_title=settings.scp_aet)
        assert association.send_c_store(dataset).Status == 0
        (folder,) = folders(settings)
        assert read_association(folder).unit == "nas"
        association.release()


def test_where_the_remembered_unit_is_no_more_it_goes_where_it_would_go_now(settings: Settings) -> None:
    publish(settings, "renamed")
    receive_for(settings, "nas")
    with Indexer(settings) as indexer:
        indexer.migrate()
        assert indexer.run_once().placed == 1
    assert good_copies(settings, "renamed") == 1


@pytest.mark.parametrize("damage", ["damaged", "gone"])
def test_without_a_usable_site_file_the_indexer_goes_by_the_last_good_one(
    settings: Settings, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    publish(settings, "nas")
    for number in (1, 2):  # while it runs, and after it was started anew
        with Indexer(settings) as indexer:
            indexer.prepare()
            if damage == "damaged":
                settings.site_path.write_text("{broken")
            else:
                settings.site_path.unlink(missing_ok=True)
            receive(settings, *study(number, 1))
            assert indexer.run_once().placed == 1
    assert "The last good one stays in use" in caplog.text
    publish(settings, "nas")
    assert good_copies(settings, "nas") == 2


def test_without_any_good_site_file_nothing_is_placed_until_there_is_one(settings: Settings) -> None:
    receive(settings, *study(1, 1))
    settings.site_path.write_text("{broken")
    with Indexer(settings) as indexer:
        indexer.migrate()
        with pytest.raises(SettingsError):
            indexer.run_once()
        publish(settings, "nas")
        assert indexer.run_once().placed == 1
    assert good_copies(settings, "nas") == 1
