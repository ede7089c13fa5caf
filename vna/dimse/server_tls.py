"""TLS as the DICOM server speaks it: BCP 195 (PS3.15 B.12), both sides with a certificate, renewed by new files.

New files take effect with the next association and end none. Files that cannot be used leave the last good ones in
use, and `problem` says why.
"""

import logging
import ssl
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

from vna.errors import SettingsError
from vna.settings import Settings

_log = logging.getLogger(__name__)

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""RFC 9325 4.2 for TLS 1.2: forward secrecy and authenticated encryption only; those of TLS 1.3 are all so."""

_LOOK_SECONDS = 1.0
_Stamp: TypeAlias = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: our certificate (with what leads to its authority), its key, and the authorities of the callers."""

    cert: Path
    key: Path
    ca: Path

    @classmethod
    def from_settings(cls, settings: Settings) -> "TlsFiles | None":
        """None where no TLS port is set; raises `SettingsError` where one is, and a file is not."""
        if settings.scp_tls_port is None:
            if settings.scp_tls_only:
                raise SettingsError("Only TLS is wanted (scp_tls_only), but scp_tls_port is not set.")
            return None
        cert, key, ca = settings.scp_tls_cert, settings.scp_tls_key, settings.scp_tls_ca
        if cert is None or key is None or ca is None:
            raise SettingsError(
                "For TLS the DICOM server needs scp_tls_cert, scp_tls_key and scp_tls_ca "
                "(callers must show a certificate too)."
            )
        return cls(cert, key, ca)


class ServerTls:
    """The context of new associations; used by any thread. Raises `SettingsError` if it never had good files."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._lock = threading.Lock()
        self._stamp: _Stamp = self._stamp_now()
        self._context = _load(files)
        self._expires_at = expiry(files.cert)
        self._look_at = time.monotonic() + _LOOK_SECONDS
        self.problem = ""

    @property
    def expires_at(self) -> datetime:
        """When the certificate in use ends."""
        return self._expires_at

    def context(self) -> ssl.SSLContext:
        """As the files are now; looked at at most once a second."""
        with self._lock:
            now = time.monotonic()
            if now >= self._look_at:
                self._look_at = now + _LOOK_SECONDS
                self._look()
            return self._context

    def _look(self) -> None:
        stamp = self._stamp_now()
        if stamp == self._stamp:
            self._say("")  # what was wrong for a moment is as it was
            return
        try:
            # the stamp is older than what is read: files that change meanwhile are read again
            context, expires_at = _load(self._files), expiry(self._files.cert)
        except SettingsError as error:  # perhaps only half renewed
            self._say(str(error))
            return
        self._stamp, self._context, self._expires_at = stamp, context, expires_at
        self._say("")
        _log.info("the certificate of the DICOM server was renewed; it ends on %s", f"{expires_at:%Y-%m-%d}")

    def _say(self, problem: str) -> None:
        if problem and problem != self.problem:
            _log.error("%s The last good certificate stays in use.", problem)
        self.problem = problem

    def _stamp_now(self) -> _Stamp:
        stamps: list[tuple[int, int, int]] = []
        for path in (self._files.cert, self._files.key, self._files.ca):
            try:
                found = path.stat()
                stamps.append((found.st_mtime_ns, found.st_size, found.st_ino))
            except OSError:
                stamps.append((0, 0, 0))
        return tuple(stamps)


def _load(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.verify_mode = ssl.CERT_REQUIRED
    for path in (files.cert, files.key):
        _read(path)  # what cannot be read is told by name
    try:
        context.load_cert_chain(files.cert, files.key, password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        raise SettingsError(
            f"{files.cert} and {files.key} cannot be used: {_words(error)}; "
            f"both must be PEM, the key without a password."
        ) from error
    try:
        context.load_verify_locations(cadata=_read(files.ca).decode("ascii", "replace"))
    except (ssl.SSLError, ValueError) as error:
        raise SettingsError(
            f"{files.ca} cannot be used: {_words(error)}; it must hold certificates as PEM."
        ) from error
    return context


def _no_password() -> str:
    """A service cannot be asked for one; without this OpenSSL asks on the terminal and waits."""
    raise ValueError("the key has a password")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}.") from error


def _words(error: Exception) -> str:
    reason = error.reason if isinstance(error, ssl.SSLError) else str(error)
    return (reason or "no certificate or key in it").lower().replace("_", " ")


def expiry(cert: Path) -> datetime:
    """When the first certificate of a PEM file ends (RFC 5280 4.1.2.5); raises `SettingsError`."""
    text = _read(cert).decode("ascii", "replace")
    start, end = text.find("-----BEGIN CERTIFICATE-----"), text.find("-----END CERTIFICATE-----")
    try:
        der = ssl.PEM_cert_to_DER_cert(text[start:end] + "-----END CERTIFICATE-----")
        return _not_after(der)
    except (ValueError, IndexError) as error:
        raise SettingsError(f"{cert} holds no certificate as PEM.") from error


def _not_after(der: bytes) -> datetime:
    """Certificate, TBSCertificate, past version, serial number, algorithm and issuer, to the end of the validity."""
    _, at, _ = _tag(der, 0)
    _, at, _ = _tag(der, at)
    kind, start, end = _tag(der, at)
    for _ in range(4 if kind == 0xA0 else 3):
        at = end
        _, start, end = _tag(der, at)
    _, _, start = _tag(der, start)  # the end of notBefore
    kind, start, end = _tag(der, start)
    form = "%y%m%d%H%M%SZ" if kind == 0x17 else "%Y%m%d%H%M%SZ"  # UTCTime or GeneralizedTime
    return datetime.strptime(der[start:end].decode("ascii"), form).replace(tzinfo=UTC)


def _tag(der: bytes, at: int) -> tuple[int, int, int]:
    """Kind, start and end of the value of the element at `at`."""
    kind, length, start = der[at], der[at + 1], at + 2
    if length & 0x80:
        size = length & 0x7F
        length, start = int.from_bytes(der[start : start + size], "big"), start + size
    return kind, start, start + length
