"""The catalog as an index of images: its answers are those of a plain filter over the files it was filled from."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pydicom
import pytest
from peers.arranging_queries import UNIQUE, Files, queries, write_files

from tests.indexing.arranging import settings_of, spool_of
from vna.catalog import Catalog, CatalogIndex
from vna.dimse import Query
from vna.indexing import help_indexing
from vna.part10 import header_length
from vna.settings import Settings
from vna.site import load_site

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR", "ignore:Value")


def received(settings: Settings, paths: Sequence[Path]) -> None:
    """Into the spool, and by the indexer onto the unit and into the catalog."""
    uids: list[str] = []
    with spool_of(settings).open_association(
        calling_aet="SENDER", called_aet="BACKUPDR", peer_address="127.0.0.1", listener="scp"
    ) as association:
        for path in paths:
            data = path.read_bytes()
            meta = pydicom.dcmread(path, stop_before_pixels=True).file_meta
            uids.append(str(meta.MediaStorageSOPInstanceUID))
            writer = association.begin(
                str(meta.MediaStorageSOPClassUID), uids[-1], str(meta.TransferSyntaxUID), "SENDER"
            )
            writer.write(data[header_length(data) :])
            writer.commit()
    help_indexing(settings, uids)


def in_order(level: str, answers: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    return sorted(answers, key=lambda answer: [answer[keyword] for keyword in UNIQUE[level]])


def test_200_queries_are_answered_as_by_a_filter_over_the_files(url: str, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    paths = write_files(tmp_path / "files", seed=1)
    settings = settings_of(tmp_path / "home", catalog_url=url)
    received(settings, paths)
    files = Files(paths)
    found = 0
    with Catalog(url) as catalog:
        index = CatalogIndex(catalog, lambda: load_site(settings).units)
        for level, keys in queries(files, 200, seed=2):
            expected = in_order(level, files.answers(level, keys))
            for is_patient_root in (True, False):
                if level == "PATIENT" and not is_patient_root:
                    continue
                answers = list(index.matches(Query(level, keys, is_patient_root)))
                extra = {"PatientID"} - {*keys, *UNIQUE[level]} if is_patient_root else set()
                told = [{k: v for k, v in answer.items() if k not in extra} for answer in answers]
                assert in_order(level, told) == expected, (level, keys)
            found += len(expected)
    assert found > 1000  # or the queries would have asked for nothing
