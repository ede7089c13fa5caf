"""What `backupdr check` looks at: one sentence a finding, good ones too."""

import contextlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from cli.console import say, show
from cli.health import (
    Finding,
    of_aside,
    of_certificate,
    of_commitments,
    of_refusals,
    of_traffic,
    of_waiting,
)
from cli.unit_folders import overlapping
from cli.verifying import lost_catalog
from dicom_scp.home import check_home, write_in
from vna.errors import BackupError, CatalogUnavailable, SettingsError
from vna.platform import IS_WINDOWS, NETWORK_FILE_SYSTEMS, file_system_kind, free_bytes
from vna.settings import Settings, load_settings
from vna.site import Site, load_site

if TYPE_CHECKING:
    from vna.storage import StorageUnit


def check(*, as_json: bool) -> bool:
    """Look at everything, say what was found, and return whether nothing is wrong."""
    settings = load_settings()
    try:
        site = load_site(settings)
    except SettingsError:
        check_home(settings)  # where that is the reason
        raise
    found: list[Finding] = []
    for finding in look(settings, site):
        found.append(finding)
        say(f"{'WRONG' if finding.wrong else 'ok   '}  {finding.sentence}", as_json=as_json)
    wrong = [finding.sentence for finding in found if finding.wrong]
    if as_json:
        show({"ok": not wrong, "problems": wrong, "findings": [asdict(finding) for finding in found]})
    return not wrong


def look(settings: Settings, site: Site) -> Iterator[Finding]:
    """All findings, in the order in which they should be put right."""
    for part in (_home, _spool, _keys, _port, _catalog, _prefect):
        yield from _told(part, settings)
    yield from _units(settings, site)
    yield from _remotes(settings, site)


def _told(part: Callable[[Settings], Iterator[Finding]], settings: Settings) -> Iterator[Finding]:
    try:
        yield from part(settings)
    except BackupError as error:
        yield Finding(True, str(error))
    except OSError as error:
        yield Finding(True, f"{error.filename}: {error.strerror}.")


def _home(settings: Settings) -> Iterator[Finding]:
    check_home(settings)
    kind = file_system_kind(settings.home)
    if kind in NETWORK_FILE_SYSTEMS and settings.catalog_database_url.startswith("sqlite"):
        yield Finding(
            True,
            f"The home {settings.home} is on a network file system ({kind}), where SQLite breaks; "
            f"move it to a local disk.",
        )
    else:
        yield Finding(False, f"The home {settings.home} can be written.")


def _spool(settings: Settings) -> Iterator[Finding]:
    from vna.spool import Spool

    spool = Spool(settings.spool_path, settings.reserve_bytes)
    spool.check()
    write_in(settings.spool_path)
    free, _ = free_bytes(settings.spool_path)
    yield _space(settings.spool_path, free, spool.reserve)
    yield from of_waiting(spool.waiting())
    yield from of_aside(settings, len(spool.aside()))
    yield from of_commitments(spool)


def _space(spool: Path, free: int, reserve: int) -> Finding:
    """Below the reserve nothing is taken, below twice the reserve nothing is fetched."""
    has = f"{free / 2**30:.2f} GiB free"
    if free < reserve:
        return Finding(
            True,
            f"{spool}: only {has}, {reserve / 2**30:.2f} GiB must stay free: the DICOM server refuses everything "
            f"that is sent to it, and no pull begins; make room.",
        )
    if free < 2 * reserve:
        return Finding(
            True,
            f"{spool}: only {has}, and no pull begins below {2 * reserve / 2**30:.2f} GiB, twice the reserve of "
            f"{reserve / 2**30:.2f} GiB; what is sent to us is still taken. Make room.",
        )
    return Finding(False, f"The spool {spool} is on a local disk with {free / 2**30:.1f} GiB free.")


def _keys(settings: Settings) -> Iterator[Finding]:
    keys = settings.home / "keys"
    if IS_WINDOWS or not keys.exists():
        return
    if any(path.stat().st_mode & 0o077 for path in keys.iterdir()):
        yield Finding(True, f"Keys in {keys} can be read by others; run: chmod 600 {keys}/*")
    else:
        yield Finding(False, f"The keys in {keys} are readable by this user only.")


