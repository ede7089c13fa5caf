"""The misbehaviours of the simulated PACS, by name: one table for the parser, the manual and the command.

Each was seen in the field (field notes 1 to 16). A fault is written `NAME` or `NAME=VALUE`; several can be
combined, and the same name may come several times where that makes sense (`ignore-key`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from vna.errors import FaultInvalid

_REQUIRED, _OPTIONAL, _NONE = "required", "optional", "none"


@dataclass(frozen=True, slots=True)
class FaultDescription:
    """One row of the table: `value` says in words what comes after `=`, empty if nothing may."""

    name: str
    description: str
    value: str = ""
    presence: str = _NONE

    @property
    def usage(self) -> str:
        """How it is written on the command line."""
        if self.presence == _NONE:
            return self.name
        return f"{self.name}={self.value}" if self.presence == _REQUIRED else f"{self.name}[={self.value}]"


FAULTS: Mapping[str, FaultDescription] = MappingProxyType(
    {
        fault.name: fault
        for fault in (
            # C-FIND
            FaultDescription(
                "cap-answers",
                "ends a query with Success after N answers at patient and study level (N:all: at every level)",
                "N[:all]",
                _REQUIRED,
            ),
            FaultDescription("ignore-key", "ignores this key when matching", "KEYWORD", _REQUIRED),
            FaultDescription(
                "null-dates",
                "N studies lose their StudyDate in matching and answers (default: all)",
                "N",
                _OPTIONAL,
            ),
            FaultDescription("no-empty-match", 'does not know empty value matching (a key of "")'),
            FaultDescription(
                "missing-counts", "sends no instance counts, neither in answers nor for sub-operations"
            ),
            FaultDescription("wrong-counts", "sends wrong instance and sub-operation counts"),
            FaultDescription("missing-modalities", "never returns ModalitiesInStudy, nor matches on it"),
            FaultDescription(
                "single-modality", "ModalitiesInStudy finds only studies of exactly this one modality"
            ),
            FaultDescription("case-sensitive-names", "matches person names case-sensitively"),
            FaultDescription("duplicate-answers", "sends every answer twice"),
            FaultDescription("illegal-values", "answers with over-long and illegal values"),
            FaultDescription("charset", "answers in this character set", "DEFINED-TERM", _REQUIRED),
            FaultDescription("rubbish", "answers queries with identifiers that are not DICOM"),
            FaultDescription(
                "no-image-level",
                "refuses queries at image level (default status A900)",
                "STATUS",
                _OPTIONAL,
            ),
            FaultDescription(
                "one-uid-per-request", "refuses queries and retrieves with a list of UIDs (A900)"
            ),
            # C-MOVE and C-GET
            FaultDescription("no-get", "does not offer C-GET"),
            FaultDescription("no-move", "does not offer C-MOVE"),
            FaultDescription(
                "unknown-destination",
                "knows no move destination (default status A801; silence: never answers)",
                "STATUS",
                _OPTIONAL,
            ),
            FaultDescription(
                "false-success",
                "says a retrieve succeeded and sends nothing (UID: for this study only)",
                "UID",
                _OPTIONAL,
            ),
            FaultDescription(
                "send-fewer",
                "leaves the last N instances of each study out of every retrieve, yet says Success (default 1)",
                "N",
                _OPTIONAL,
            ),
            FaultDescription(
                "drop-after",
                "aborts the associations after N sub-operations, once (N:always: in every retrieve)",
                "N[:always]",
                _REQUIRED,
            ),
            FaultDescription(
                "refuse-nth", "every Nth sub-operation fails without being sent", "N", _REQUIRED
            ),
            FaultDescription(
                "grow-during-retrieve",
                "a new instance appears in a study while it is retrieved, N times for each study (default 1)",
                "N",
                _OPTIONAL,
            ),
            FaultDescription(
                "change-content",
                "after its first retrieve a study changes under the same UIDs (silent: no answer shows it)",
                "silent",
                _OPTIONAL,
            ),
            # all
            FaultDescription("slow", "waits before every answer and sub-operation", "SECONDS", _REQUIRED),
            FaultDescription("hang", "accepts associations and never answers a request"),
            FaultDescription(
                "refuse-nth-association", "rejects every Nth association (transient)", "N", _REQUIRED
            ),
        )
    }
)

_COUNTS = {"null-dates", "send-fewer", "refuse-nth", "grow-during-retrieve", "refuse-nth-association"}
_STATUSES = {"no-image-level", "unknown-destination"}


@dataclass(frozen=True, slots=True)
class Faults:
    """The faults in force: name to the values it was given with, in order."""

    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def text(self, name: str, default: str = "") -> str:
        """The last value given for a fault, `default` without one."""
        return (self.values.get(name) or ("",))[-1] or default

    def number(self, name: str, default: int = 0) -> int:
        """The number before an optional `:` of a fault's value; 0 where the fault is not in force."""
        if name not in self.values:
            return 0
        text = self.text(name).partition(":")[0]
        return int(text) if text else default

    def option(self, name: str) -> str:
        """What comes after the `:` of a fault's value."""
        return self.text(name).partition(":")[2]

    def status(self, name: str, default: int) -> int:
        """A DIMSE status given in hexadecimal."""
        return int(self.text(name, f"{default:04X}"), 16)

    @property
    def seconds(self) -> float:
        """The delay of `slow`, in seconds."""
        return float(self.text("slow", "0"))


def parse_faults(texts: Sequence[str]) -> Faults:
    """Faults from `NAME` or `NAME=VALUE`; `FaultInvalid` names all that exist or what the value must be."""
    values: dict[str, tuple[str, ...]] = {}
    for text in texts:
        name, equals, value = text.strip().partition("=")
        known = FAULTS.get(name)
        if known is None:
            raise FaultInvalid(text, f"there is none of this name; there are {', '.join(sorted(FAULTS))}")
        if equals and known.presence == _NONE:
            raise FaultInvalid(text, "it takes no value")
        if not value and (known.presence == _REQUIRED or equals):
            raise FaultInvalid(text, f"write {known.usage}")
        if value and not _is_usable(name, value):
            raise FaultInvalid(text, f"{value!r} is no value for it, write {known.usage}")
        values[name] = (*values.get(name, ()), value)
    return Faults(MappingProxyType(values))


def _is_usable(name: str, value: str) -> bool:
    if name in _COUNTS:
        return value.isdecimal() and int(value) > 0
    if name in {"cap-answers", "drop-after"}:
        number, _, option = value.partition(":")
        known = {"cap-answers": {"", "all"}, "drop-after": {"", "always"}}[name]
        return number.isdecimal() and (int(number) > 0 or name == "drop-after") and option in known
    if name in _STATUSES:
        return (value == "silence" and name == "unknown-destination") or _is_status(value)
    if name == "slow":
        return value.replace(".", "", 1).isdecimal()
    if name == "change-content":
        return value == "silent"
    if name == "ignore-key":
        from pydicom.datadict import tag_for_keyword

        return tag_for_keyword(value) is not None
    if name == "charset":
        from pydicom.charset import python_encoding

        return all(term in python_encoding for term in value.split("\\"))
    return True


def _is_status(value: str) -> bool:
    try:
        return 0 < int(value.removeprefix("0x"), 16) <= 0xFFFF
    except ValueError:
        return False
