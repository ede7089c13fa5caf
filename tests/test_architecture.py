"""The import rule, read from the code: who may import whom, and that nothing imports upward."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Each room may import the rooms named here, and itself.
MAY_IMPORT = {
    "cli": {"portal", "deployments", "flows", "tasks", "blocks", "dicom_scp", "router_agent", "vna"},
    "portal": {"deployments", "flows", "tasks", "blocks", "vna"},
    "deployments": {"flows", "tasks", "blocks", "vna"},
    "flows": {"tasks", "blocks", "vna"},
    "tasks": {"blocks", "vna"},
    "blocks": {"vna"},
    "dicom_scp": {"vna"},
    "router_agent": {"vna"},
    "vna": set(),
}
NO_PREFECT = {"vna", "dicom_scp", "router_agent"}
# What the router and the receiver stand on must not bring a database along.
NO_DATABASE = {
    "vna.identity",
    "vna.errors",
    "vna.settings",
    "vna.site",
    "vna.platform",
    "vna.checkpoints",
    "vna.durable",
    "vna.part10",
    "vna.spool",
    "vna.dimse",
    "vna.simulated_pacs",
    "dicom_scp",
}
# The one module of the server that opens the catalog, at the first question and not before.
OPENS_THE_CATALOG = ("dicom_scp.holdings", "vna.catalog")
DATABASE = {"sqlalchemy", "sqlmodel", "alembic", "psycopg"}


def modules(room: str) -> Iterator[tuple[str, Path]]:
    for path in sorted((ROOT / room).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        yield name.removesuffix(".__init__"), path


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively; say the full name"
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


def existing_rooms() -> list[str]:
    return [room for room in MAY_IMPORT if (ROOT / room).is_dir()]


@pytest.mark.parametrize("room", existing_rooms())
def test_a_room_imports_only_what_lies_below_it(room: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for _, path in modules(room)
        for line, name in imports(path)
        if (top := name.split(".")[0]) in MAY_IMPORT and top != room and top not in MAY_IMPORT[room]
    ]
    assert not wrong


@pytest.mark.parametrize("room", sorted(NO_PREFECT & set(existing_rooms())))
def test_the_library_and_the_receivers_never_import_prefect(room: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for _, path in modules(room)
        for line, name in imports(path)
        if name.split(".")[0] == "prefect"
    ]
    assert not wrong


def test_the_receivers_side_of_the_library_needs_no_database() -> None:
    allowed = tuple(NO_DATABASE)
    wrong = []
    for room in ("vna", "dicom_scp"):
        for name, path in modules(room):
            if not any(name == base or name.startswith(base + ".") for base in allowed):
                continue
            for line, imported in imports(path):
                if (name, ".".join(imported.split(".")[:2])) == OPENS_THE_CATALOG:
                    continue
                if imported.split(".")[0] in DATABASE or (
                    imported.startswith("vna.")
                    and not any(imported == base or imported.startswith(base + ".") for base in allowed)
                ):
                    wrong.append(f"{path.relative_to(ROOT)}:{line} imports {imported}")
    assert not wrong


def test_the_catalog_is_imported_by_the_server_only_inside_a_function() -> None:
    name, catalog = OPENS_THE_CATALOG
    tree = ast.parse((ROOT / (name.replace(".", "/") + ".py")).read_text(encoding="utf-8"))
    at_start = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert catalog not in {node.module for node in at_start}
    assert catalog in {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}


def test_a_room_of_the_library_uses_only_the_public_names_of_another() -> None:
    """`from vna.room import name`, never `from vna.room.module import name`, across rooms that are packages."""
    packages = {path.name for path in (ROOT / "vna").iterdir() if (path / "__init__.py").is_file()}
    # the ledger is part of no public face: steps are imported by module from the flow layer
    wrong = []
    for name, path in modules("vna"):
        own = name.split(".")[1] if "." in name else ""
        for line, imported in imports(path):
            parts = imported.split(".")
            if (
                parts[0] == "vna"
                and len(parts) > 3
                and parts[1] in packages
                and parts[1] != own
                and "migrations" not in name
            ):
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {imported}")
    assert not wrong


def test_there_is_no_room_for_odds_and_ends() -> None:
    names = {path.stem for room in existing_rooms() for path in (ROOT / room).rglob("*")}
    assert not names & {"utils", "util", "common", "helpers", "misc"}
