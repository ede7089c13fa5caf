"""The site as the services see it: remote servers and storage units, without secrets.

People edit blocks; whoever runs Prefect publishes them here as `site.json`, so that the DICOM server and
the commands that only read start and work without Prefect (DESIGN §6). The file is replaced whole, by
temporary and rename; a reader never sees half of it.
"""

from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from vna.durable import make_folder, write_durably
from vna.errors import NameUnknown, SettingsError
from vna.settings import Settings, check_aet, validation_sentence


class RetrieveMethod(StrEnum):
    """How instances come to us: the source sends to our DICOM server, or on our own association."""

    move = "move"
    get = "get"


class Tls(BaseModel):
    """TLS towards one remote server; files, never their content."""

    model_config = ConfigDict(frozen=True)

    ca_file: Path | None = Field(None, description="Certificates we trust; empty = the system's.")
    cert_file: Path | None = Field(None, description="Our certificate, where the server asks for one.")
    key_file: Path | None = Field(None, description="The key of our certificate.")
    check_host: bool = Field(True, description="The server's certificate must name its host.")


class RemoteServer(BaseModel):
    """One remote DICOM server (a PACS, an archive, a workstation)."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(min_length=1)
    aet: str
    host: str = Field(min_length=1)
    port: int = Field(ge=1, le=65535)
    retrieve: RetrieveMethod = RetrieveMethod.move
    associations: int = Field(2, ge=1, le=64, description="Associations we may hold to it at once.")
    pause_seconds: float = Field(0.0, ge=0, description="Pause between two requests on an association.")
    recheck_share: float = Field(
        0.0, ge=0, le=100, description="Percent of known studies pulled again in each run to find changes."
    )
    tls: Tls | None = None

    @field_validator("aet")
    @classmethod
    def _aet(cls, value: str) -> str:
        return check_aet(value)


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


def publish_site(settings: Settings, site: Site) -> None:
    """Replace `site.json`, whole and durable."""
    make_folder(settings.home)
    write_durably(settings.site_path, site.model_dump_json(indent=1).encode())
