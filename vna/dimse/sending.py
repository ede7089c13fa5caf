"""Instances sent to a remote server over associations of our own: C-MOVE sub-operations and forwarding.

The library negotiates; then its connection is borrowed (`borrowing`) and each instance goes over it (`channel`).
"""

import contextlib
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from pynetdicom.presentation import build_context

from vna.dimse.associations import associate
from vna.dimse.borrowing import PeerBroke, PeerGone, PeerSilent, borrowed
from vna.dimse.channel import Channel, MoveOriginator, Pair, Sent, StoreOutcome, not_accepted, store_each
from vna.dimse.index import HeldInstance
from vna.dimse.node import OurNode
from vna.dimse.outgoing import Outgoing, Working
from vna.errors import (
    AnswerInvalid,
    AssociationAborted,
    NoGoodCopy,
    PeerError,
    PeerTimeout,
    ServiceNotAccepted,
)
from vna.identity import is_valid_uid
from vna.site import RemoteServer

MOST_CONTEXTS = 128
"""Presentation contexts of one association (PS3.8 9.3.2.2)."""

_LOOK_AHEAD = 200
_MOST_LOSSES = 3
_PAUSE_SECONDS = 1.0
_DURING = "C-STORE"


class _Lost(Exception):
    """The association ended before the peer had answered."""

    def __init__(self, error: PeerError) -> None:
        self.error = error


@contextlib.contextmanager
def sending(remote: RemoteServer, node: OurNode) -> Generator["Destination"]:
    """A place to store to; its associations are opened when needed, released at the end, aborted on an error."""
    destination = Destination(remote, node)
    try:
        yield destination
    except BaseException:
        destination.abort()
        raise
    else:
        destination.release()


@dataclass(frozen=True, slots=True)
class _Tried:
    """An instance sent to a destination; `lost` where the association ended before it was all sent."""

    outgoing: Outgoing
    originator: MoveOriginator | None
    sent: Sent | None
    lost: PeerError | None


