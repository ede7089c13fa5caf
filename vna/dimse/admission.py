"""Who may talk to the DICOM server: AE titles, addresses and TLS subjects against the site's remote servers.

A refusal says in PS3.8 table 9-21's numbers what the peer is told, and in a sentence what the operator is told.
"""

import ipaddress
import ssl
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from vna.dimse.callers import Caller
from vna.settings import Settings
from vna.site import RemoteServer, Site, UnknownCallers

_BY_PROVIDER = 2
TLS_HANDSHAKE = b"\x16"
"""The first byte of whoever begins with TLS (RFC 8446 5.1)."""
UNRECOGNISED_PDU, INVALID_PARAMETER = 1, 6
"""Reasons of an A-ABORT by the provider (PS3.8 table 9-26)."""


class Reason(StrEnum):
    """Why an association, or a connection that never became one, was turned away.

    With `no_store` and `no_retrieve` the association was accepted, and what its caller wanted on it was not.
    """

    called_aet = "called-aet"
    calling_aet = "calling-aet"
    address = "address"
    tls = "tls"
    tls_subject = "tls-subject"
    limit = "limit"
    address_limit = "address-limit"
    crowd = "crowd"
    silent = "silent"
    not_dicom = "not-dicom"
    version = "version"
    no_store = "no-store"
    no_retrieve = "no-retrieve"
    stopping = "stopping"
    failure = "failure"


@dataclass(frozen=True, slots=True)
class Refusal:
    """An A-ASSOCIATE-RJ: result, source and diagnostic (PS3.8 table 9-21), and why."""

    result: int
    source: int
    diagnostic: int
    reason: Reason
    sentence: str


def reject_pdu(refusal: Refusal) -> bytes:
    """A-ASSOCIATE-RJ (PS3.8 9.3.4)."""
    return struct.pack(">BBIBBBB", 3, 0, 4, 0, refusal.result, refusal.source, refusal.diagnostic)


def abort_pdu(reason: int) -> bytes:
    """A-ABORT by the service provider (PS3.8 9.3.8)."""
    return struct.pack(">BBIBBBB", 7, 0, 4, 0, 0, _BY_PROVIDER, reason)


def version_refused(version: int) -> Refusal | None:
    """Only bit 0 of the protocol version counts (PS3.8 table 9-11)."""
    if version & 1:
        return None
    return Refusal(1, 2, 2, Reason.version, f"it speaks version {version:#06x} of the upper layer protocol")


def not_a_request(begin: bytes | bytearray, kind: int, length: int) -> tuple[Reason, str]:
    """What to say of a connection whose first bytes are these and no A-ASSOCIATE-RQ."""
    if begin.startswith(TLS_HANDSHAKE + b"\3"):
        return Reason.tls, "it began with TLS; this is the plain port"
    what = f"a PDU of type {kind} and {length} bytes"
    return Reason.not_dicom, f"it began with {what}, not with an A-ASSOCIATE-RQ"


class NotTls(ssl.SSLError):
    """The first byte on the port for TLS was not one of TLS."""


def tls_sentence(error: ssl.SSLError) -> str:
    """What to say of a connection that agreed on no TLS."""
    if isinstance(error, NotTls):
        return "it did not use TLS; this is the port for TLS"
    return f"its TLS handshake failed: {(error.reason or 'no TLS').lower().replace('_', ' ')}"


@dataclass(frozen=True, slots=True)
class Knock:
    """Who asks for an association, as far as an A-ASSOCIATE-RQ and its connection say it."""

    calling_aet: str
    called_aet: str
    address: str
    tls_subject: str = ""
    by_tls: bool = False
    called_address: str = ""


@dataclass(frozen=True, slots=True)
class Rules:
    """The site's word on who may talk, as of one moment. `our_aets`: the first is the main one.

    `open_to_all`: every caller of our AE title may store and retrieve; only for a receiver that is no home's server.
    """

    our_aets: tuple[str, ...]
    remotes: tuple[RemoteServer, ...] = ()
    unknown_callers: UnknownCallers = UnknownCallers.refuse
    transfer_syntaxes: tuple[str, ...] = ()
    open_to_loopback: bool = False
    open_to_all: bool = False


def rules_of(settings: Settings, site: Site, *, open_to_loopback: bool) -> Rules:
    """The rules of a home as its settings and its site are now."""
    server = site.server
    others = tuple(aet for aet in server.other_aets if aet != settings.scp_aet)
    return Rules(
        our_aets=(settings.scp_aet, *others),
        remotes=tuple(site.remotes.values()),
        unknown_callers=server.unknown_callers,
        transfer_syntaxes=server.transfer_syntaxes,
        open_to_loopback=open_to_loopback,
    )


def admit(rules: Rules, knock: Knock) -> Caller | Refusal:
    """Who is admitted with what, or why not.

    Our own AE title on this machine may ask whether we are there, and nothing more: that is how our health is
    looked at.
    """
    if knock.called_aet not in rules.our_aets:
        ours = " and ".join(rules.our_aets)
        return _called_aet_unknown(f"it called {knock.called_aet or 'nobody'}, our AE title is {ours}")
    known = [remote for remote in rules.remotes if knock.calling_aet in aets_of(remote)]
    if rules.open_to_all or (rules.open_to_loopback and is_loopback(knock.address)):
        return _caller(rules, knock, next(iter(known), None), may_store=True, may_retrieve=True)
    if is_ourselves(rules, knock):
        return _caller(rules, knock, None, may_store=False, may_retrieve=False)
    if known:
        return _known(rules, knock, known)
    if rules.unknown_callers is UnknownCallers.store:
        return _caller(rules, knock, None, may_store=True, may_retrieve=False)
    return _calling_aet_refused(
        Reason.calling_aet, f"{knock.calling_aet or 'it'} is no AE title of a remote server of this site"
    )


