"""Every error of the system, on one page.

Each carries its facts as attributes, its `str` is the sentence an operator reads (what, which peer, file or
study, what to do), and `transient` tells whether trying again may help. Whether it is tried again is
decided in one place only, the Prefect task. No sentence holds patient data: studies are named by UID.
"""

import re
import traceback
from collections.abc import Sequence


class BackupError(Exception):
    """Root of the tree. `transient` = the same call may succeed later without anybody changing anything."""

    transient: bool = False


def is_transient(error: BaseException) -> bool:
    """Whether trying again may help. What we do not know is not tried again blindly."""
    return isinstance(error, BackupError) and error.transient


def where_it_happened(error: BaseException) -> str:
    """The stack of an error nobody expected, for a log: without its text, which may hold a patient's data."""
    return "".join([*traceback.format_tb(error.__traceback__), type(error).__name__])


def peers_words(comment: str) -> str:
    """An error comment of a peer as a sentence may repeat it: one line of at most 64 characters (PS3.7 C.4), and
    nothing of it that looks like a patient's name (a `^`), number or date (five digits in one word).
    """
    text = "".join(character if character.isprintable() else " " for character in comment)
    words = ("…" if re.search(r"\^|\d{5}", word) else word for word in text.split())
    return " ".join(words)[:64]


# -- settings and what people type -----------------------------------------------------------------


class SettingsError(BackupError):
    """A setting, option or settings file that cannot be used; the message is the whole sentence."""


class NameUnknown(SettingsError):
    def __init__(self, kind: str, name: str, known: Sequence[str]) -> None:
        self.kind, self.name, self.known = kind, name, tuple(known)
        have = f"known: {', '.join(sorted(known))}" if known else "none is defined yet"
        super().__init__(f"There is no {kind} named {name!r} ({have}).")


class RequesterUnknown(SettingsError):
    """Who asked for storage commitment is no remote server, so it cannot be called back."""

    def __init__(self, calling_aet: str) -> None:
        self.calling_aet = calling_aet
        super().__init__(
            f"No remote server calls as {calling_aet!r}, so it cannot be told; add it with its host and port."
        )


class FilterInvalid(SettingsError):
    def __init__(self, text: str, reason: str) -> None:
        self.text, self.reason = text, reason
        super().__init__(f"The filter {text!r} cannot be used: {reason}.")


class FaultInvalid(SettingsError):
    """A misbehaviour asked of the simulated PACS that it does not have, or with a value it cannot take."""

    def __init__(self, text: str, reason: str) -> None:
        self.text, self.reason = text, reason
        super().__init__(f"The fault {text!r} cannot be used: {reason}.")


class PortInUse(SettingsError):
    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        super().__init__(
            f"Port {port} on {host} is held by another program; stop it or choose another port "
            f"(BACKUPDR_SCP_PORT for our own DICOM server)."
        )


class ReceiverFailed(BackupError):
    """Our own DICOM server, which a C-MOVE sends to, does not run."""

    transient = True

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"Our DICOM server could not be started: {reason}.")


class PrefectUnavailable(BackupError):
    transient = True

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"Prefect, which runs the backups, cannot be reached: {reason}.")


# -- peers -----------------------------------------------------------------------------------------


class PeerError(BackupError):
    """Something between us and a remote DICOM server; `remote` is its name."""

    remote: str


class RemoteUnreachable(PeerError):
    transient = True

    def __init__(self, remote: str, host: str, port: int, reason: str) -> None:
        self.remote, self.host, self.port, self.reason = remote, host, port, reason
        super().__init__(
            f"{remote}: no connection to {host}:{port} ({reason}); check host, port and network."
        )


class TlsFailed(PeerError):
    """`silent`: the peer took the connection and said nothing; it may hang, or speak no TLS there."""

    def __init__(self, remote: str, reason: str, *, silent: bool = False) -> None:
        self.remote, self.reason, self.silent = remote, reason, silent
        super().__init__(f"{remote}: TLS could not be agreed ({reason}); check the certificates.")


class AssociationRejected(PeerError):
    """PS3.8 9.3.4: result 1 = permanent, 2 = transient."""

    def __init__(self, remote: str, calling_aet: str, called_aet: str, result: int, reason: str) -> None:
        self.remote, self.calling_aet, self.called_aet = remote, calling_aet, called_aet
        self.result, self.reason = result, reason
        self.transient = result == 2
        super().__init__(
            f"{remote}: refused our association ({reason}); we called {called_aet!r} as {calling_aet!r}. "
            + ("Trying again may help." if self.transient else "Check both AE titles on both sides.")
        )


class AssociationAborted(PeerError):
    transient = True

    def __init__(self, remote: str, during: str) -> None:
        self.remote, self.during = remote, during
        super().__init__(f"{remote}: the association ended during {during}; trying again may help.")


class PeerTimeout(PeerError):
    transient = True

    def __init__(self, remote: str, during: str, seconds: float) -> None:
        self.remote, self.during, self.seconds = remote, during, seconds
        super().__init__(f"{remote}: no answer for {seconds:g} s during {during}; trying again may help.")


