"""How the DICOM server of this home is, in words and as one object: `backupdr scp --health`, and `backupdr check`."""

import contextlib
import datetime
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from cli.console import HEALTH_NOTHING, say, show
from vna.dimse.service import RunningScp, echo_ourselves, running_scp
from vna.dimse.status import ScpStatus, read_statuses, together
from vna.errors import AssociationAborted, BackupError, SettingsError, TlsFailed
from vna.platform import free_bytes
from vna.settings import Settings
from vna.site import load_site
from vna.spool import Commitments, Spool, Waiting

_LONG_SECONDS = 3600.0
_CATALOG_SECONDS = 3.0
_SOON_DAYS = 30
_REASONS = {
    "called-aet": "not our AE title called",
    "calling-aet": "unknown calling AE title",
    "address": "wrong address",
    "tls": "TLS not agreed, or on the wrong one of the plain and the TLS port",
    "tls-subject": "another certificate",
    "limit": "too many associations",
    "address-limit": "too many associations of one address",
    "crowd": "too many connections",
    "silent": "connection that said nothing",
    "not-dicom": "not DICOM",
    "version": "another protocol version",
    "no-store": "may not store",
    "no-retrieve": "may not query, retrieve or ask for storage commitment",
    "stopping": "while ending",
    "failure": "could not be served",
}
_MANY_REFUSALS = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """`wrong` = something must be done; else the sentence only tells."""

    wrong: bool
    sentence: str


@dataclass(slots=True)
class Health:
    """`facts` has the keys of `HEALTH_NOTHING`."""

    sentence: str
    receives: bool
    facts: dict[str, object] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def fails(self, sentence: str) -> None:
        """It runs, and what is sent to it is not taken."""
        self.receives = False
        self.findings.append(Finding(True, sentence))


def tell(settings: Settings, *, as_json: bool) -> bool:
    """Say how the server is, and return whether it receives."""
    health = look(settings)
    say(health.sentence, as_json=as_json)
    for finding in health.findings:
        say(finding.sentence, as_json=as_json)
    if as_json:
        problems = [] if health.receives else [health.sentence]
        problems += [finding.sentence for finding in health.findings if finding.wrong]
        own = {"receiving": health.receives, "sentence": health.sentence}
        show({**HEALTH_NOTHING, **health.facts, **own, "problems": list(dict.fromkeys(problems))})
    return health.receives


def look(settings: Settings) -> Health:
    """The server as it answers now, and what waits in its spool."""
    ours = running_scp(settings)
    if ours is None:
        health = _not_running(settings)
        status = ScpStatus()
    else:
        health = _answering(settings, ours)
        status = together(read_statuses(settings))
        names = set(HEALTH_NOTHING) & set(ScpStatus.model_fields) - {"pid"}
        health.facts |= status.model_dump(mode="json", include=names)
        health.findings += [*of_traffic(status), *of_refusals(status), *of_certificate(status)]
        _look_at_site(settings, health)
    try:
        _look_at_spool(settings, status, health)
    except BackupError as error:
        health.fails(str(error))
    if ours is not None and not health.receives and health.sentence == _receives(ours):
        health.sentence = (
            f"The DICOM server runs as {ours.aet} on {_ports(ours)}, and refuses what is sent to it."
        )
    return health


def _not_running(settings: Settings) -> Health:
    last = together(read_statuses(settings))
    if not last.ending:
        return Health(f"No DICOM server of {settings.home} is running.", receives=False)
    still = _counted(last.associations, "association")
    return Health(
        f"The DICOM server of {settings.home} is ending: it takes no new association, and finishes what is being "
        f"received ({still} open).",
        receives=False,
    )


def studies_arriving(settings: Settings, latency_seconds: float) -> int | None:
    """How many studies something was stored of within the quiet time that must pass before a study counts as
    complete; None where the catalog does not say so quickly.
    """
    found: list[int] = []

    def ask() -> None:
        from vna.catalog import Catalog

        since = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=latency_seconds)
        with (
            contextlib.suppress(BackupError),  # the catalog's own finding of `check`
            contextlib.closing(Catalog(settings.catalog_database_url)) as catalog,
        ):
            if catalog.is_migrated():
                found.append(catalog.studies_told_since(since.strftime("%Y-%m-%dT%H:%M:%S.%fZ")))

    asking = threading.Thread(target=ask, daemon=True)  # a database that is away may take its time to say so
    asking.start()
    asking.join(_CATALOG_SECONDS)
    return next(iter(found), None)


def _look_at_site(settings: Settings, health: Health) -> None:
    try:
        quiet = load_site(settings).server.latency_seconds
    except SettingsError:  # the server says so itself, and uses its last good one
        return
    arriving = studies_arriving(settings, quiet)
    health.facts["arriving"] = arriving
    if arriving:
        studies = "1 study is" if arriving == 1 else f"{arriving} studies are"
        health.findings.append(
            Finding(False, f"{studies} still arriving: something came within the last {quiet:g} s.")
        )


def _answering(settings: Settings, ours: RunningScp) -> Health:
    facts: dict[str, object] = {
        "aet": ours.aet,
        "port": ours.port if ours.plain else None,
        "tls_port": ours.tls_port,
        "pid": ours.pid,
    }
    try:
        answer = echo_ourselves(settings)
    except (TlsFailed, AssociationAborted) as error:
        if ours.plain or (isinstance(error, TlsFailed) and error.silent):
            return _silent(ours, facts, error)
        # it answered, and takes its own certificate for no caller's: many are made for servers only
        told = Finding(
            False, f"It answers by TLS and was not asked further with its own certificate: {error}"
        )
        return Health(_receives(ours), receives=True, facts=facts, findings=[told])
    except BackupError as error:
        return _silent(ours, facts, error)
    return Health(_receives(ours), receives=True, facts=facts | {"seconds": answer.seconds})