class Destination:
    """A remote server that instances are stored to, by one thread.

    It has one presentation context for each SOP class and transfer syntax that is to be sent, at most 128 on one
    association. An association that ends is opened anew and the instance under way sent again: nobody knows
    what became of it, and a receiver must take it twice (field note 26).
    """

    def __init__(self, remote: RemoteServer, node: OurNode) -> None:
        self._remote, self._node = remote, node
        self._known: list[Pair] = []
        self._proposed: frozenset[Pair] = frozenset()
        self._refused: set[Pair] = set()
        self._channel: Channel | None = None
        self._open = contextlib.ExitStack()
        self._losses = 0
        self.gave_up: PeerError | None = None
        """Why nothing more is sent: it cannot be reached, or its associations end again and again."""

    def store(
        self,
        instance: HeldInstance,
        *,
        move_originator: MoveOriginator | None = None,
        working: Working = lambda: None,
    ) -> StoreOutcome:
        """Store one instance."""
        return next(self.store_each([instance], move_originator=move_originator, working=working))[1]

    def store_each(
        self,
        instances: Iterable[HeldInstance],
        *,
        move_originator: MoveOriginator | None = None,
        working: Working = lambda: None,
    ) -> Iterator[tuple[HeldInstance, StoreOutcome]]:
        """Store all, telling each outcome; never raises for what the peer does. `working` is called about each second.

        Some hundred instances are looked at ahead, so that their contexts are on one association.
        """
        rest = iter(instances)
        while some := list(islice(rest, _LOOK_AHEAD)):
            known = set(self._known)
            for instance in some:
                pair = instance.sop_class_uid, instance.transfer_syntax_uid
                if pair not in known:
                    known.add(pair)
                    self._known.append(pair)
            yield from store_each(self, some, move_originator, working)

    def release(self) -> None:
        """End the open association properly."""
        self._channel, self._proposed = None, frozenset()
        with contextlib.suppress(PeerGone):
            self._open.close()

    def abort(self) -> None:
        """End it at once."""
        self._drop(PeerGone("ended"))

    # -- one instance, for `store_each`

    def begin(
        self, outgoing: Outgoing, originator: MoveOriginator | None, working: Working
    ) -> _Tried | StoreOutcome:
        """Send it, on an association that has its context."""
        instance = outgoing.instance
        pair = instance.sop_class_uid, instance.transfer_syntax_uid
        if self.gave_up is not None:
            return StoreOutcome(None, self.gave_up)
        try:
            channel = self._channel_for(pair, working)
        except PeerError as error:
            self.gave_up = error
            return StoreOutcome(None, error)
        if channel is None:
            return StoreOutcome(None, not_accepted(self._remote.name, instance))
        try:
            sent = channel.begin(outgoing, originator, working)
        except PeerGone as gone:
            return _Tried(outgoing, originator, None, self._drop(gone))
        if isinstance(sent, StoreOutcome):
            if isinstance(sent.error, NoGoodCopy):
                self._drop(PeerGone("ended"))  # it was cut in the middle
            return sent
        return _Tried(outgoing, originator, sent, None)

    def finish(self, sent: _Tried, working: Working) -> StoreOutcome:
        """Its outcome, at the second try if the association ended during the first."""
        try:
            try:
                outcome = self._answer(sent, working)
            except _Lost as lost:
                if isinstance(lost.error, PeerTimeout):
                    raise
                again = self.begin(sent.outgoing, sent.originator, working)
                outcome = again if isinstance(again, StoreOutcome) else self._answer(again, working)
        except _Lost as lost:
            self._losses += 1
            if self._losses >= _MOST_LOSSES:
                self.gave_up = lost.error
            return StoreOutcome(None, lost.error)
        if outcome.status is not None:
            self._losses = 0
        return outcome

    def _answer(self, tried: _Tried, working: Working) -> StoreOutcome:
        if tried.lost is not None:
            raise _Lost(tried.lost)
        if self._channel is None or tried.sent is None:
            raise _Lost(AssociationAborted(self._remote.name, _DURING))
        try:
            return self._channel.finish(tried.sent, working)
        except PeerGone as gone:
            raise _Lost(self._drop(gone)) from gone

    # -- associations

    def _channel_for(self, pair: Pair, working: Working) -> Channel | None:
        """The association that has a context for it; None where the peer accepts none. Raises `PeerError`."""
        if pair in self._refused or not all(is_valid_uid(uid) for uid in pair):
            return None
        if pair not in self._proposed:
            self.release()
            at = self._known.index(pair) // MOST_CONTEXTS * MOST_CONTEXTS
            group = self._known[at : at + MOST_CONTEXTS]
            wanted = [one for one in group if all(is_valid_uid(uid) for uid in one)]
            try:
                self._connect_patiently(wanted, working)
            except ServiceNotAccepted:
                self._refused |= set(wanted)
        return None if pair in self._refused else self._channel

    def _connect_patiently(self, wanted: list[Pair], working: Working) -> None:
        """At the second try where it may help, such as when our last association has only just ended there."""
        try:
            self._connect(wanted)
        except PeerError as error:
            if not error.transient:
                raise
            working()
            time.sleep(_PAUSE_SECONDS)
            self._connect(wanted)

    def _connect(self, wanted: list[Pair]) -> None:
        contexts = [build_context(sop_class, [syntax]) for sop_class, syntax in wanted]
        opening = contextlib.ExitStack()
        with opening:
            association = opening.enter_context(associate(self._remote, self._node, contexts, during=_DURING))
            accepted = {
                (str(context.abstract_syntax), str(context.transfer_syntax[0])): int(context.context_id or 0)
                for context in association.accepted_contexts
            }
            try:
                connection = opening.enter_context(borrowed(association))
            except PeerGone as gone:
                raise self._error(gone) from gone
            self._channel = Channel(connection, self._remote.name, accepted, self._node.dimse_timeout)
            self._open = opening.pop_all()
        self._proposed = frozenset(wanted)
        self._refused |= self._proposed - accepted.keys()

    def _drop(self, gone: PeerGone) -> PeerError:
        """Leave an association that ended or must end; says why in the words of an error."""
        self._channel, self._proposed = None, frozenset()
        with contextlib.suppress(PeerGone), self._open:
            raise gone
        return self._error(gone)

    def _error(self, gone: PeerGone) -> PeerError:
        if isinstance(gone, PeerSilent):
            return PeerTimeout(self._remote.name, _DURING, self._node.dimse_timeout)
        if isinstance(gone, PeerBroke):
            return AnswerInvalid(self._remote.name, str(gone))
        return AssociationAborted(self._remote.name, _DURING)