def _port(settings: Settings) -> Iterator[Finding]:
    from vna.dimse.service import running_scp

    ours = running_scp(settings)
    if ours is not None:
        from vna.dimse.status import read_statuses, together

        yield Finding(False, f"Our DICOM server runs as {ours.aet} on port {ours.port}.")
        status = together(read_statuses(settings))
        yield from of_traffic(status)
        yield from of_refusals(status)
        yield from of_certificate(status)
    elif port_is_free(settings.scp_bind, settings.scp_port):
        yield Finding(
            False,
            f"Port {settings.scp_port} is free for our DICOM server, which is not running now "
            f"(a backup starts it while needed).",
        )
    else:
        yield Finding(
            True,
            f"Port {settings.scp_port} is held by another program; stop it or set BACKUPDR_SCP_PORT.",
        )


def _catalog(settings: Settings) -> Iterator[Finding]:
    from vna.catalog import Catalog

    with contextlib.closing(Catalog(settings.catalog_database_url)) as catalog:
        if not catalog.is_migrated():
            yield Finding(False, "The catalog has no tables yet or older ones; the first run prepares it.")
        else:
            yield Finding(False, "The catalog answers.")


def _prefect(settings: Settings) -> Iterator[Finding]:
    from deployments.server import running_server

    api_url = running_server(settings.home)
    if api_url is None:
        yield Finding(False, "Prefect is not running; a command starts its own while it needs it.")
    else:
        yield Finding(False, f"Prefect answers at {api_url.removesuffix('/api')}.")


def _units(settings: Settings, site: Site) -> Iterator[Finding]:
    from vna.storage import open_unit

    if settings.default_unit not in site.units:
        yield Finding(
            True,
            f"The storage unit {settings.default_unit} for what arrives unasked (BACKUPDR_DEFAULT_UNIT) "
            f"is not defined.",
        )
    for sentence in overlapping(site.units.values()):
        yield Finding(True, sentence)
    for unit in site.units.values():
        try:
            opened = open_unit(unit, create=unit.name == settings.default_unit)
            write_in(unit.path)
            free, total = free_bytes(unit.path)
            lost = _lost_catalog(settings, opened)
        except BackupError as error:
            yield Finding(True, str(error))
            continue
        except OSError as error:
            yield Finding(
                True, f"Storage unit {unit.name}: {unit.path} cannot be written ({error.strerror})."
            )
            continue
        reserve = (
            settings.reserve_bytes if settings.reserve_bytes is not None else max(2 * 2**30, total // 50)
        )
        linked = _same_file_system(unit.path, settings.spool_path)
        how = (
            "placing is a link"
            if linked
            else "placing is a copy, because it is another disk than the spool's"
        )
        room = f"with {free / 2**30:.1f} GiB free"
        if free < reserve:
            room = f"but only {free / 2**30:.2f} GiB are free and {reserve / 2**30:.2f} GiB must stay free: make room"
        yield Finding(free < reserve, f"Storage unit {unit.name} at {unit.path} is there, {room}; {how}.")
        if lost is not None:
            yield Finding(True, lost)


def _lost_catalog(settings: Settings, unit: "StorageUnit") -> str | None:
    from vna.catalog import Catalog
    from vna.spool import Spool

    spool = Spool(settings.spool_path, settings.reserve_bytes)
    with (
        contextlib.suppress(CatalogUnavailable),  # told once, of the catalog
        contextlib.closing(Catalog(settings.catalog_database_url)) as catalog,
    ):
        return lost_catalog(unit, catalog, spool)
    return None


def _remotes(settings: Settings, site: Site) -> Iterator[Finding]:
    from vna.dimse import OurNode, echo

    if not site.remotes:
        yield Finding(False, "No remote server is defined yet; add one with `backupdr remote add`.")
    for remote in site.remotes.values():
        try:
            echo(remote, OurNode.from_settings(settings))
        except BackupError as error:
            yield Finding(True, str(error))
        else:
            yield Finding(False, f"{remote.name} ({remote.aet} at {remote.host}:{remote.port}) answers.")


def port_is_free(host: str, port: int) -> bool:
    """Whether a server of ours could listen there now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        if not IS_WINDOWS:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def _same_file_system(one: Path, other: Path) -> bool:
    try:
        return one.stat().st_dev == other.stat().st_dev
    except OSError:
        return False