class ServiceNotAccepted(PeerError):
    def __init__(self, remote: str, service: str) -> None:
        self.remote, self.service = remote, service
        super().__init__(f"{remote}: does not offer {service} to us; enable it there or use another method.")


class QueryFailed(PeerError):
    """C-FIND ended with a failure status (PS3.4 C.4.1.1.4)."""

    def __init__(self, remote: str, level: str, status: int, comment: str = "") -> None:
        self.remote, self.level, self.status, self.comment = remote, level, status, comment
        self.transient = status == 0xA700
        detail = f": {comment}" if comment else ""
        super().__init__(f"{remote}: the query at {level} level failed with status 0x{status:04X}{detail}.")


class QueryTruncated(PeerError):
    """The source caps its answers and the smallest interval we can ask for still reaches the cap."""

    def __init__(self, remote: str, interval: str, cap: int) -> None:
        self.remote, self.interval, self.cap = remote, interval, cap
        super().__init__(
            f"{remote}: answers are cut at {cap} and {interval} cannot be split further, so studies may be "
            f"missing from the list; raise the limit at the source or narrow the filter."
        )


class AnswerInvalid(PeerError):
    def __init__(self, remote: str, reason: str) -> None:
        self.remote, self.reason = remote, reason
        super().__init__(f"{remote}: sent an answer that is not DICOM or breaks the standard ({reason}).")


class MoveDestinationUnknown(PeerError):
    def __init__(self, remote: str, destination: str) -> None:
        self.remote, self.destination = remote, destination
        super().__init__(
            f"{remote}: does not know the move destination {destination!r}; register our AE title, host and "
            f"port there, or use C-GET (--retrieve get)."
        )


class RetrieveFailed(PeerError):
    """C-MOVE or C-GET ended with a failure status (PS3.4 C.4.2.1.5, C.4.3.1.4)."""

    def __init__(self, remote: str, study_instance_uid: str, status: int, comment: str = "") -> None:
        self.remote, self.study_instance_uid = remote, study_instance_uid
        self.status, self.comment = status, comment
        self.transient = status in {0xA701, 0xA702, 0xB000, 0xFE00}
        detail = f": {comment}" if comment else ""
        super().__init__(
            f"{remote}: the retrieve of study {study_instance_uid} failed with status 0x{status:04X}{detail}."
        )


class SyntaxNotAccepted(PeerError):
    """The peer takes an instance only in another transfer syntax than it is kept in."""

    def __init__(
        self, remote: str, sop_instance_uid: str, sop_class_uid: str, transfer_syntax_uid: str
    ) -> None:
        self.remote, self.sop_instance_uid = remote, sop_instance_uid
        self.sop_class_uid, self.transfer_syntax_uid = sop_class_uid, transfer_syntax_uid
        super().__init__(
            f"{remote}: does not accept SOP class {sop_class_uid} in transfer syntax {transfer_syntax_uid}, in which "
            f"instance {sop_instance_uid} is kept; images are never converted."
        )


class InstanceRefused(PeerError):
    """C-STORE was answered with a failure status (PS3.4 B.2.3)."""

    def __init__(self, remote: str, sop_instance_uid: str, status: int, comment: str = "") -> None:
        self.remote, self.sop_instance_uid = remote, sop_instance_uid
        self.status, self.comment = status, comment
        self.transient = status >> 8 == 0xA7
        detail = f": {comment}" if comment else ""
        super().__init__(f"{remote}: refused instance {sop_instance_uid} with status 0x{status:04X}{detail}.")


class ReportRefused(PeerError):
    """A requester of storage commitment did not take our report; `status` None = it answered something else."""

    transient = True

    def __init__(self, remote: str, status: int | None, comment: str = "") -> None:
        self.remote, self.status, self.comment = remote, status, comment
        answer = "no DICOM answer to it" if status is None else f"status 0x{status:04X}"
        detail = f": {comment}" if comment else ""
        super().__init__(f"{remote}: did not take the report of a storage commitment ({answer}{detail}).")


# -- our own disks, spool, units and catalog --------------------------------------------------------


class StoreError(BackupError):
    """Something with our own disks, storage units or catalog."""


