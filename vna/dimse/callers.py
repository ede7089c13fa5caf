"""Who is at the other end of an association we accepted, for the services that answer on it."""

from dataclasses import dataclass
from weakref import WeakKeyDictionary

from pynetdicom.association import Association

from vna.site import RemoteServer


@dataclass(frozen=True, slots=True)
class Caller:
    """A peer as it was admitted; `remote` is None where it is no remote server of the site.

    `tls_subject` is its certificate's, as `CN=ct1, O=Clinic`; empty without TLS. `transfer_syntaxes` are those
    accepted for storage, the best first; empty = every one.
    """

    calling_aet: str
    called_aet: str
    address: str
    tls_subject: str = ""
    remote: RemoteServer | None = None
    may_store: bool = True
    may_retrieve: bool = True
    transfer_syntaxes: tuple[str, ...] = ()


_callers: "WeakKeyDictionary[Association, Caller]" = WeakKeyDictionary()


def remember_caller(association: Association, caller: Caller) -> None:
    """Say who calls; done by the receiver when it admits an association."""
    _callers[association] = caller


def caller_of(association: Association) -> Caller:
    """Who calls on an association we accepted; raises `KeyError` for any other."""
    return _callers[association]
