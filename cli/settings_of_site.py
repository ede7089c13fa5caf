"""What `remote …` and `unit …` do: write blocks, read the site file."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import ValidationError

from cli.console import say, show, warn
from cli.unit_folders import check_folder
from deployments.names import document_name
from vna.errors import NameUnknown, SettingsError
from vna.settings import load_settings, validation_sentence
from vna.site import RemoteServer, RetrieveMethod, UnitDefinition, load_site, unsolicited_unit


def known_name(kind: str, typed: str, known: Iterable[str]) -> str:
    """The name of something that exists, for what a person typed (`Main_PACS` finds `main-pacs`)."""
    names = list(known)
    if typed in names:
        return typed
    name = document_name(typed)
    if name in names:
        return name
    raise NameUnknown(kind, typed, names)


def add_remote(typed: str, fields: Mapping[str, object], *, as_json: bool) -> None:
    """Validate, write the block, publish the site file."""
    settings = load_settings()
    name = document_name(typed)
    _check_remote(name, fields)
    from deployments.server import embedded_server

    with embedded_server(settings.home):
        from blocks import RemoteServer as Block
        from deployments.site import publish, save_remote

        try:
            block = Block.model_validate(dict(fields))
        except ValidationError as error:
            raise SettingsError(f"{typed} cannot be saved: {validation_sentence(error)}.") from error
        save_remote(name, block)
        _tell(publish(settings))
    remote = load_site(settings).remotes[name]
    say(_named("Remote server", typed, name) + f" is saved: {_remote_text(remote)}.", as_json=as_json)
    if as_json:
        show({"state": "completed", "name": name, "problems": []})


def _check_remote(name: str, fields: Mapping[str, object]) -> None:
    """Fail in a moment, before Prefect is started, for what cannot be right."""
    plain = {key: value for key, value in fields.items() if key in RemoteServer.model_fields and key != "tls"}
    try:
        RemoteServer.model_validate({"name": name, **plain})
    except ValidationError as error:
        raise SettingsError(f"{name} cannot be saved: {validation_sentence(error)}.") from error
    for option in ("ca_file", "cert_file", "key_file"):
        path = str(fields[option])
        if path and not Path(path).is_file():
            flag = f"--{option.replace('_', '-')}"
            raise SettingsError(f"{name} cannot be saved: {path} is not a file ({flag}).")


def list_remotes(*, as_json: bool) -> None:
    """One line for each remote server."""
    remotes = load_site(load_settings()).remotes
    for remote in remotes.values():
        say(f"{remote.name}: {_remote_text(remote)}", as_json=as_json)
    if not remotes:
        say("There is no remote server yet; add one with `backupdr remote add`.", as_json=as_json)
    if as_json:
        show({"remotes": [remote.model_dump(mode="json") for remote in remotes.values()], "problems": []})


def echo_remote(typed: str, *, as_json: bool) -> None:
    """C-ECHO; raises the error that says why it does not answer."""
    settings = load_settings()
    remotes = load_site(settings).remotes
    remote = remotes[known_name("remote server", typed, remotes)]
    from vna.dimse import OurNode, echo

    answer = echo(remote, OurNode.from_settings(settings))
    took = f"{answer.seconds * 1000:.0f} ms"
    say(f"{remote.name} ({remote.aet} at {remote.host}:{remote.port}) answers in {took}.", as_json=as_json)
    if as_json:
        show({"state": "completed", "name": remote.name, "seconds": answer.seconds, "problems": []})


def remove_remote(typed: str, *, as_json: bool) -> None:
    """Delete the block and publish."""
    settings = load_settings()
    name = known_name("remote server", typed, load_site(settings).remotes)
    from deployments.server import embedded_server

    with embedded_server(settings.home):
        from deployments.site import publish
        from deployments.site import remove_remote as remove

        remove(name)
        _tell(publish(settings))
    say(f"Remote server {name} is removed; what was backed up from it stays.", as_json=as_json)
    if as_json:
        show({"state": "completed", "name": name, "problems": []})


def add_unit(typed: str, path: Path, *, as_json: bool) -> None:
    """Prepare the folder with its marker, write the block, publish the site file."""
    settings = load_settings()
    name = document_name(typed)
    given = path.expanduser()
    folder = given.resolve() if ".." in given.parts else given.absolute()
    definition = UnitDefinition(name=name, path=folder)
    check_folder(definition, load_site(settings).units.values(), settings)
    is_new = not definition.path.exists()
    from vna.storage import create_unit

    create_unit(definition)
    from deployments.server import embedded_server

    with embedded_server(settings.home):
        from blocks import StorageUnit
        from deployments.site import publish, save_unit

        save_unit(name, StorageUnit(path=str(definition.path)))
        _tell(publish(settings))
    if not given.is_absolute():
        say(f"{path} was taken from the current folder: {definition.path}.", as_json=as_json)
    made = ", a folder that was not there and is made new" if is_new else ""
    say(_named("Storage unit", typed, name) + f" is saved: {definition.path}{made}.", as_json=as_json)
    if as_json:
        place = {"name": name, "path": str(definition.path), "new_folder": is_new}
        show({"state": "completed", **place, "problems": []})


def list_units(*, as_json: bool) -> None:
    """One line for each storage unit."""
    settings = load_settings()
    site = load_site(settings)
    units, unasked = site.units, unsolicited_unit(settings, site)
    for unit in units.values():
        told = " (for what arrives unasked)" if unit.name == unasked else ""
        say(f"{unit.name}: {unit.path}{told}", as_json=as_json)
    if as_json:
        show({"units": [unit.model_dump(mode="json") for unit in units.values()], "problems": []})


def _remote_text(remote: RemoteServer) -> str:
    how = {
        RetrieveMethod.move: "sends to our DICOM server (C-MOVE)",
        RetrieveMethod.get: "is read on our connection (C-GET)",
    }
    secure = ", TLS" if remote.tls else ""
    return (
        f"{remote.aet} at {remote.host}:{remote.port}, {how[remote.retrieve]}{secure}{_rights_text(remote)}"
    )


def _rights_text(remote: RemoteServer) -> str:
    """What it may do with us, where that is not everything from anywhere."""
    limits = [
        *([f"also calls as {', '.join(remote.calling_aets)}"] if remote.calling_aets else []),
        *([f"may call {', '.join(remote.called_aets)} only"] if remote.called_aets else []),
        *([f"may call from {', '.join(remote.addresses)} only"] if remote.addresses else []),
        *([f"must show a certificate of {remote.tls_subject}"] if remote.tls_subject else []),
        *([] if remote.may_store else ["may not send to us"]),
        *([] if remote.may_retrieve else ["may not query or retrieve"]),
    ]
    return "".join(f"; {limit}" for limit in limits)


def _named(kind: str, typed: str, name: str) -> str:
    return f"{kind} {name}" if typed == name else f"{kind} {name} (also found as {typed})"


def _tell(problems: Iterable[str]) -> None:
    for problem in problems:
        warn(problem)
