"""The block "Storage unit": one place where copies are kept."""

from pathlib import Path, PureWindowsPath

from prefect.blocks.core import Block
from pydantic import Field, field_validator

from vna.site import UnitDefinition


class StorageUnit(Block):
    """A folder that keeps copies: on a local disk, a mounted NAS or a SAN volume."""

    _block_type_name = "Storage unit"
    _block_type_slug = "storage-unit"
    _description = (
        "A folder that keeps copies: on a local disk, a mounted NAS or a SAN volume. It is prepared once by "
        "`backupdr unit add NAME --path FOLDER`; a folder without its marker file counts as not mounted."
    )

    path: str = Field(
        title="Folder",
        description="The whole path of the folder on the machine that runs the backups.",
        examples=["/mnt/nas1/backup", "D:\\backup"],
        min_length=1,
    )

    @field_validator("path")
    @classmethod
    def _path(cls, value: str) -> str:
        path = value.strip()
        if not Path(path).is_absolute() and not PureWindowsPath(path).is_absolute():
            raise ValueError("the folder is given with its whole path, like /mnt/nas1/backup")
        return path

    def to_domain(self, name: str | None = None) -> UnitDefinition:
        """The value the library works with; its name is the block's name unless another is given."""
        return UnitDefinition(name=name or self._block_document_name or "", path=Path(self.path))
