"""The site as the services see it: remote servers and storage units, without secrets.

People edit blocks; whoever runs Prefect publishes them here as `site.json`, so that the DICOM server and
the commands that only read start and work without Prefect (DESIGN §6). The file is replaced whole, by
temporary and rename; a reader never sees half of it.
"""

import contextlib
import ipaddress
import threading
import time
from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from vna.durable import make_folder, write_durably
from vna.errors import NameUnknown, SettingsError
from vna.identity import is_valid_uid
from vna.settings import Settings, check_aet, validation_sentence


class RetrieveMethod(StrEnum):
    """How instances come to us: the source sends to our DICOM server, or on our own association."""

    move = "move"
    get = "get"


class Tls(BaseModel):
    """TLS towards one remote server; files, never their content."""

    model_config = ConfigDict(frozen=True)

    ca_file: Path | None = Field(default=None, description="Certificates we trust; empty = the system's.")
    cert_file: Path | None = Field(
        default=None, description="Our certificate, where the server asks for one."
    )
    key_file: Path | None = Field(default=None, description="The key of our certificate.")
    check_host: bool = Field(default=True, description="The server's certificate must name its host.")


class RemoteServer(BaseModel):
    """One remote DICOM server (a PACS, an archive, a workstation)."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(min_length=1)
    aet: str
    host: str = Field(min_length=1)
    port: int = Field(ge=1, le=65535)
    retrieve: RetrieveMethod = RetrieveMethod.move
    associations: int = Field(default=2, ge=1, le=64, description="Associations we may hold to it at once.")
    pause_seconds: float = Field(
        default=0.0, ge=0, description="Pause between two requests on an association."
    )
    recheck_share: float = Field(
        default=0.0,
        ge=0,
        le=100,
        description="Percent of known studies pulled again in each run to find changes.",
    )
    tls: Tls | None = None
    calling_aets: tuple[str, ...] = Field(
        default=(),
        description="Further AE titles it calls us with, beside its own (many archives send with another).",
    )
    called_aets: tuple[str, ...] = Field(
        default=(), description="AE titles of ours it may call; empty = any of them."
    )
    addresses: tuple[str, ...] = Field(
        default=(),
        description="Addresses or networks it may call from (192.0.2.7, 192.0.2.0/24); empty = any.",
    )
    tls_subject: str = Field(
        default="",
        description="Common name or whole subject its certificate must have; empty = any we trust.",
    )
    may_store: bool = Field(default=True, description="It may send to us.")
    may_retrieve: bool = Field(
        default=True, description="It may query, retrieve and ask for storage commitment."
    )
    transfer_syntaxes: tuple[str, ...] = Field(
        default=(),
        description="Transfer syntaxes accepted from it, the best first; empty = as for the server.",
    )

    @field_validator("aet")
    @classmethod
    def _aet(cls, value: str) -> str:
        return check_aet(value)

    @field_validator("calling_aets", "called_aets")
    @classmethod
    def _aets(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(check_aet(value) for value in values)

    @field_validator("addresses")
    @classmethod
    def _addresses(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(check_network(value) for value in values)

    @field_validator("transfer_syntaxes")
    @classmethod
    def _syntaxes(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(check_uid(value) for value in values)


class UnknownCallers(StrEnum):
    """What a caller that is no remote server of the site may do."""

    refuse = "refuse"
    store = "store"


class DicomServer(BaseModel):
    """Our DICOM server as people set it day by day; takes effect with the next association.

    What is None is as the process settings say; address, port and main AE title are process settings.
    """

    model_config = ConfigDict(frozen=True)

    other_aets: tuple[str, ...] = Field(
        default=(), description="AE titles it answers to beside its main one."
    )
    unknown_callers: UnknownCallers = UnknownCallers.refuse
    transfer_syntaxes: tuple[str, ...] = Field(
        default=(), description="Transfer syntaxes accepted for storage, the best first; empty = every one."
    )
    latency_seconds: float = Field(
        default=60.0,
        ge=0,
        description="Quiet seconds until a study that is being received counts as complete.",
    )
    commitment_wait_seconds: float = Field(
        default=3600.0,
        ge=0,
        description="Seconds a received image may wait to be placed before storage commitment is refused for it.",
    )
    max_associations: int | None = Field(default=None, ge=1, description="Associations served at once.")
    associations_per_address: int = Field(
        default=32, ge=1, description="Associations served at once of one address."
    )
    max_pdu: int | None = Field(default=None, ge=4096, description="Largest PDU received, in bytes.")
    network_timeout: float | None = Field(
        default=None, gt=0, description="Seconds a silent association stays open."
    )
    log_level: Literal["info", "debug"] | None = Field(default=None, description="info or debug.")

    @field_validator("other_aets")
    @classmethod
    def _aets(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(check_aet(value) for value in values)

    @field_validator("transfer_syntaxes")
    @classmethod
    def _syntaxes(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(check_uid(value) for value in values)


def check_network(value: str) -> str:
    """An IP address or network in its usual form."""
    try:
        return str(ipaddress.ip_network(value.strip(), strict=False))
    except ValueError as error:
        raise ValueError("an address is like 192.0.2.7, a network like 192.0.2.0/24") from error


def check_uid(value: str) -> str:
    """A UID as PS3.5 9.1 wants it."""
    text = value.strip()
    if not is_valid_uid(text):
        raise ValueError("a transfer syntax is given by its UID, like 1.2.840.10008.1.2.1")
    return text


class UnitDefinition(BaseModel):
    """One storage unit: where copies are kept."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    path: Path


