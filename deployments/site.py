"""Blocks → `site.json`: what people edit reaches the services that work without Prefect (DESIGN §6)."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

from filelock import FileLock
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.objects import BlockDocument
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from pydantic import ValidationError

from blocks import DicomServer, RemoteServer, StorageUnit
from blocks.dicom_server import DOCUMENT_NAME
from vna import site as site_values
from vna.settings import Settings, validation_sentence
from vna.site import Site, load_site, publish_site

EVERY_SECONDS = 10.0
PAGE = 200
NOT_FOUND = 404

T = TypeVar("T")


def publish(settings: Settings) -> list[str]:
    """Read all blocks, replace `site.json` if something changed, and return one sentence per unusable block.

    A block that cannot be used (the pages check less than we do) keeps its last good value, so that one
    mistyped field never takes a server away from the running services.
    """
    settings.home.mkdir(parents=True, exist_ok=True)
    with FileLock(settings.home / "site.lock"), get_client(sync_client=True) as client:
        problems: list[str] = []
        before = _published(settings, problems)
        site = Site(
            remotes=_usable(_documents(client, "remote-server"), _remote, before.remotes, problems),
            units=_usable(_documents(client, "storage-unit"), _unit, before.units, problems),
            server=_server(client, before.server, problems),
        )
        if site != before or not settings.site_path.exists():
            publish_site(settings, site)
        _offer_names(client, load_site(settings))
        return problems


def _remote(document: BlockDocument) -> site_values.RemoteServer:
    return RemoteServer.model_validate(document.data).to_domain(document.name)


def _unit(document: BlockDocument) -> site_values.UnitDefinition:
    return StorageUnit.model_validate(document.data).to_domain(document.name)


def _server(
    client: SyncPrefectClient, before: site_values.DicomServer, problems: list[str]
) -> site_values.DicomServer:
    """Our DICOM server as its one document says; one that cannot be used leaves the last good value in use."""
    documents = list(_documents(client, "dicom-server"))
    problems += [
        f"The block {document.name} is of no effect: there is one DICOM server, named {DOCUMENT_NAME}."
        for document in documents
        if document.name != DOCUMENT_NAME
    ]
    known = {DOCUMENT_NAME: before}
    ours = [document for document in documents if document.name == DOCUMENT_NAME]
    return _usable(ours, _own_server, known, problems).get(DOCUMENT_NAME, site_values.DicomServer())


def _own_server(document: BlockDocument) -> site_values.DicomServer:
    return DicomServer.model_validate(document.data).to_domain()


def offer_server() -> None:
    """Make the block of our DICOM server, with everything as it is by default, so that people find it to edit."""
    with get_client(sync_client=True) as client:
        known = _documents(client, "dicom-server")
        if any(document.name == DOCUMENT_NAME for document in known):
            return
    DicomServer().save(DOCUMENT_NAME)


def save_server(server: DicomServer) -> None:
    """Write the block of our DICOM server."""
    server.save(DOCUMENT_NAME, overwrite=True)


def save_remote(name: str, remote: RemoteServer) -> None:
    """Write a remote server's block; an existing one of this name is replaced."""
    remote.save(name, overwrite=True)


def save_unit(name: str, unit: StorageUnit) -> None:
    """Write a storage unit's block; an existing one of this name is replaced."""
    unit.save(name, overwrite=True)


def remove_remote(name: str) -> None:
    """Delete a remote server's block, if it is there."""
    with get_client(sync_client=True) as client:
        try:
            document = client.read_block_document_by_name(name, "remote-server")
        except ObjectNotFound:
            return
        client.delete_block_document(document.id)


def _published(settings: Settings, problems: list[str]) -> Site:
    try:
        return Site.model_validate_json(settings.site_path.read_bytes())
    except FileNotFoundError:
        return Site()
    except (OSError, ValidationError) as error:
        problems.append(
            f"{settings.site_path} was not readable ({type(error).__name__}) and is written anew."
        )
        return Site()


def _documents(client: SyncPrefectClient, slug: str) -> Iterator[BlockDocument]:
    offset = 0
    while True:
        try:
            page = client.read_block_documents_by_type(slug, offset=offset, limit=PAGE)
        except PrefectHTTPStatusError as error:
            if error.response.status_code == NOT_FOUND:  # nobody has used this kind of block yet
                return
            raise
        yield from page
        if len(page) < PAGE:
            return
        offset += PAGE


def _usable(
    documents: Iterable[BlockDocument],
    to_domain: Callable[[BlockDocument], T],
    before: Mapping[str, T],
    problems: list[str],
) -> dict[str, T]:
    values: dict[str, T] = {}
    for document in documents:
        name = document.name or ""
        try:
            values[name] = to_domain(document)
        except ValidationError as error:
            kept = name in before
            if kept:
                values[name] = before[name]
            problems.append(
                f"The block {name} cannot be used: {validation_sentence(error)}; "
                + ("its last good value stays in use." if kept else "it is left out.")
            )
    return dict(sorted(values.items()))


def _offer_names(client: SyncPrefectClient, site: Site) -> None:
    """Make the run form of every deployment offer the known names where a source or a unit is asked for."""
    offers = {"source": list(site.remotes), "unit": list(site.units)}
    for deployment in client.read_deployments():
        schema = deployment.parameter_openapi_schema
        properties = schema.get("properties", {}) if schema else {}
        wanted = {
            parameter: {**properties[parameter], "enum": names}
            for parameter, names in offers.items()
            if names and parameter in properties
        }
        if schema and any(properties[parameter] != wanted[parameter] for parameter in wanted):
            schema = {**schema, "properties": {**properties, **wanted}}
            client.update_deployment(deployment.id, DeploymentUpdate(parameter_openapi_schema=schema))
