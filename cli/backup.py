"""`backupdr retrieve`, `verify`, `rebuild-catalog`: copy, look at the copies, rebuild the list of them."""

from typing import Annotated

import typer

from cli.options import AS_JSON, Level, Order


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    app.command()(retrieve)
    app.command()(verify)
    app.command("rebuild-catalog")(rebuild_catalog)


def retrieve(
    remote: Annotated[str, typer.Argument(help="Name of the remote server.")],
    patient_id: Annotated[str | None, typer.Option(help="Patient ID.")] = None,
    patient_name: Annotated[str | None, typer.Option(help="Patient's name, for example DOE^J*.")] = None,
    accession_number: Annotated[str | None, typer.Option(help="Accession number.")] = None,
    study_id: Annotated[str | None, typer.Option(help="Study ID.")] = None,
    study_description: Annotated[str | None, typer.Option(help="Study description.")] = None,
    study_date: Annotated[
        str | None, typer.Option(help="Study date or range: 20240131, 20240101-20240131, 20240101-.")
    ] = None,
    institution_name: Annotated[str | None, typer.Option(help="Institution name.")] = None,
    referring_physician: Annotated[str | None, typer.Option(help="Referring physician's name.")] = None,
    modality: Annotated[str | None, typer.Option(help="Modality of a series: CT, MR, US…")] = None,
    study_uid: Annotated[
        list[str] | None, typer.Option(help="Study Instance UID; may be given several times.")
    ] = None,
    filter_: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            metavar="KEYWORD=VALUE",
            help="Any DICOM keyword or tag: StationName=CT2, 0008,0080=North*. May be given several times.",
        ),
    ] = None,
    order: Annotated[
        Order, typer.Option(help="Oldest studies first (ascending) or newest first.")
    ] = Order.ascending,
    unit: Annotated[str, typer.Option(help="Storage unit that gets the copies.")] = "default",
    recheck: Annotated[
        bool, typer.Option("--recheck", help="Pull held studies again, to find changed contents.")
    ] = False,
    as_json: AS_JSON = False,
) -> None:
    """Back up studies of a remote server now: find, pull what is missing here, store, compare.

    All conditions must be met; * and ? stand for any text and any character. Without a condition everything
    the server has is taken. Exit code 0: every wanted study is here as the server lists it.
    """
    from cli.retrieving import retrieve as run

    given = {
        "PatientID": patient_id,
        "PatientName": patient_name,
        "AccessionNumber": accession_number,
        "StudyID": study_id,
        "StudyDescription": study_description,
        "StudyDate": study_date,
        "InstitutionName": institution_name,
        "ReferringPhysicianName": referring_physician,
        "Modality": modality,
    }
    conditions = [f"{keyword}={value}" for keyword, value in given.items() if value is not None]
    code = run(
        remote,
        [*conditions, *(filter_ or [])],
        study_uid or [],
        order=order.value,
        unit=unit,
        recheck=recheck,
        as_json=as_json,
    )
    raise typer.Exit(code)


def verify(
    unit: Annotated[str | None, typer.Option(help="Storage unit; without it all are looked at.")] = None,
    level: Annotated[
        Level,
        typer.Option(help="exists: the file is there; size: and as long as it was; checksum: same content."),
    ] = Level.checksum,
    as_json: AS_JSON = False,
) -> None:
    """Compare the copies on disk with what was stored. Exit code 0: nothing is missing or different."""
    from cli.verifying import verify as run

    raise typer.Exit(0 if run(unit, level.value, as_json=as_json) else 1)


def rebuild_catalog(
    name: Annotated[str, typer.Argument(help="Name of the storage unit.")], as_json: AS_JSON = False
) -> None:
    """Rebuild the catalog from what lies in a storage unit (after the database was lost)."""
    from cli.verifying import rebuild

    raise typer.Exit(0 if rebuild(name, as_json=as_json) else 1)
