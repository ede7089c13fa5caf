"""The catalog on both of its databases."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from vna.catalog import Catalog


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
