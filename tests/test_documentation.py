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
            found[prefix] = {
                option for parameter in node.params for option in (*parameter.opts, *parameter.secondary_opts)
            }

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


def statuses_of(module: object) -> set[int]:
    """The statuses a module answers with: its public constants."""
    return {
        value
        for name, value in vars(module).items()
        if name.isupper() and not name.startswith("_") and not name.endswith("_RQ") and type(value) is int
    }


def statuses_told(title: str) -> set[int]:
    """The statuses in the tables of one section of the conformance statement."""
    section = CONFORMANCE.partition(f"##### {title}")[2].partition("\n#")[0]
    return {int(text, 16) for text in re.findall(r"^\| 0x([0-9A-F]{4}) ", section, re.MULTILINE)}


def test_the_conformance_statement_names_every_status_we_answer() -> None:
    from vna.dimse import answering_find, answering_retrieve, storing

    assert statuses_told("Storage\n") == statuses_of(storing)
    assert statuses_told("Query (C-FIND)") == statuses_of(answering_find)
    assert statuses_told("Retrieve (C-MOVE, C-GET)") == statuses_of(answering_retrieve)


def test_the_conformance_statement_names_every_status_and_reason_of_storage_commitment() -> None:
    from vna.dimse import answering_commitment, committing
    from vna.site import DicomServer

    code = (ROOT / "vna" / "dimse" / "answering_commitment.py").read_text(encoding="utf-8")
    answered = {int(text, 16) for text in re.findall(r"\b0x([0-9A-F]{4})\b", code)}
    assert answered
    reasons = {
        committing.PROCESSING_FAILURE,
        committing.NO_SUCH_INSTANCE,
        committing.CLASS_INSTANCE_CONFLICT,
    }
    assert statuses_told("Storage commitment") == answered | reasons
    assert "at most 30 s after" in CONFORMANCE
    assert answering_commitment.SAME_ASSOCIATION_SECONDS == 30
    assert DicomServer().commitment_wait_seconds == 3600


def test_the_conformance_statement_names_every_key_of_a_query() -> None:
    from vna.catalog import CatalogIndex

    section = CONFORMANCE.partition("##### Query (C-FIND)")[2].partition("\n#")[0]
    told = {
        level: set(re.findall(r"`(\w+)`", keys))
        for level, keys in re.findall(r"^\| (PATIENT|STUDY|SERIES|IMAGE) \| (.*) \|$", section, re.MULTILINE)
    }
    below: set[str] = set()
    for level, keywords in CatalogIndex.supported_keywords.items():
        below |= told[level]
        assert below == keywords, level


def test_the_conformance_statement_names_the_sop_classes_we_serve() -> None:
    from vna.dimse.answering_commitment import CommitmentService
    from vna.dimse.answering_find import FindService
    from vna.dimse.answering_retrieve import GetService, MoveService

    services = (FindService, MoveService, GetService, CommitmentService)
    served = {uid for service in services for uid in service.sop_classes}
    told = re.findall(r"^\| [^|]+ \| ([0-9.]+) \| (?:yes|no) \| yes \|$", CONFORMANCE, re.MULTILINE)
    assert set(told) == served | {"1.2.840.10008.1.1"}


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
