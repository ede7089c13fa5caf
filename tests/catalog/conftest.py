"""The catalog on both of its databases."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from vna.catalog import Catalog, CatalogIndex
from vna.site import UnitDefinition
from vna.storage import create_unit


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.peer("postgresql"))])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database."""
    if request.param == "postgresql":
        return request.getfixturevalue("postgresql_url")
    return f"sqlite:///{tmp_path / 'home' / 'catalog.sqlite'}"


@pytest.fixture
def catalog(url: str) -> Iterator[Catalog]:
    """A catalog with its tables, closed before the database goes."""
    with Catalog(url) as opened:
        opened.migrate()
        yield opened


@pytest.fixture
def units(tmp_path: Path) -> dict[str, UnitDefinition]:
    """Two prepared storage units."""
    found = {name: UnitDefinition(name=name, path=tmp_path / name) for name in ("one", "two")}
    for unit in found.values():
        create_unit(unit)
    return found


@pytest.fixture
def index(catalog: Catalog, units: dict[str, UnitDefinition]) -> CatalogIndex:
    return CatalogIndex(catalog, lambda: units)
