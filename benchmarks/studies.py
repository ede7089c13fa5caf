"""The studies that are moved about: two sizes of instance, uncompressed, so that nobody has to decode."""

from dataclasses import dataclass
from pathlib import Path

from vna.simulated_pacs import EXPLICIT_LITTLE, GeneratedStudy, write_studies


@dataclass(frozen=True, slots=True)
class Size:
    """A set of studies; `bytes` = pixel data of one instance."""

    name: str
    studies: int
    instances: int
    bytes: int

    @property
    def amount(self) -> int:
        """Instances in all."""
        return self.studies * self.instances

    @property
    def text(self) -> str:
        return f"{self.bytes / 1e6:.1f} MB" if self.bytes > 100_000 else f"{self.bytes / 1e3:.0f} KB"

    def write(self, folder: Path) -> list[GeneratedStudy]:
        return write_studies(
            folder,
            self.studies,
            instances=self.instances,
            size_bytes=self.bytes,
            modalities=["CT"],
            transfer_syntaxes=[EXPLICIT_LITTLE],
        )


CT = Size("ct", studies=4, instances=100, bytes=512 * 1024)
SMALL = Size("small", studies=4, instances=150, bytes=10 * 1024)


def files_of(studies: list[GeneratedStudy]) -> list[Path]:
    return [instance.path for study in studies for instance in study.instances]
