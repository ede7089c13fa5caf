"""DCMTK's findscu asks our catalog, with and without TLS: it gets what a plain filter over the files finds."""

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pydicom
import pytest
from dimse.arranging_tls import Authority
from peers.arranging_queries import UNIQUE, Files, queries, write_files
from peers.programs import QUICK
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import ExplicitVRLittleEndian

from tests.catalog.test_index_against_files import received
from tests.indexing.arranging import settings_of
from vna.catalog import Catalog, CatalogIndex
from vna.dimse.answering_find import FindService
from vna.dimse.receiver import Receiver
from vna.site import load_site
from vna.spool import Spool

pytestmark = [
    pytest.mark.peer("dcmtk"),
    pytest.mark.filterwarnings("ignore:Invalid value for VR", "ignore:Value", "ignore:The value length"),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> tuple[Files, CatalogIndex]:
    """Files, and the index of a catalog that was filled from them."""
    folder = tmp_path_factory.mktemp("queries")
    (folder / "files").mkdir()
    paths = write_files(folder / "files", seed=7, patients=20)
    settings = settings_of(folder / "home")
    received(settings, paths)
    catalog = Catalog(settings.catalog_database_url)
    return Files(paths), CatalogIndex(catalog, lambda: load_site(settings).units)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def server(home: tuple[Files, CatalogIndex], authority: Authority, tmp_path: Path) -> Iterator[Receiver]:
    with Receiver(
        Spool(tmp_path / "spool", reserve_bytes=0),
        aet="BACKUPDR",
        host="127.0.0.1",
        port=0,
        services=(FindService(home[1]),),
        tls=authority.server_files(),
        tls_port=0,
    ) as running:
        yield running


def findscu(port: int, folder: Path, level: str, keys: Mapping[str, str], *options: str) -> list[Dataset]:
    """Its answers; the query goes as a file, so that names keep their character set."""
    folder.mkdir()
    query = Dataset()
    query.SpecificCharacterSet = "ISO_IR 192"
    query.QueryRetrieveLevel = level
    for keyword, key in keys.items():
        number = int(key) if keyword == "Rows" and key else None
        setattr(query, keyword, number if keyword == "Rows" else key)
    query.file_meta = FileMetaDataset()
    query.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    query.file_meta.MediaStorageSOPClassUID = "1.2.3"
    query.file_meta.MediaStorageSOPInstanceUID = "1.2.4"
    dcmwrite(folder / "query.dcm", query, enforce_file_format=True)
    command = ["findscu", "-aec", "BACKUPDR", "-X", "-od", str(folder), *options]
    ended = subprocess.run(
        [*command, "127.0.0.1", str(port), str(folder / "query.dcm")],
        env=QUICK,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    return [pydicom.dcmread(path) for path in sorted(folder.glob("rsp*.dcm"))]


def as_told(answers: Sequence[Dataset], level: str, keys: Mapping[str, str]) -> list[dict[str, str]]:
    told = [
        {keyword: _text(answer.get(keyword)) for keyword in {*keys, *UNIQUE[level]}} for answer in answers
    ]
    return in_order(level, told)


def in_order(level: str, answers: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    return sorted(map(dict, answers), key=lambda answer: [answer[keyword] for keyword in UNIQUE[level]])


def _text(value: object) -> str:
    if isinstance(value, pydicom.multival.MultiValue):
        return "\\".join(map(str, value))
    return "" if value is None else str(value)


def test_100_queries_of_findscu_are_answered_as_by_a_filter_over_the_files(
    home: tuple[Files, CatalogIndex], server: Receiver, tmp_path: Path
) -> None:
    files, _ = home
    found = 0
    for number, (level, keys) in enumerate(queries(files, 100, seed=11)):
        model = "-P" if level == "PATIENT" or number % 3 else "-S"
        answers = findscu(server.port, tmp_path / str(number), level, keys, model)
        expected = in_order(level, files.answers(level, keys))
        assert as_told(answers, level, keys) == expected, (level, keys)
        found += len(expected)
    assert found > 300


def test_findscu_asks_over_tls(
    home: tuple[Files, CatalogIndex], server: Receiver, authority: Authority, tmp_path: Path
) -> None:
    files, _ = home
    cert, key = authority.pair("workstation", "workstation.example")
    assert server.tls_port
    options = ["+tls", str(key), str(cert), "+cf", str(authority.ca_file), "-P"]
    keys = {"PatientID": "*", "PatientName": "", "NumberOfPatientRelatedInstances": ""}
    answers = findscu(server.tls_port, tmp_path / "tls", "PATIENT", keys, *options)
    assert as_told(answers, "PATIENT", keys) == in_order("PATIENT", files.answers("PATIENT", keys))
