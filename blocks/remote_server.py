"""The block "Remote server": a DICOM server we back up or that calls us, how to talk to it, and what it may do."""

from pathlib import Path
from typing import Literal

from prefect.blocks.core import Block
from pydantic import Field, field_validator, model_validator

from vna import site
from vna.settings import check_aet


class RemoteServer(Block):
    """A DICOM server we back up or that sends to us: a PACS, an archive, a workstation or a modality."""

    _block_type_name = "Remote server"
    _block_type_slug = "remote-server"
    _description = (
        "A DICOM server we back up or that sends to us: a PACS, an archive, a workstation, a modality."
    )

    aet: str = Field(
        title="AE title",
        description="The server's AE title, exactly as configured there (at most 16 characters).",
        examples=["MAINPACS"],
        min_length=1,
        max_length=16,
    )
    host: str = Field(
        title="Host",
        description="Host name or IP address of the server.",
        examples=["pacs.hospital.local", "192.0.2.10"],
        min_length=1,
    )
    port: int = Field(
        title="Port", description="The server's DICOM port.", examples=[104, 11112], ge=1, le=65535
    )
    retrieve: Literal["move", "get"] = Field(
        "move",
        title="How images come",
        description=(
            "move: the server sends to our DICOM server (C-MOVE; it must know our AE title, host and port). "
            "get: images come on our own connection (C-GET; nothing to configure there)."
        ),
    )
    associations: int = Field(
        2,
        title="Connections at once",
        description="How many DICOM associations we may hold to this server at the same time.",
        ge=1,
        le=64,
    )
    pause_seconds: float = Field(
        0.0,
        title="Pause",
        description="Seconds to wait between two requests on a connection, to spare a busy server.",
        ge=0,
    )
    recheck_share: float = Field(
        0.0,
        title="Rolling recheck",
        description=(
            "Percent of the studies already held that each run pulls again, to find contents that changed "
            "without any sign."
        ),
        ge=0,
        le=100,
    )
    tls: bool = Field(False, title="TLS", description="Encrypt the connection (the server must offer it).")
    ca_file: str = Field(
        "",
        title="Trusted certificates",
        description="File with the certificates we trust (PEM); empty = those of this system.",
        examples=["/etc/backupdr/hospital-ca.pem"],
    )
    cert_file: str = Field(
        "", title="Our certificate", description="Where the server asks for one (PEM); else empty."
    )
    key_file: str = Field("", title="Key of our certificate", description="Its private key (PEM).")
    check_host: bool = Field(
        True, title="Check the host name", description="The server's certificate must name its host."
    )

    calling_aets: list[str] = Field(
        default=[],
        title="Further calling AE titles",
        description="AE titles it calls us with, beside its own; many archives send with another one.",
        examples=[["MAINPACS_SEND"]],
    )
    called_aets: list[str] = Field(
        default=[],
        title="AE titles it may call",
        description="Those of our AE titles that it may call; none given = any of them.",
    )
    addresses: list[str] = Field(
        default=[],
        title="Addresses it may call from",
        description="IP addresses or networks; none given = any address.",
        examples=[["192.0.2.10", "192.0.2.0/24"]],
    )
    tls_subject: str = Field(
        default="",
        title="Subject of its certificate",
        description="Common name or whole subject; if given, it must call by TLS. Empty = any we trust.",
        examples=["pacs.hospital.local", "CN=pacs, O=Hospital"],
    )
    may_store: bool = Field(default=True, title="May send", description="It may send images to us.")
    may_retrieve: bool = Field(
        default=True,
        title="May query and retrieve",
        description="It may query, retrieve what we hold, and ask for storage commitment.",
    )
    transfer_syntaxes: list[str] = Field(
        default=[],
        title="Accepted transfer syntaxes",
        description="UIDs of those accepted from it, the best first; none given = as for our DICOM server.",
        examples=[["1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.1"]],
    )

    @field_validator("aet")
    @classmethod
    def _aet(cls, value: str) -> str:
        return check_aet(value)

    @field_validator("calling_aets", "called_aets")
    @classmethod
    def _aets(cls, values: list[str]) -> list[str]:
        return [check_aet(value) for value in values]

    @field_validator("addresses")
    @classmethod
    def _addresses(cls, values: list[str]) -> list[str]:
        return [site.check_network(value) for value in values]

    @field_validator("transfer_syntaxes")
    @classmethod
    def _syntaxes(cls, values: list[str]) -> list[str]:
        return [site.check_uid(value) for value in values]

    @field_validator("host")
    @classmethod
    def _host(cls, value: str) -> str:
        host = value.strip()
        if not host or any(character in host for character in " /\\"):
            raise ValueError("a host is a name or an IP address, without blanks, slashes or a port")
        return host

    @model_validator(mode="after")
    def _files_need_tls(self) -> "RemoteServer":
        if not self.tls and (self.ca_file or self.cert_file or self.key_file):
            raise ValueError("certificate files are given but TLS is off; switch TLS on or empty them")
        if bool(self.cert_file) != bool(self.key_file):
            raise ValueError("our certificate and its key are given together or not at all")
        return self

    def to_domain(self, name: str | None = None) -> site.RemoteServer:
        """The value the library works with; its name is the block's name unless another is given."""
        tls = None
        if self.tls:
            tls = site.Tls(
                ca_file=_path(self.ca_file),
                cert_file=_path(self.cert_file),
                key_file=_path(self.key_file),
                check_host=self.check_host,
            )
        return site.RemoteServer(
            name=name or self._block_document_name or "",
            aet=self.aet,
            host=self.host,
            port=self.port,
            retrieve=site.RetrieveMethod(self.retrieve),
            associations=self.associations,
            pause_seconds=self.pause_seconds,
            recheck_share=self.recheck_share,
            tls=tls,
            calling_aets=tuple(self.calling_aets),
            called_aets=tuple(self.called_aets),
            addresses=tuple(self.addresses),
            tls_subject=self.tls_subject.strip(),
            may_store=self.may_store,
            may_retrieve=self.may_retrieve,
            transfer_syntaxes=tuple(self.transfer_syntaxes),
        )


def _path(text: str) -> Path | None:
    return Path(text) if text else None