def _silent(ours: RunningScp, facts: dict[str, object], error: BackupError) -> Health:
    sentence = f"The DICOM server runs as {ours.aet} on {_ports(ours)}, and does not answer."
    return Health(sentence, receives=False, facts=facts, findings=[Finding(True, str(error))])


def _receives(ours: RunningScp) -> str:
    return f"The DICOM server receives as {ours.aet} on {_ports(ours)}."


def _ports(ours: RunningScp) -> str:
    plain = [f"port {ours.port}"] if ours.plain else []
    tls = [f"port {ours.tls_port} by TLS"] if ours.tls_port is not None else []
    return " and ".join([*plain, *tls])


def _look_at_spool(settings: Settings, status: ScpStatus, health: Health) -> None:
    spool = Spool(settings.spool_path, settings.reserve_bytes)
    if not settings.spool_path.exists():  # before the first start
        return
    waiting, aside = spool.waiting(), len(spool.aside())
    free, _ = free_bytes(settings.spool_path)
    health.facts |= {
        "backlog": waiting.files,
        "backlog_since": waiting.oldest,
        "aside": aside,
        "free_bytes": free,
        "reserve_bytes": spool.reserve,
    }
    health.findings += [*of_waiting(waiting), *of_indexer(status, waiting), *of_aside(settings, aside)]
    health.findings += of_commitments(spool)
    spool.check_space()


def of_traffic(status: ScpStatus) -> Iterator[Finding]:
    """What it does, and what it says is wrong."""
    if status.processes:
        several = f" in {status.processes} processes" if status.processes > 1 else ""
        yield Finding(
            False,
            f"{_counted(status.associations, 'association')} open{several}; "
            f"{_counted(status.instances, 'instance')} ({status.bytes / 1e6:.1f} MB) received since its start.",
        )
    if status.processes and status.full >= status.processes:  # our own question has a place of its own
        yield Finding(
            True,
            "As many associations as allowed are open: every other caller is refused until one of them ends.",
        )
    for code, count in status.refused_instances.items():
        yield Finding(
            False, f"{_counted(count, 'instance')} refused with status {code}; the senders were told so."
        )
    for problem in status.problems:
        yield Finding(True, problem)


def of_refusals(status: ScpStatus) -> Iterator[Finding]:
    """Who was refused, and why."""
    if not status.refused:
        return
    by_reason = ", ".join(
        f"{count} × {_REASONS.get(reason, reason)}" for reason, count in sorted(status.refused.items())
    )
    yield Finding(
        False,
        f"{_counted(sum(status.refused.values()), 'association')} refused since its start: {by_reason}.",
    )
    for refusal in status.last_refusals[:_MANY_REFUSALS]:
        who = f"{refusal.calling_aet} at {refusal.address}" if refusal.calling_aet else refusal.address
        at = datetime.datetime.fromisoformat(refusal.at).timestamp()
        yield Finding(False, f"{who} was refused at {_at(at)}: {refusal.sentence.rstrip('.')}.")


def of_certificate(status: ScpStatus) -> Iterator[Finding]:
    """When the certificate of the server ends; in its last month something must be done."""
    if not status.certificate_ends:
        return
    ends = datetime.datetime.fromisoformat(status.certificate_ends)
    days = (ends - datetime.datetime.now(datetime.UTC)).days
    if days < 0:
        yield Finding(True, f"The certificate of the DICOM server ended on {ends:%Y-%m-%d}; renew it.")
    else:
        yield Finding(
            days < _SOON_DAYS, f"The certificate of the DICOM server ends on {ends:%Y-%m-%d}, in {days} days."
        )


def of_waiting(waiting: Waiting) -> Iterator[Finding]:
    """What is long in the spool has no place to go to, or no indexer; what is young is on its way."""
    for error in waiting.unreadable:
        yield Finding(True, str(error))
    if waiting.oldest is None:
        return
    files = "1 received file waits" if waiting.files == 1 else f"{waiting.files} received files wait"
    yield Finding(
        time.time() - waiting.oldest > _LONG_SECONDS,
        f"{files} in the spool to be placed, the oldest since {_at(waiting.oldest)}.",
    )


def of_indexer(status: ScpStatus, waiting: Waiting) -> Iterator[Finding]:
    """Whether anybody places what waits."""
    if status.indexer == "starting":
        yield Finding(False, "The indexer beside the DICOM server is starting.")
    elif status.indexer == "ended":
        yield Finding(True, "The indexer beside the DICOM server ended and is being started again.")
    elif status.processes and not status.indexer and waiting.files:
        yield Finding(False, "This server runs without an indexer; `backupdr scp --index` has one beside it.")


def of_aside(settings: Settings, aside: int) -> Iterator[Finding]:
    """What was acknowledged and cannot be placed."""
    if aside:
        files = "1 received file" if aside == 1 else f"{aside} received files"
        yield Finding(True, f"{files} could not be identified; they are in {settings.spool_path / 'aside'}.")


def of_commitments(spool: Spool) -> Iterator[Finding]:
    """Who asked for storage commitment and was not told; raises `SpoolUnusable`."""
    commitments = Commitments(spool)
    if waiting := len(commitments.waiting()):
        yield Finding(False, f"{_counted(waiting, 'request')} for storage commitment not reported yet.")
    if given_up := commitments.given_up():
        yield Finding(
            True,
            f"{_counted(given_up, 'request')} for storage commitment given up, because a day long nobody took the "
            f"report; the log names them. Ask again there, then empty {commitments.given_up_path}.",
        )


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _at(seconds: float) -> str:
    return f"{datetime.datetime.fromtimestamp(seconds).astimezone():%Y-%m-%d %H:%M}"
