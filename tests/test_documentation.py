"""What the manual says, held against the code: names, defaults, statuses, commands."""

import re
from pathlib import Path

import pytest

from vna.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
OPERATING = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
CONFORMANCE = (ROOT / "docs" / "conformance.md").read_text(encoding="utf-8")


def commands() -> dict[str, set[str]]:
    """Every command with its options, as the parser has them: "remote add" → {"--aet", …}."""
    from cli.app import command

    found: dict[str, set[str]] = {}

    def walk(prefix: str, node: object) -> None:
        children = getattr(node, "commands", {})
        for name, child in children.items():
            walk(f"{prefix} {name}".strip(), child)
        if not children:
            found[prefix] = {option for parameter in node.params for option in parameter.opts}

    walk("", command())
    return found


def lines_with_commands() -> list[str]:
    """Code of the manual that calls `backupdr`, without comments."""
    text = README + OPERATING
    blocks = [
        line.partition("#")[0].strip() for line in text.splitlines() if line.startswith("    backupdr ")
    ]
    return blocks + [f"{found}" for found in re.findall(r"`(backupdr [a-z][^`]*)`", text)]


@pytest.mark.parametrize("line", lines_with_commands())
def test_every_command_in_the_manual_exists_with_its_options(line: str) -> None:
    known = commands()
    words = line.replace("…", "").split()[1:]
    name = next((" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in known), None)
    assert name, line
    for option in re.findall(r"(?<!\S)--[a-z][a-z-]*", line):
        assert option in known[name], f"{line}: {option}"


def test_the_settings_table_names_the_settings_and_their_defaults() -> None:
    table = OPERATING.partition("| setting | default | meaning |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.strip().splitlines()[1:]]
    told: dict[str, str] = {}
    for names, defaults, _ in rows:
        keys = re.findall(r"`([a-z_]+)`", names)
        values = [value.strip() for value in defaults.split(",")]
        told |= dict(zip(keys, values if len(values) == len(keys) else values[:1] * len(keys), strict=True))
    fields = {name: field for name, field in Settings.model_fields.items() if name != "home"}
    assert set(told) == set(fields)
    for name, field in fields.items():
        if isinstance(field.default, (int, float)) or name in {"scp_aet", "scp_bind", "log_level"}:
            assert (
                told[name] == f"{field.default:g}" if isinstance(field.default, float) else str(field.default)
            )


def test_the_conformance_statement_names_what_we_send() -> None:
    from vna.spool import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

    assert f"| Implementation Class UID | {IMPLEMENTATION_CLASS_UID} |" in CONFORMANCE
    assert f"| Implementation Version Name | {IMPLEMENTATION_VERSION_NAME} |" in CONFORMANCE
    for name in ("max_pdu", "max_associations"):
        assert re.search(rf"\b{Settings.model_fields[name].default}\b[^|]*\(`{name}`\)", CONFORMANCE), name


def test_the_conformance_statement_names_every_status_we_answer() -> None:
    from vna.dimse import storing

    statuses = {
        value
        for name, value in vars(storing).items()
        if name.isupper() and not name.startswith("_") and isinstance(value, int)
    }
    told = {int(text, 16) for text in re.findall(r"^\| 0x([0-9A-F]{4}) ", CONFORMANCE, re.MULTILINE)}
    assert told == statuses


def test_every_fault_of_the_simulated_pacs_the_manual_names_exists() -> None:
    from vna.simulated_pacs import parse_faults

    named = re.findall(r"--fault ([a-z-]+(?:=\S+)?)", OPERATING)
    assert named
    assert parse_faults(named)


def test_links_between_the_documents_lead_somewhere() -> None:
    for path in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.name} → {target}"


def test_nothing_here_is_of_one_machine() -> None:
    for path in (ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")):
        assert not re.search(r"/(work|root|home/[a-z]+)/", path.read_text(encoding="utf-8")), path
