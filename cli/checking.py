"""`backupdr check`: the configuration, looked at."""

import typer

from cli.options import AS_JSON


def add_to(app: typer.Typer) -> None:
    """Register this command."""
    app.command()(check)


def check(as_json: AS_JSON = False) -> None:
    """Look at the whole configuration, one sentence a finding. Exit code 0: nothing is wrong."""
    from cli.findings import check as run

    raise typer.Exit(0 if run(as_json=as_json) else 1)
