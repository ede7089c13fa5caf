"""Ourselves as a peer sees us: AE title, sizes and how long we wait."""

from dataclasses import dataclass

from vna.settings import Settings


@dataclass(frozen=True, slots=True)
class OurNode:
    """What every association of ours is opened with. `max_pdu` in bytes, timeouts in seconds."""

    aet: str
    max_pdu: int = 131072
    connect_timeout: float = 10.0
    acse_timeout: float = 15.0
    dimse_timeout: float = 60.0
    network_timeout: float = 60.0

    @classmethod
    def from_settings(cls, settings: Settings) -> "OurNode":
        return cls(
            aet=settings.scp_aet,
            max_pdu=settings.max_pdu,
            connect_timeout=settings.connect_timeout,
            acse_timeout=settings.acse_timeout,
            dimse_timeout=settings.dimse_timeout,
            network_timeout=settings.network_timeout,
        )
