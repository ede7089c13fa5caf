"""What a database refuses is one sentence of ours, whichever of the two it is, and names no patient."""

import random
from pathlib import Path

import pytest
from sqlalchemy import String, make_url, text
from sqlmodel import SQLModel

import vna.catalog.tables
import vna.jobs.tables  # noqa: F401 - both fill the metadata
from vna.catalog import Catalog
from vna.errors import CatalogRefused, CatalogUnavailable
from vna.identity import FoundStudy
from vna.jobs.ledger import Ledger


@pytest.fixture
def ledger(catalog: Catalog, tmp_path: Path) -> Ledger:
    opened = Ledger(catalog.engine, tmp_path)
    opened.begin("run", "PACS", "default", {})
    return opened


def test_no_text_of_any_table_has_a_limit_that_only_one_database_knows() -> None:
    limited = [
        f"{table.name}.{column.name}"
        for table in SQLModel.metadata.sorted_tables
        for column in table.columns
        if isinstance(column.type, String) and column.type.length is not None
    ]
    assert not limited


def test_a_uid_longer_than_the_standard_allows_is_written_and_read(ledger: Ledger) -> None:
    uid = "1." + "2" * 400
    ledger.add_found("run", [FoundStudy(uid, {})])
    assert [study.study_instance_uid for study in ledger.to_do("run")] == [uid]
    ledger.lease("run", "PACS", uid, wait_seconds=0)
    ledger.remember("PACS", uid, {"1.2": "3"}, pulled_whole=True)
    assert ledger.remembered("PACS", uid) == {"1.2": "3"}


@pytest.mark.parametrize(
    ("uid", "note"),
    [
        ("1.2.3", "Ro\0e^Jane"),
        ("1.2\0.3", ""),
        ("1.2\udcff.3", ""),
        ("1.2.3", "Roe\udcff^Jane"),
        ("".join(random.Random(1).choices("0123456789.abcdefghijklm", k=9000)), ""),
    ],
    ids=["nul", "nul in a key", "half a surrogate in a key", "half a surrogate", "9000 characters in a key"],
)
def test_what_a_database_does_not_take_is_refused_in_one_sentence_without_the_value(
    ledger: Ledger, uid: str, note: str
) -> None:
    """One of the two may take it: then it gives it back."""
    refused: CatalogRefused | None = None
    try:
        ledger.add_found("run", [FoundStudy(uid, {})])
        ledger.mark("run", uid, note=note)
        (study,) = ledger.studies("run", [uid])
        assert study.note == note
    except CatalogRefused as error:
        refused = error
    if refused is not None:
        assert not refused.transient
        assert "\n" not in str(refused)
        assert "Jane" not in str(refused)
        assert len(str(refused)) < 300
    ledger.add_found("run", [FoundStudy("1.9", {})])
    assert ledger.studies("run", ["1.9"])


@pytest.mark.peer("postgresql")
def test_a_database_that_gives_us_no_right_is_transient_and_one_sentence(postgresql_url: str) -> None:
    with Catalog(postgresql_url) as catalog:
        catalog.migrate()
        with catalog.engine.begin() as connection:
            connection.execute(text("CREATE ROLE stranger LOGIN"))
        try:
            url = make_url(postgresql_url).set(username="stranger")
            with Catalog(url.render_as_string(hide_password=False)) as theirs:
                with pytest.raises(CatalogUnavailable, match="permission denied") as caught:
                    theirs.receipts_of("run", "1.2.3")
                assert caught.value.transient
        finally:
            with catalog.engine.begin() as connection:
                connection.execute(text("DROP ROLE stranger"))


def test_a_database_without_its_tables_is_one_sentence(url: str, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    with Catalog(url) as catalog, pytest.raises(CatalogUnavailable):
        catalog.receipts_of("run", "1.2.3")
