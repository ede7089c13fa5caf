"""Storage commitment is said of what was sent last, not of an older content under the same UID."""

import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from vna.catalog import Catalog, CatalogIndex
from vna.dimse.committing import Judge, Judgement
from vna.errors import SpoolUnusable
from vna.indexing import Indexer
from vna.settings import Settings
from vna.site import load_site
from vna.spool import CommitmentRequest, Commitments, Spool

CT, INSTANCE, IMPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.3", "1.2.840.10008.1.2"
COMMITTED = Judgement(((CT, INSTANCE),), ())
NOT_COMMITTED = Judgement((), (((CT, INSTANCE), 0x0110),))


class Site:
    """A home with its spool, indexer and judge."""

    def __init__(self, home: Path) -> None:
        self.settings = Settings(home=home, reserve_bytes=0)
        self.spool = Spool(self.settings.spool_path, 0)
        self.spool.prepare()
        self.indexer = Indexer(self.settings)
        self.indexer.prepare()
        self.catalog = Catalog(self.settings.catalog_database_url)
        index = CatalogIndex(self.catalog, lambda: load_site(self.settings).units)
        self.judge = Judge(index, self.spool, lambda: 0)
        self._asked = 0

    def receive(self, patient_name: str) -> Path:
        dataset = Dataset()
        dataset.SOPClassUID, dataset.SOPInstanceUID = CT, INSTANCE
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2", "1.2.1"
        dataset.PatientName = patient_name
        encoded = BytesIO()
        dataset.save_as(encoded, implicit_vr=True, little_endian=True)
        with self.spool.open_association(
            calling_aet="CT1", called_aet="BACKUPDR", peer_address="", listener="scp"
        ) as association:
            writer = association.begin(CT, INSTANCE, IMPLICIT, "CT1")
            writer.write(encoded.getvalue())
            return association.path / writer.commit().file_name

    def asked(self) -> Judgement | None:
        self._asked += 1
        references = ((CT, INSTANCE),)
        request = CommitmentRequest(f"1.9.{self._asked}", "CT1", "BACKUPDR", time.time(), references)
        taken = Commitments(self.spool).add(request)
        assert taken is not None
        with taken:
            return self.judge.judge(taken)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    home = Site(tmp_path)
    yield home
    home.indexer.close()
    home.catalog.close()


def rot(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_a_version_that_was_set_aside_is_not_committed_by_an_older_one(site: Site) -> None:
    site.receive("WRONG^NAME")
    assert site.indexer.run_once().placed == 1
    assert site.asked() == COMMITTED
    rot(site.receive("RIGHT^NAME"))
    assert site.indexer.run_once().set_aside == 1
    assert site.asked() == NOT_COMMITTED
    site.receive("RIGHT^NAME")  # sent again
    assert site.indexer.run_once().placed == 1
    assert site.asked() == COMMITTED


def test_nothing_is_committed_while_a_folder_of_the_spool_cannot_be_read(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.receive("DOE^JANE")
    assert site.indexer.run_once().placed == 1

    def unreadable(folder: Path) -> list[str]:
        raise SpoolUnusable(str(folder), "Input/output error")

    site.receive("DOE^JANE AGAIN")
    monkeypatch.setattr("vna.spool.spool.complete_names", unreadable)
    with pytest.raises(SpoolUnusable):
        site.asked()