class Site(BaseModel):
    """All remote servers and storage units by name."""

    model_config = ConfigDict(frozen=True)

    remotes: dict[str, RemoteServer] = {}
    units: dict[str, UnitDefinition] = {}
    server: DicomServer = DicomServer()

    def remote(self, name: str) -> RemoteServer:
        if name not in self.remotes:
            raise NameUnknown("remote server", name, list(self.remotes))
        return self.remotes[name]

    def unit(self, name: str) -> UnitDefinition:
        if name not in self.units:
            raise NameUnknown("storage unit", name, list(self.units))
        return self.units[name]


def load_site(settings: Settings) -> Site:
    """The published site, empty but for the default unit before anything was published.

    The unit `default` (`units/default` in the home folder) is always there, so that nothing received is
    ever without a place.
    """
    try:
        site = Site.model_validate_json(settings.site_path.read_bytes())
    except FileNotFoundError:
        site = Site()
    except ValidationError as error:
        raise SettingsError(f"{settings.site_path} cannot be used: {validation_sentence(error)}.") from error
    except OSError as error:
        raise SettingsError(f"{settings.site_path} cannot be read: {error.strerror}.") from error
    if settings.default_unit not in site.units and settings.default_unit == "default":
        default = UnitDefinition(name="default", path=settings.default_unit_path)
        site = site.model_copy(update={"units": {"default": default, **site.units}})
    return site


def unsolicited_unit(settings: Settings, site: Site) -> str:
    """The name of the unit for what arrives without being expected.

    It is the setting `default_unit`. Where that was left at its default and people have defined exactly one unit, it
    is that one: whoever names one place means it.
    """
    if settings.default_unit != "default":
        return settings.default_unit
    implied = UnitDefinition(name="default", path=settings.default_unit_path)
    defined = [name for name, unit in site.units.items() if unit != implied]
    return defined[0] if len(defined) == 1 else settings.default_unit


class WatchedSite:
    """The published site as it is now, for a service that stays running; used by any thread.

    `site.json` is looked at every `look_seconds` at most. One that cannot be used leaves the last good one in use,
    also over a restart (it is kept as `site.last-good.json`), and `problem` says why; raises `SettingsError` only where
    there never was a good one.
    """

    def __init__(self, settings: Settings, look_seconds: float = 1.0) -> None:
        self._settings = settings
        self._look_seconds = look_seconds
        self._lock = threading.Lock()
        self._look_at = 0.0
        self._stamp: tuple[int, int, int] | None = None
        self.problem = ""
        try:
            self._site = self._load()
            self._keep()
        except SettingsError as error:
            self._site = self._kept(error)
            self.problem = str(error)

    def __call__(self) -> Site:
        with self._lock:
            now = time.monotonic()
            if now >= self._look_at:
                self._look_at = now + self._look_seconds
                self._look()
            return self._site

    def _look(self) -> None:
        try:
            found = self._settings.site_path.stat()
            stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
        except OSError:
            stamp = None  # gone, or away: `load_site` says which
        if stamp is not None and stamp == self._stamp:
            return
        try:
            self._site, self._stamp, self.problem = self._load(), stamp, ""
            self._keep()
        except SettingsError as error:
            self.problem = str(error)

    def _load(self) -> Site:
        path = self._settings.site_path
        if not path.exists() and self._kept_path.exists():
            raise SettingsError(f"{path} is gone.")  # else everybody would be refused from now on
        return load_site(self._settings)

    @property
    def _kept_path(self) -> Path:
        return self._settings.site_path.with_name("site.last-good.json")

    def _keep(self) -> None:
        """Keep what is in use for the next start; a disk that refuses must not take it out of use."""
        text = self._site.model_dump_json(indent=1).encode()
        with contextlib.suppress(OSError):
            if self._settings.site_path.exists() and not _has(self._kept_path, text):
                write_durably(self._kept_path, text)

    def _kept(self, error: SettingsError) -> Site:
        try:
            return Site.model_validate_json(self._kept_path.read_bytes())
        except (OSError, ValidationError):
            raise error from None


def _has(path: Path, content: bytes) -> bool:
    return path.exists() and path.read_bytes() == content


def publish_site(settings: Settings, site: Site) -> None:
    """Replace `site.json`, whole and durable."""
    make_folder(settings.home)
    write_durably(settings.site_path, site.model_dump_json(indent=1).encode())
