"""What each process of our DICOM server says of itself, for whoever wants to know how it is.

Every process writes `scp/<pid>.json` in the home folder every few seconds and removes it at its end. Nothing depends
on it, so it is not made durable: after a power cut there is none, and none is needed.
"""

import contextlib
import socket
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from vna.durable import make_folder
from vna.settings import Settings

EVERY_SECONDS = 2.0
STALE_SECONDS = 15.0
"""What is older was left by a process that was killed, or that hangs."""

MOST_REFUSALS = 20
BECAUSE_OF_WHO = {"called-aet", "calling-aet", "address", "tls", "tls-subject", "no-store"}
"""Reasons that last until a person changes a setting here or there; a limit passes by itself."""


class RefusedAssociation(BaseModel):
    """An association that was refused, as `vna.dimse.tally` has it; `at` is UTC in ISO 8601."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    at: str
    calling_aet: str
    called_aet: str
    address: str
    reason: str
    sentence: str = ""


class ScpStatus(BaseModel):
    """One process of our DICOM server, or all of them together. Counts are since its start.

    `refused` counts associations by reason, `refused_instances` C-STORE requests by status ("0xA700");
    `last_refusals` has the newest first. `certificate_ends` is ISO 8601, empty without TLS. `indexer` is empty where
    this server has none beside it, else "starting", "running" or "ended". `ending`: it takes no new association, and
    finishes those it has.
    """

    model_config = ConfigDict(frozen=True)

    pid: int = 0
    at: float = 0.0
    started: float = 0.0
    processes: int = 0
    """How many of them take associations."""
    associations: int = 0
    full: int = 0
    """How many of the processes have no place for another caller."""
    waiting: int = 0
    """Connections that have not yet asked for an association."""
    accepted: int = 0
    refused: Mapping[str, int] = {}
    last_refusals: tuple[RefusedAssociation, ...] = ()
    instances: int = 0
    bytes: int = 0
    refused_instances: Mapping[str, int] = {}
    certificate_ends: str = ""
    indexer: str = ""
    ending: bool = False
    problems: tuple[str, ...] = ()


def status_folder(settings: Settings) -> Path:
    """Where the processes of this home write."""
    return settings.home / "scp"


def write_status(settings: Settings, status: ScpStatus) -> None:
    """Replace what this process said before. Raises `OSError`."""
    folder = status_folder(settings)
    make_folder(folder)
    path = folder / f"{status.pid}.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(status.model_dump_json(), encoding="utf-8")
    temporary.replace(path)


def remove_status(settings: Settings, pid: int) -> None:
    """The process has ended; nothing there is fine."""
    with contextlib.suppress(OSError):
        (status_folder(settings) / f"{pid}.json").unlink(missing_ok=True)


def clear_statuses(settings: Settings) -> None:
    """Remove what killed processes left; for the one that is the server of this home, before it starts others."""
    with contextlib.suppress(OSError):
        for path in status_folder(settings).iterdir():
            path.unlink(missing_ok=True)


def read_statuses(settings: Settings) -> list[ScpStatus]:
    """What the living processes of this home's server said last."""
    found: list[ScpStatus] = []
    now = time.time()
    try:
        paths = sorted(status_folder(settings).glob("*.json"))
    except OSError:
        return found
    for path in paths:
        with contextlib.suppress(OSError, ValidationError):  # gone meanwhile
            status = ScpStatus.model_validate_json(path.read_bytes())
            if abs(now - status.at) < STALE_SECONDS:
                found.append(status)
    return found


def unknown_callers_since(settings: Settings, since: float, host: str) -> list[RefusedAssociation]:
    """The associations that this home's server refused since then (seconds since 1970), to callers from `host`,
    because of who they were. One second is added at the start: refusals are told to the second.
    """
    addresses = _addresses_of(host)
    return [
        refusal
        for refusal in together(read_statuses(settings)).last_refusals
        if refusal.reason in BECAUSE_OF_WHO
        and refusal.address in addresses
        and datetime.fromisoformat(refusal.at).timestamp() > since - 1
    ]


def _addresses_of(host: str) -> set[str]:
    try:
        return {str(found[4][0]) for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except OSError:
        return {host}


def together(statuses: Iterable[ScpStatus]) -> ScpStatus:
    """Several processes as one; those that are ending count only where there are no others."""
    every = list(statuses)
    known = [status for status in every if not status.ending] or every
    refused: Counter[str] = Counter()
    refused_instances: Counter[str] = Counter()
    for status in known:
        refused.update(status.refused)
        refused_instances.update(status.refused_instances)
    refusals = sorted((each for status in known for each in status.last_refusals), key=lambda each: each.at)
    refusals.reverse()
    return ScpStatus(
        at=max((status.at for status in known), default=0.0),
        started=min((status.started for status in known), default=0.0),
        processes=sum(status.processes for status in known),
        associations=sum(status.associations for status in known),
        full=sum(status.full for status in known),
        waiting=sum(status.waiting for status in known),
        accepted=sum(status.accepted for status in known),
        refused=dict(refused),
        last_refusals=tuple(refusals[:MOST_REFUSALS]),
        instances=sum(status.instances for status in known),
        bytes=sum(status.bytes for status in known),
        refused_instances=dict(refused_instances),
        certificate_ends=min((each.certificate_ends for each in known if each.certificate_ends), default=""),
        indexer=next((status.indexer for status in known if status.indexer), ""),
        ending=bool(known) and all(status.ending for status in known),
        problems=tuple(dict.fromkeys(problem for status in known for problem in status.problems)),
    )
