"""Data sets that strangers sent: each is placed or set aside with a reason, in bounded time and memory.

The files of the development corpus go the same way in tests/corpus.
"""

from pathlib import Path

import pytest

from tests.indexing.arranging import settings_of, spool_of
from vna.catalog import Catalog
from vna.indexing import IdentityReader, Indexer
from vna.settings import Settings
from vna.spool import OpenAssociation

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT, DEFLATED = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"


def receive_bytes(association: OpenAssociation, sop: str, syntax: str, dataset: bytes) -> None:
    writer = association.begin(CT, sop, syntax, "SENDER")
    writer.write(dataset)
    writer.commit()


def open_association(settings: Settings) -> OpenAssociation:
    return spool_of(settings).open_association(
        calling_aet="SENDER", called_aet="BACKUPDR", peer_address="127.0.0.1", listener="scp"
    )


def index(settings: Settings) -> None:
    with Indexer(settings) as indexer:
        indexer.migrate()
        assert not indexer.run_once().errors


def nested(depth: int) -> bytes:
    """Sequences of undefined length in each other, explicit little endian."""
    begin = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    return begin * depth


@pytest.mark.parametrize(
    ("syntax", "dataset"),
    [
        (EXPLICIT, b""),
        (EXPLICIT, b"\0" * 7),
        (EXPLICIT, b"<html>not DICOM</html>" * 100),
        (EXPLICIT, b"\x08\x00\x18\x00UI\xff\xff1.2.3"),
        (EXPLICIT, nested(20_000)),
        (DEFLATED, b"rubbish that does not inflate"),
        ("1.2.3.4.5", b"\x08\x00\x18\x00" + b"\xff" * 100),
    ],
    ids=["empty", "seven zeros", "html", "length beyond", "nested", "not deflated", "private syntax"],
)
def test_what_cannot_be_read_is_set_aside_and_its_neighbour_is_not_harmed(
    syntax: str, dataset: bytes, tmp_path: Path
) -> None:
    from tests.indexing.arranging import store
    from tests.storage.received_files import STUDY, content

    settings = settings_of(tmp_path)
    data, _ = content()
    with open_association(settings) as association:
        receive_bytes(association, "1.2.3", syntax, dataset)
        store(association, {}, data[144 + int.from_bytes(data[140:144], "little") :])
    index(settings)
    (entry,) = spool_of(settings).aside()
    assert entry.sop_instance_uid == "1.2.3"
    assert entry.reason
    with Catalog(settings.catalog_database_url) as catalog:
        assert set(catalog.instances_of(STUDY, "default")) == {f"{STUDY}.1.1"}


def test_a_data_set_that_inflates_without_end_is_read_at_its_beginning_only(tmp_path: Path) -> None:
    import zlib

    from tests.storage.received_files import STUDY, content

    data, _ = content(pixels=b"")
    dataset = data[144 + int.from_bytes(data[140:144], "little") :]
    pixels = b"\xe0\x7f\x10\x00OB\0\0" + (300 << 20).to_bytes(4, "little")
    pack = zlib.compressobj(1, wbits=-zlib.MAX_WBITS)
    bomb = pack.compress(dataset + pixels)
    for _ in range(300):
        bomb += pack.compress(bytes(1 << 20))
    bomb += pack.flush()
    settings = settings_of(tmp_path)
    with open_association(settings) as association:
        receive_bytes(association, f"{STUDY}.1.1", DEFLATED, bomb)
    index(settings)
    assert not spool_of(settings).aside()
    with Catalog(settings.catalog_database_url) as catalog:
        assert set(catalog.instances_of(STUDY, "default")) == {f"{STUDY}.1.1"}


def test_a_file_that_ends_or_blocks_the_reader_is_named_and_the_others_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parser is replaced by one that dies of some files and never ends with others."""
    import vna.indexing.reader

    child = tmp_path / "reader.py"
    child.with_name("reading.py").write_text(
        "import json, os, sys, time\n"
        "print('{}', flush=True)\n"
        "for line in sys.stdin:\n"
        "    path = json.loads(line)\n"
        "    if 'dies' in path: os._exit(1)\n"
        "    if 'blocks' in path: time.sleep(60)\n"
        "    print(json.dumps({'error': 'read'}), flush=True)\n"
    )
    monkeypatch.setattr(vna.indexing.reader, "__file__", str(child))
    reader = IdentityReader(file_seconds=0.3)
    names = ["a", "dies", "b", "blocks", "c", "dies too", "blocks too"]
    readings = reader.read([Path(name) for name in names])
    reader.close()
    assert [reading.path.name for reading in readings] == names
    told = {reading.path.name: reading.unreadable for reading in readings}
    assert {told[name] for name in "abc"} == {"read"}
    assert "ends the process" in told["dies"]
    assert "more than 0.3 s" in told["blocks too"]


def test_a_reader_that_does_not_start_says_nothing_about_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import vna.indexing.reader
    from vna.errors import ReaderFailed

    child = tmp_path / "reader.py"
    child.with_name("reading.py").write_text("raise SystemExit(1)")
    monkeypatch.setattr(vna.indexing.reader, "__file__", str(child))
    with pytest.raises(ReaderFailed) as caught:
        IdentityReader().read([Path("x")])
    assert caught.value.transient
