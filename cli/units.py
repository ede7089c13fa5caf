"""`backupdr unit …`: the storage units (the block "Storage unit")."""

from pathlib import Path
from typing import Annotated

import typer

from cli.options import AS_JSON

app = typer.Typer(help="The storage units that keep the copies.", no_args_is_help=True)


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="A name of your choice, for example nas1.")],
    path: Annotated[Path, typer.Option(help="Folder on a local disk or a mounted share; made if absent.")],
    as_json: AS_JSON = False,
) -> None:
    """Add a storage unit, or change the folder of the one of this name."""
    from cli import settings_of_site

    settings_of_site.add_unit(name, path, as_json=as_json)


@app.command("list")
def list_all(as_json: AS_JSON = False) -> None:
    """List the storage units."""
    from cli import settings_of_site

    settings_of_site.list_units(as_json=as_json)
