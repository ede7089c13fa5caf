"""`backupdr scp`: the DICOM server, and how it is."""

from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    """Register this command."""
    app.command()(scp)


def scp(
    port: Annotated[
        int | None, typer.Option(help="Port it listens on; else as the settings say.", min=1, max=65535)
    ] = None,
    aet: Annotated[str | None, typer.Option(help="AE title it answers to; else as the settings say.")] = None,
    processes: Annotated[
        int | None,
        typer.Option(help="Processes behind the one port; about as many as cores.", min=1, max=64),
    ] = None,
    open_to_loopback: Annotated[
        bool,
        typer.Option("--open", help="Serve any calling AE title on this machine; for trying it out."),
    ] = False,
    index: Annotated[
        bool, typer.Option("--index", help="Also place what arrives into the storage units.")
    ] = False,
    health: Annotated[
        bool,
        typer.Option("--health", help="Tell how the running server is; exit code 0 only if it receives."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="With --health: end with one JSON object, for scripts.")
    ] = False,
) -> None:
    """Run the DICOM server alone (receive and store); needs no Prefect. Ctrl-C ends it."""
    from vna.errors import SettingsError
    from vna.settings import load_settings

    if health:
        from cli.health import tell

        if port is not None or aet is not None or processes is not None or open_to_loopback or index:
            raise SettingsError(
                "--health tells of the server that runs; of the other options it takes --json."
            )
        raise typer.Exit(0 if tell(load_settings(), as_json=as_json) else 1)
    if as_json:
        raise SettingsError("--json belongs to --health; a server that runs has no result.")
    given = {"scp_port": port, "scp_aet": aet, "scp_processes": processes}
    settings = load_settings(**{name: value for name, value in given.items() if value is not None})
    from dicom_scp.family import run_family
    from dicom_scp.home import check_home
    from dicom_scp.receiving import log_plainly

    check_home(settings)
    log_plainly(settings)
    raise typer.Exit(run_family(settings, index=index, open_to_loopback=open_to_loopback))
