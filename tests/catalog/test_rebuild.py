"""The unit alone gives the catalog again, table by table, on both databases."""

import json
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlmodel import SQLModel

from tests.indexing.arranging import receive, settings_of, study
from vna.catalog import Catalog
from vna.catalog.rebuild import rebuild_catalog
from vna.indexing import help_indexing
from vna.site import load_site
from vna.storage import open_unit

CATALOG = ("study", "series", "instance", "version", "copy", "receipt", "manifest")


def dump(catalog: Catalog) -> dict[str, list[str]]:
    with catalog.engine.connect() as connection:
        return {
            name: sorted(
                json.dumps(dict(row), sort_keys=True)
                for row in connection.execute(select(SQLModel.metadata.tables[name])).mappings()
            )
            for name in CATALOG
        }


@pytest.mark.filterwarnings("ignore:Failed to encode value")
def test_a_catalog_rebuilt_from_its_unit_is_the_original(url: str, tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "home", catalog_url=url)
    first, second = study(1, 30), study(2, 3)
    everything = [str(of["sop"]) for of in first + second]
    receive(settings, *first)
    help_indexing(settings, everything)
    receive(settings, {**first[0], "PatientName": "Ärger^Ömer=山田"}, *second)
    help_indexing(settings, everything)
    unit = open_unit(load_site(settings).unit("default"))
    damaged = next(unit.path.glob(f"*/*/*/{first[1]['sop']}.*"))
    damaged.write_bytes(b"rubbish")
    receive(settings, first[1], calling_aet="OTHER")  # comes again, and replaces the damaged copy
    help_indexing(settings, everything)
    with Catalog(url) as catalog:
        original = dump(catalog)
        assert len(original["version"]) == 34
        assert len(original["copy"]) == 35
        assert sum('"replaced_by": ""' not in row for row in original["copy"]) == 1
        with catalog.engine.begin() as connection:
            for name in CATALOG:
                connection.execute(SQLModel.metadata.tables[name].delete())
        report = rebuild_catalog(unit, catalog)
        assert not report.problems
        assert (report.studies, report.instances, report.copies) == (2, 33, 34)
        assert dump(catalog) == original
        rebuild_catalog(unit, catalog)
        assert dump(catalog) == original


@pytest.mark.filterwarnings("ignore:The value length")
def test_texts_that_a_database_would_refuse_are_stored_all_the_same(url: str, tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "home", catalog_url=url)
    (of,) = study(1, 1)
    receive(settings, {**of, "StudyDescription": "nul\0inside", "AccessionNumber": "x" * 3000})
    help_indexing(settings, [str(of["sop"])])
    with Catalog(url) as catalog:
        attributes = catalog.study_attributes(str(of["study"]))
    assert attributes["StudyDescription"] == "nul\ufffdinside"
    assert attributes["AccessionNumber"].startswith("xxx")
