"""Where what nobody asked for goes: to the one unit that people named, else to the default."""

from pathlib import Path

import pytest

from vna.settings import Settings
from vna.site import Site, UnitDefinition, load_site, publish_site, unsolicited_unit


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


def chosen(settings: Settings, *names: str) -> str:
    units = {name: UnitDefinition(name=name, path=settings.home / name) for name in names}
    publish_site(settings, Site(units=units))
    return unsolicited_unit(settings, load_site(settings))


def test_without_a_unit_it_is_the_default(settings: Settings) -> None:
    assert unsolicited_unit(settings, load_site(settings)) == "default"
    assert chosen(settings) == "default"


def test_the_one_unit_that_people_defined_is_it(settings: Settings) -> None:
    assert chosen(settings, "nas1") == "nas1"


def test_of_several_units_none_is_guessed(settings: Settings) -> None:
    assert chosen(settings, "nas1", "nas2") == "default"


def test_a_unit_named_default_is_a_unit_like_another_where_people_defined_it_elsewhere(
    settings: Settings,
) -> None:
    assert chosen(settings, "default") == "default"
    assert chosen(settings, "default", "nas1") == "default"


def test_the_setting_decides_where_it_was_set(settings: Settings) -> None:
    named = settings.model_copy(update={"default_unit": "nas2"})
    assert chosen(named, "nas1") == "nas2"
    assert chosen(named, "nas1", "nas2") == "nas2"
