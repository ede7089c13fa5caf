"""Which folders can be a storage unit's: one of its own, and the one that has what the catalog says it has."""

import json
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path

from vna.errors import SettingsError
from vna.settings import Settings
from vna.site import UnitDefinition


def check_folder(definition: UnitDefinition, units: Iterable[UnitDefinition], settings: Settings) -> None:
    """Raise `SettingsError` if the folder cannot be this unit's beside the others, or has lost its copies."""
    others = {unit.name: unit for unit in units}
    before = others.pop(definition.name, None)
    _check_kind(definition.path)
    for other in others.values():
        where = overlap(definition.path, other.path)
        if where is not None:
            raise SettingsError(
                f"{definition.path} cannot be the folder of storage unit {definition.name}: "
                f"it {where} {other.path}, the folder of storage unit {other.name}."
            )
    _check_move(definition, before, settings)


def overlapping(units: Iterable[UnitDefinition]) -> list[str]:
    """A sentence for every two units that share a folder."""
    return [
        f"Storage units {one.name} and {other.name} share a folder: {one.path} {where} {other.path}."
        for one, other in combinations(units, 2)
        if (where := overlap(one.path, other.path)) is not None
    ]


def overlap(path: Path, other: Path) -> str | None:
    """How a folder shares files with another, links followed; None if it does not."""
    one, two = _resolved(path), _resolved(other)
    if one == two:
        return "is" if path == other else "is the same as"
    if two in one.parents:
        return "lies inside"
    return "lies around" if one in two.parents else None


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # a link to itself, or a share that does not answer
        return path.absolute()


def _check_kind(path: Path) -> None:
    for place in (path, *path.parents):
        try:
            if place.exists():
                if not place.is_dir():
                    raise SettingsError(f"{place} is a file, not a folder (--path).")
                return
        except OSError as error:
            raise SettingsError(f"{place} cannot be used: {error.strerror} (--path).") from error


def _check_move(definition: UnitDefinition, before: UnitDefinition | None, settings: Settings) -> None:
    if before is not None and _resolved(before.path) == _resolved(definition.path):
        return
    marker = _marker(definition.path)
    old = {} if before is None else _marker(before.path)
    ours = marker.get("id") == old["id"] if old.get("id") else marker.get("unit") == definition.name
    if ours or not _has_copies(definition.name, settings):
        return
    away = "" if before is None else f" (until now {before.path})"
    raise SettingsError(
        f"The catalog has copies on storage unit {definition.name}{away}, and {definition.path} is not that "
        f"unit: move or copy the whole old folder there first, or choose another name."
    )


def _marker(folder: Path) -> dict[str, object]:
    """What a unit's marker says; empty if there is none that can be read."""
    from vna.storage import MARKER

    try:
        marker = json.loads((folder / MARKER).read_bytes())
    except (OSError, ValueError):
        return {}
    return marker if isinstance(marker, dict) else {}


def _has_copies(name: str, settings: Settings) -> bool:
    from vna.catalog import Catalog

    with Catalog(settings.catalog_database_url) as catalog:
        catalog.migrate()
        return catalog.last_told(name) != ""
