"""All commands of `backupdr`, by subject. Only the option parser is imported here."""

from collections.abc import Callable
from typing import Annotated

import typer
from typer.main import get_command

from cli import backup, checking, remotes, scp, services, units

app = typer.Typer(
    name="backupdr",
    help="Backup and disaster recovery of medical images, proven instance by instance.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"backupdr {version('backupdr')}")
        raise typer.Exit


@app.callback()
def everywhere(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and end.")
    ] = False,
) -> None:
    """Backup and disaster recovery of medical images, proven instance by instance.

    Everything of one installation lies in one folder, BACKUPDR_HOME (without it: backupdr-home in the current
    folder). Start with `backupdr demo`, or with `remote add`, `remote echo` and `retrieve`.
    """


app.add_typer(remotes.app, name="remote")
app.add_typer(units.app, name="unit")
for subject in (services, scp, backup, checking):
    subject.add_to(app)


def command() -> Callable[..., object]:
    """The parser, ready to be called with arguments."""
    return get_command(app)