class SpoolUnusable(StoreError):
    def __init__(self, path: str, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(f"The spool {path} cannot be used: {reason}.")


class DiskFull(StoreError):
    transient = True

    def __init__(self, path: str, free: int, reserve: int) -> None:
        self.path, self.free, self.reserve = path, free, reserve
        super().__init__(
            f"{path}: only {free / 2**30:.2f} GiB free, {reserve / 2**30:.2f} GiB must stay free; "
            f"make room, then run again."
        )


class CommitmentBacklog(StoreError):
    """So many requests for storage commitment wait that no more are taken."""

    transient = True

    def __init__(self, path: str, waiting: int) -> None:
        self.path, self.waiting = path, waiting
        super().__init__(
            f"{waiting} requests for storage commitment wait in {path}, so no more are taken; see in the log "
            f"which requesters cannot be reached, or whether the catalog is away."
        )


class UnitUnavailable(StoreError):
    transient = True

    def __init__(self, unit: str, path: str, reason: str) -> None:
        self.unit, self.path, self.reason = unit, path, reason
        end = "" if reason.endswith((".", "?", "!")) else "."
        super().__init__(f"Storage unit {unit} at {path} is not available: {reason}{end}")


class UnitNotWritable(StoreError):
    def __init__(self, unit: str, path: str, reason: str) -> None:
        self.unit, self.path, self.reason = unit, path, reason
        super().__init__(f"Storage unit {unit} at {path} cannot be written: {reason}.")


class CopyDiffers(StoreError):
    """What was read back is not what was written."""

    def __init__(self, unit: str, path: str, expected: str, found: str) -> None:
        self.unit, self.path, self.expected, self.found = unit, path, expected, found
        super().__init__(
            f"Storage unit {unit}: {path} was read back with another content (expected {expected[:16]}…, found "
            f"{found[:16]}…); check this disk."
        )


class SourceDiffers(StoreError):
    """The file to be stored is no more what was received: its own disk damaged it before it was placed."""

    def __init__(self, path: str, expected: str, found: str) -> None:
        self.path, self.expected, self.found = path, expected, found
        super().__init__(
            f"{path} is no more what was received (expected {expected[:16]}…, found {found[:16]}…); "
            f"check the disk of the spool."
        )


class CopyUnreadable(StoreError):
    """The disk refuses to give a stored file back."""

    def __init__(self, unit: str, path: str, reason: str) -> None:
        self.unit, self.path, self.reason = unit, path, reason
        super().__init__(f"Storage unit {unit}: {path} cannot be read ({reason}); check this disk.")


class NoGoodCopy(StoreError):
    """No copy of an instance can be sent: none is reachable, or those that are have another content."""

    def __init__(self, sop_instance_uid: str, reachable: int) -> None:
        self.sop_instance_uid, self.reachable = sop_instance_uid, reachable
        self.transient = reachable == 0
        reason = (
            f"{reachable} found, none with the content that was stored; run `backupdr verify`"
            if reachable
            else "its storage units are away or its copies are gone; see `backupdr check`"
        )
        super().__init__(f"instance {sop_instance_uid}: has no good copy to send ({reason}).")


class DatasetUnreadable(StoreError):
    """A data set that cannot be identified: kept, set aside, reported."""

    def __init__(self, path: str, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(f"{path}: {reason}; set aside.")


class PlacingFailed(StoreError):
    """Something nobody thought of keeps a study in the spool; the log holds the whole story."""

    def __init__(self, study_instance_uid: str, reason: str) -> None:
        self.study_instance_uid, self.reason = study_instance_uid, reason
        super().__init__(
            f"study {study_instance_uid}: its files stay in the spool, because placing them failed ({reason})."
        )


class ReaderFailed(StoreError):
    """The child process that reads headers cannot be started; nothing is known of any file."""

    transient = True

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"Headers cannot be read: the process for it does not start ({reason}).")


class IndexingStalled(StoreError):
    """Another indexer has the files in work and nothing happens to them; one of its own may be hanging."""

    transient = True

    def __init__(self, association: str, minutes: float, files: int) -> None:
        self.association, self.minutes, self.files = association, minutes, files
        super().__init__(
            f"Another indexer has held {association} in the spool for {minutes:.0f} minutes and placed nothing "
            f"of it; {files} files wait there."
        )


class CatalogUnavailable(StoreError):
    transient = True

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"The catalog database does not answer ({reason}); received studies wait in the spool."
        )


class CatalogRefused(StoreError):
    """The catalog database answers, and does not take this; the same again would be refused again."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"The catalog database refuses what it was given ({reason}).")


# -- studies and runs ------------------------------------------------------------------------------


class StudyError(BackupError):
    """Why one study of a run is not complete; the run goes on with the others."""

    study_instance_uid: str


class StudyIncomplete(StudyError):
    """The set of instances here is not the set at the source."""

    def __init__(self, study_instance_uid: str, missing: int, expected: int, reason: str) -> None:
        self.study_instance_uid, self.missing, self.expected = study_instance_uid, missing, expected
        self.reason = reason
        super().__init__(
            f"study {study_instance_uid}: {missing} of {expected} instances are missing ({reason})."
        )


class SourceCannotList(StudyError):
    def __init__(self, study_instance_uid: str, remote: str, reason: str) -> None:
        self.study_instance_uid, self.remote, self.reason = study_instance_uid, remote, reason
        super().__init__(
            f"study {study_instance_uid}: stored, unproven: {remote} cannot list its instances ({reason})."
        )


class StudyLeased(StudyError):
    transient = True

    def __init__(self, study_instance_uid: str, holder: str) -> None:
        self.study_instance_uid, self.holder = study_instance_uid, holder
        super().__init__(f"study {study_instance_uid}: is being copied by run {holder}.")


class RunStopped(BackupError):
    """The run was told to end; what it has in work is left as it is."""

    def __init__(self) -> None:
        super().__init__("stopped before its end; run it again to go on")


class RunFailed(BackupError):
    """A run whose wanted studies are not all complete; the message is its end sentence."""
