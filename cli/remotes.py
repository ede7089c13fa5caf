"""`backupdr remote …`: the remote DICOM servers (the block "Remote server")."""

from typing import Annotated

import typer

from cli.options import AS_JSON, Retrieve

app = typer.Typer(
    help="The remote DICOM servers (PACS) to back up, and whoever may call us.", no_args_is_help=True
)


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="A name of your choice, for example main-pacs.")],
    aet: Annotated[str, typer.Option(help="AE title of the server, as configured there.")],
    host: Annotated[str, typer.Option(help="Host name or IP address of the server.")],
    port: Annotated[int, typer.Option(help="DICOM port of the server.")],
    retrieve: Annotated[
        Retrieve,
        typer.Option(
            help="move: the server sends to our DICOM server (it must know it); get: on our own connection."
        ),
    ] = Retrieve.move,
    associations: Annotated[int, typer.Option(help="Connections we may hold to it at once.")] = 2,
    pause_seconds: Annotated[float, typer.Option(help="Pause between two requests, in seconds.")] = 0.0,
    recheck_share: Annotated[
        float, typer.Option(help="Percent of held studies that each run pulls again to find changes.")
    ] = 0.0,
    tls: Annotated[bool, typer.Option("--tls", help="Encrypt the connection.")] = False,
    ca_file: Annotated[str, typer.Option(help="Certificates we trust (PEM file).")] = "",
    cert_file: Annotated[str, typer.Option(help="Our certificate (PEM file), if it asks for one.")] = "",
    key_file: Annotated[str, typer.Option(help="The key of our certificate (PEM file).")] = "",
    check_host: Annotated[bool, typer.Option(help="The server's certificate must name its host.")] = True,
    calling_aet: Annotated[
        list[str] | None,
        typer.Option(help="A further AE title it calls us with; may be given several times."),
    ] = None,
    called_aet: Annotated[
        list[str] | None,
        typer.Option(help="An AE title of ours it may call (several times); else any of ours."),
    ] = None,
    address: Annotated[
        list[str] | None,
        typer.Option(help="An address or network it may call from (several times); else any."),
    ] = None,
    tls_subject: Annotated[
        str, typer.Option(help="It must call by TLS, with a certificate of this common name or subject.")
    ] = "",
    may_store: Annotated[bool, typer.Option("--store/--no-store", help="It may send to us.")] = True,
    may_retrieve: Annotated[
        bool,
        typer.Option(
            "--may-retrieve/--no-retrieve",
            help="It may query, retrieve and ask for storage commitment.",
        ),
    ] = True,
    transfer_syntax: Annotated[
        list[str] | None,
        typer.Option(help="UID of a transfer syntax accepted from it, best first (several times); else all."),
    ] = None,
    as_json: AS_JSON = False,
) -> None:
    """Add a remote server, or change the one of this name."""
    from cli import settings_of_site

    settings_of_site.add_remote(
        name,
        {
            "aet": aet,
            "host": host,
            "port": port,
            "retrieve": retrieve.value,
            "associations": associations,
            "pause_seconds": pause_seconds,
            "recheck_share": recheck_share,
            "tls": tls,
            "ca_file": ca_file,
            "cert_file": cert_file,
            "key_file": key_file,
            "check_host": check_host,
            "calling_aets": calling_aet or [],
            "called_aets": called_aet or [],
            "addresses": address or [],
            "tls_subject": tls_subject,
            "may_store": may_store,
            "may_retrieve": may_retrieve,
            "transfer_syntaxes": transfer_syntax or [],
        },
        as_json=as_json,
    )


@app.command("list")
def list_all(as_json: AS_JSON = False) -> None:
    """List the remote servers."""
    from cli import settings_of_site

    settings_of_site.list_remotes(as_json=as_json)


@app.command()
def echo(
    name: Annotated[str, typer.Argument(help="Name of the remote server.")], as_json: AS_JSON = False
) -> None:
    """Ask a remote server whether it answers us (C-ECHO)."""
    from cli import settings_of_site

    settings_of_site.echo_remote(name, as_json=as_json)


@app.command()
def remove(
    name: Annotated[str, typer.Argument(help="Name of the remote server.")], as_json: AS_JSON = False
) -> None:
    """Forget a remote server; what was backed up from it stays."""
    from cli import settings_of_site

    settings_of_site.remove_remote(name, as_json=as_json)
