"""`backupdr demo`, `up`, `worker`, `simulate-pacs`: what stays running (`scp` has a page of its own)."""

from pathlib import Path
from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    for command in (demo, up, worker):
        app.command()(command)
    app.command("simulate-pacs")(simulate_pacs)


def demo(
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep everything up afterwards, until Ctrl-C, to look at it.")
    ] = False,
) -> None:
    """Show the main job on this machine, start to proof, with a simulated PACS; leaves nothing behind."""
    from cli import demo as scenario

    raise typer.Exit(scenario.run(keep=keep) or 0)


def up(
    port: Annotated[
        int, typer.Option(help="Port of the Prefect pages; another if it is taken.", min=1, max=65535)
    ] = 4200,
) -> None:
    """Run everything on this machine: Prefect, a worker and the DICOM server. Ctrl-C ends it."""
    from cli.everything import up as run

    raise typer.Exit(run(port))


def worker() -> None:
    """Run a worker that carries out scheduled backups; needs a running `backupdr up`. Ctrl-C ends it."""
    from cli.everything import worker as run

    raise typer.Exit(run())


def simulate_pacs(
    data: Annotated[Path | None, typer.Option(help="Folder of DICOM files, with subfolders.")] = None,
    aet: Annotated[str, typer.Option(help="AE title it answers to.")] = "SIMULATED",
    port: Annotated[int, typer.Option(help="Port it listens on.", min=0, max=65535)] = 11113,
    fault: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[=VALUE]", help="Misbehave; may be given several times (--list-faults)."),
    ] = None,
    destination: Annotated[
        list[str] | None,
        typer.Option(
            metavar="AET=HOST:PORT",
            help="Where C-MOVE sends to for an AE title; our own DICOM server is known without.",
        ),
    ] = None,
    list_faults: Annotated[
        bool, typer.Option("--list-faults", help="List the ways it can misbehave.")
    ] = False,
) -> None:
    """Run a PACS for rehearsals over a folder of DICOM files; it can misbehave as real ones do."""
    from cli.simulating import simulate
    from vna.errors import PortInUse, SettingsError

    try:
        code = simulate(data, aet, port, fault or [], destination or [], list_faults=list_faults)
    except PortInUse as error:
        raise SettingsError(
            f"Port {error.port} on {error.host} is held by another program; stop it or choose another with --port."
        ) from error
    raise typer.Exit(code)
