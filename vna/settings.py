"""Process settings: what a service needs before it can read anything else.

From environment variables (prefix `BACKUPDR_`), else `backupdr.toml` in `BACKUPDR_HOME`, else the defaults.
What people edit day by day (remote servers, storage units) is in blocks and arrives through `vna.site`.
"""

import os
import re
from pathlib import Path

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from vna.errors import SettingsError


def home_folder() -> Path:
    """`BACKUPDR_HOME`, or `./backupdr-home`; absolute, not necessarily there yet."""
    return Path(os.environ.get("BACKUPDR_HOME") or "backupdr-home").expanduser().absolute()


class Settings(BaseSettings):
    """All process settings, with the meaning and unit of each."""

    model_config = SettingsConfigDict(env_prefix="BACKUPDR_", extra="ignore")

    home: Path = Field(default_factory=home_folder, description="Folder that holds everything of this site.")
    catalog_url: str = Field("", description="Database of the catalog; empty = SQLite in the home folder.")
    scp_aet: str = Field("BACKUPDR", description="AE title of our DICOM server.")
    scp_port: int = Field(11112, ge=1, le=65535, description="Port of our DICOM server.")
    scp_bind: str = Field("0.0.0.0", description="Address our DICOM server listens on.")  # noqa: S104
    spool: Path | None = Field(None, description="Folder of the spool; default: spool in the home folder.")
    default_unit: str = Field("default", description="Storage unit for what arrives without being expected.")
    reserve_bytes: int | None = Field(
        None, ge=0, description="Free space always kept; default: the larger of 2 GiB and 2 %."
    )
    max_pdu: int = Field(131072, ge=4096, description="Largest PDU we receive, in bytes.")
    connect_timeout: float = Field(10.0, gt=0, description="Seconds to wait for a TCP connection.")
    acse_timeout: float = Field(15.0, gt=0, description="Seconds to wait for an association to be agreed.")
    dimse_timeout: float = Field(60.0, gt=0, description="Seconds to wait for the next DIMSE message.")
    network_timeout: float = Field(60.0, gt=0, description="Seconds a silent association stays open.")
    max_associations: int = Field(64, ge=1, description="Associations our DICOM server serves at once.")
    scp_tls_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="Port of our DICOM server for TLS (2762 is registered); empty = none.",
    )
    scp_tls_only: bool = Field(False, description="Receive only by TLS: the plain port is not opened.")
    scp_tls_cert: Path | None = Field(None, description="Certificate of our DICOM server, PEM.")
    scp_tls_key: Path | None = Field(None, description="Its private key, PEM.")
    scp_tls_ca: Path | None = Field(
        None, description="Authorities whose certificates callers must show, PEM; needed for TLS."
    )
    scp_processes: int = Field(
        1, ge=1, le=64, description="Processes of our DICOM server behind its one port."
    )
    log_level: str = Field("info", description="info or debug.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        toml = TomlConfigSettingsSource(settings_cls, toml_file=home_folder() / "backupdr.toml")
        return init_settings, env_settings, toml

    @field_validator("spool", "scp_tls_cert", "scp_tls_key", "scp_tls_ca", mode="before")
    @classmethod
    def _path(cls, value: object) -> object:
        return None if value == "" else value  # set to nothing in the environment is not set

    @field_validator("scp_aet")
    @classmethod
    def _aet(cls, value: str) -> str:
        return check_aet(value)

    @field_validator("log_level")
    @classmethod
    def _level(cls, value: str) -> str:
        if value.lower() not in {"info", "debug"}:
            raise ValueError("must be info or debug")
        return value.lower()

    @property
    def spool_path(self) -> Path:
        return self.spool or self.home / "spool"

    @property
    def catalog_database_url(self) -> str:
        return self.catalog_url or f"sqlite:///{self.home / 'catalog.sqlite'}"

    @property
    def site_path(self) -> Path:
        return self.home / "site.json"

    @property
    def default_unit_path(self) -> Path:
        return self.home / "units" / "default"


def check_aet(value: str) -> str:
    """An AE title as PS3.5 6.2 wants it: 1 to 16 characters, no backslash or control characters."""
    text = value.strip(" ")
    if not 1 <= len(text) <= 16 or "\\" in text or not text.isascii() or not text.isprintable():
        raise ValueError("an AE title has 1 to 16 printable ASCII characters and no backslash")
    return text


def validation_sentence(error: ValidationError) -> str:
    """The first finding of a validation in words: which field, what was given, what it must be."""
    finding = error.errors()[0]
    where = ".".join(str(part) for part in finding["loc"]) or "value"
    return f"{where}: {plain_finding(where, finding['msg'])}"


_PLAIN_WORDS = (
    (r"Input should be a valid integer.*", "must be a whole number"),
    (r"Input should be a valid number.*", "must be a number"),
    (r"Input should be a valid boolean.*", "must be true or false"),
    (r"Input should be a valid string.*", "must be a text"),
    (r"Input should be greater than or equal to (\S+)", r"must be at least \1"),
    (r"Input should be less than or equal to (\S+)", r"must be at most \1"),
    (r"Input should be greater than (\S+)", r"must be more than \1"),
    (r"Input should be (.+)", r"must be \1"),
    (r"String should have at least 1 character", "must not be empty"),
    (r"Field required", "is missing"),
)


def plain_finding(where: str, finding: str) -> str:
    """What a validation says of the field or option `where`, without the words of the programming language."""
    text = finding.removeprefix("Value error, ")
    if text.startswith("Input should be") and re.split(r"[._-]", where)[-1] == "port":
        return "a port is a number from 1 to 65535"
    for pattern, words in _PLAIN_WORDS:
        if re.fullmatch(pattern, text):
            return re.sub(pattern, words, text, count=1)
    return text


def load_settings(**overrides: object) -> Settings:
    """The settings of this process; `SettingsError` names the first one that cannot be used."""
    try:
        return Settings(**overrides)  # pyright: ignore[reportArgumentType]
    except ValidationError as error:
        raise SettingsError(f"A setting cannot be used: {validation_sentence(error)}.") from error
    except (OSError, ValueError) as error:  # an unreadable or malformed backupdr.toml
        raise SettingsError(f"{home_folder() / 'backupdr.toml'} cannot be read: {error}.") from error
