"""The block "DICOM server": our own server as people set it day by day. There is one document, `dicom-server`."""

from typing import Literal

from prefect.blocks.core import Block
from pydantic import Field, field_validator

from vna import site
from vna.settings import check_aet

DOCUMENT_NAME = "dicom-server"


class DicomServer(Block):
    """Our own DICOM server: whom it serves and how. Takes effect with the next association, without a restart."""

    _block_type_name = "DICOM server"
    _block_type_slug = "dicom-server"
    _description = (
        "Our own DICOM server: whom it serves and how. There is one document, named dicom-server; a change takes "
        "effect with the next association, without a restart. Its main AE title, port and address are settings of "
        "the process (BACKUPDR_SCP_AET, BACKUPDR_SCP_PORT, BACKUPDR_SCP_BIND)."
    )

    other_aets: list[str] = Field(
        default=[],
        title="Further AE titles",
        description="AE titles it answers to beside its main one.",
        examples=[["OLDPACS"]],
    )
    unknown_callers: Literal["refuse", "store"] = Field(
        default="refuse",
        title="Unknown callers",
        description="What a caller that is no remote server of the site may do: nothing, or only send.",
    )
    transfer_syntaxes: list[str] = Field(
        default=[],
        title="Accepted transfer syntaxes",
        description="UIDs of those accepted for storage, the best first; none given = every one.",
        examples=[["1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.1"]],
    )
    latency_seconds: float = Field(
        default=60.0,
        title="Quiet time",
        description="Seconds without a new image until a study that is being received counts as complete.",
        ge=0,
    )
    commitment_wait_seconds: float = Field(
        default=3600.0,
        title="Wait for storage commitment",
        description=(
            "Seconds a received image may wait to be placed and checked. After that a sender that asked for storage "
            "commitment is told that it is not committed."
        ),
        ge=0,
    )
    max_associations: int | None = Field(
        default=None,
        title="Associations at once",
        description="How many it serves at once; empty = as the process settings say.",
        ge=1,
    )
    associations_per_address: int = Field(
        default=32,
        title="Associations of one address",
        description="How many it serves at once of one address.",
        ge=1,
    )
    max_pdu: int | None = Field(
        default=None,
        title="Largest PDU",
        description="In bytes; empty = as the process settings say.",
        ge=4096,
    )
    network_timeout: float | None = Field(
        default=None,
        title="Silence allowed",
        description="Seconds a silent association stays open; empty = as the process settings say.",
        gt=0,
    )
    log_level: Literal["info", "debug"] | None = Field(
        default=None,
        title="Log level",
        description="info, or debug while looking for something; empty = as the process settings say.",
    )

    @field_validator("other_aets")
    @classmethod
    def _aets(cls, values: list[str]) -> list[str]:
        return [check_aet(value) for value in values]

    @field_validator("transfer_syntaxes")
    @classmethod
    def _syntaxes(cls, values: list[str]) -> list[str]:
        return [site.check_uid(value) for value in values]

    def to_domain(self) -> site.DicomServer:
        """The value the library works with."""
        return site.DicomServer(
            other_aets=tuple(self.other_aets),
            unknown_callers=site.UnknownCallers(self.unknown_callers),
            transfer_syntaxes=tuple(self.transfer_syntaxes),
            latency_seconds=self.latency_seconds,
            commitment_wait_seconds=self.commitment_wait_seconds,
            max_associations=self.max_associations,
            associations_per_address=self.associations_per_address,
            max_pdu=self.max_pdu,
            network_timeout=self.network_timeout,
            log_level=self.log_level,
        )