def aets_of(remote: RemoteServer) -> tuple[str, ...]:
    """The AE titles a remote server calls with."""
    return (remote.aet, *remote.calling_aets)


def is_ourselves(rules: Rules, knock: Knock) -> bool:
    """Whether it is our own AE title calling on this machine: from the address it calls, where that is no loopback."""
    is_here = is_loopback(knock.address) or knock.address == knock.called_address
    return is_here and knock.calling_aet in rules.our_aets


def is_loopback(address: str) -> bool:
    """Whether the address is one of this machine to itself; IPv4 inside IPv6 counts as IPv4."""
    return _address(address).is_loopback


def _known(rules: Rules, knock: Knock, remotes: list[RemoteServer]) -> Caller | Refusal:
    """Several remote servers may share an AE title; the first that fits is the one, else the last tells why not."""
    refusal: Refusal | None = None
    for remote in remotes:
        refusal = _objection(remote, knock)
        if refusal is None:
            return _caller(rules, knock, remote, remote.may_store, remote.may_retrieve)
    assert refusal is not None  # noqa: S101  there was at least one
    return refusal


def _objection(remote: RemoteServer, knock: Knock) -> Refusal | None:
    name = remote.name
    if remote.called_aets and knock.called_aet not in remote.called_aets:
        return _called_aet_unknown(
            f"{name} may call {' or '.join(remote.called_aets)}, not {knock.called_aet}"
        )
    if remote.addresses and not _is_within(knock.address, remote.addresses):
        return _calling_aet_refused(
            Reason.address, f"{name} may call from {' or '.join(remote.addresses)}, not from {knock.address}"
        )
    if remote.tls_subject and not knock.by_tls:
        return _calling_aet_refused(Reason.tls, f"{name} must come by TLS")
    if remote.tls_subject and not subject_fits(remote.tls_subject, knock.tls_subject):
        return _calling_aet_refused(
            Reason.tls_subject,
            f"{name} must show a certificate of {remote.tls_subject}, it was {knock.tls_subject or 'without subject'}",
        )
    return None


def _caller(
    rules: Rules, knock: Knock, remote: RemoteServer | None, may_store: bool, may_retrieve: bool
) -> Caller:
    own = remote.transfer_syntaxes if remote is not None else ()
    return Caller(
        calling_aet=knock.calling_aet,
        called_aet=knock.called_aet,
        address=knock.address,
        tls_subject=knock.tls_subject,
        remote=remote,
        may_store=may_store,
        may_retrieve=may_retrieve,
        transfer_syntaxes=own or rules.transfer_syntaxes,
    )


def _called_aet_unknown(sentence: str) -> Refusal:
    return Refusal(1, 1, 7, Reason.called_aet, sentence)


def _calling_aet_refused(reason: Reason, sentence: str) -> Refusal:
    """The peer learns no more than that we do not know it."""
    return Refusal(1, 1, 3, reason, sentence)


# -- addresses and subjects


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _is_within(address: str, networks: Iterable[str]) -> bool:
    found = _address(address)
    return any(found in ipaddress.ip_network(network) for network in networks)


_SHORT_NAMES = {
    "commonName": "CN",
    "countryName": "C",
    "stateOrProvinceName": "ST",
    "localityName": "L",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "domainComponent": "DC",
    "userId": "UID",
}


def subject_text(subject: Iterable[Iterable[tuple[str, str]]]) -> str:
    """A certificate's subject as `ssl` gives it, written `CN=ct1, O=Clinic`, a comma in a value as `\\,`."""
    parts = [
        f"{_SHORT_NAMES.get(name, name)}={value.replace(chr(92), chr(92) * 2).replace(',', chr(92) + ',')}"
        for relative_name in subject
        for name, value in relative_name
    ]
    return ", ".join(parts)


def subject_fits(wanted: str, subject: str) -> bool:
    """Whether a certificate's subject is the wanted one: a common name, or all parts in whatever order.

    Without regard to case and to spaces around a part, as names are compared (RFC 5280 7.1).
    """
    have = sorted(_parts(subject))
    whole = sorted(_parts(wanted))
    if whole and all(name for name, _ in whole):
        return have == whole
    return [value for name, value in have if name == "cn"] == [wanted.strip().casefold()]


def _parts(subject: str) -> Iterator[tuple[str, str]]:
    for part in _split(subject):
        name, equals, value = part.partition("=")
        if equals:
            yield name.strip().casefold(), value.strip().casefold()
        else:
            yield "", part.strip().casefold()


def _split(subject: str) -> Iterator[str]:
    part, escaped = "", False
    for character in subject:
        if character == "," and not escaped:
            yield part
            part = ""
        elif character == "\\" and not escaped:
            escaped = True
            continue
        else:
            part += character
        escaped = False
    if part:
        yield part
