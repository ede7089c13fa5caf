"""The C-MOVE and C-GET services (PS3.4 C.4.2 and C.4.3): stored bytes are sent as they are, or not at all."""

import contextlib
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from vna.simulated_pacs.answering import Answers, QueryRefused
from vna.simulated_pacs.channel import (
    AFFECTED_SOP_CLASS,
    AFFECTED_SOP_INSTANCE,
    C_CANCEL_RQ,
    C_STORE_RQ,
    COMMAND_FIELD,
    COMPLETED,
    FAILED,
    MESSAGE_ID,
    MOVE_DESTINATION,
    ORIGINATOR_AET,
    ORIGINATOR_ID,
    PRIORITY,
    REMAINING,
    RESPONDED_TO,
    STATUS,
    WARNING,
    Channel,
    Context,
    Message,
    PeerGone,
)
from vna.simulated_pacs.elements import Encoding, write_elements
from vna.simulated_pacs.faults import Faults
from vna.simulated_pacs.folder import Stored
from vna.simulated_pacs.misbehaving import Misbehaviour
from vna.simulated_pacs.negotiation import request as request_association
from vna.simulated_pacs.pace import Counters, Pace
from vna.simulated_pacs.querying import CANCELLED, PENDING, SUCCESS, is_cancelled, read_query, response_to

_UNKNOWN_DESTINATION, _UNABLE, _SOME_FAILED = 0xA801, 0xA702, 0xB000
_FAILED_UIDS = 0x00080058
_MOST_CONTEXTS = 128
_CONNECT_SECONDS, _STORE_SECONDS = 10.0, 120.0
_NO_UID_LIST_BEYOND = 60000  # of a value's 65534 bytes in explicit VR

Connected = Callable[[socket.socket], contextlib.AbstractContextManager[object]]


class Cancelled(Exception):
    """The peer took the retrieve back."""


class Sender(ABC):
    """Performs storage sub-operations; `send` returns the C-STORE status, None where it could not be sent."""

    @abstractmethod
    def send(self, stored: Stored, request: Message) -> int | None: ...

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    def abort(self) -> None: ...


def _store(
    channel: Channel, stored: Stored, extra: Mapping[int, int | str], counters: Counters
) -> int | None:
    """Send the request of one sub-operation; returns its message ID, None without a fitting context."""
    wanted = Context(stored.sop_class_uid, stored.transfer_syntax_uid, we_may_send=True)
    context_id = next((number for number, context in channel.contexts.items() if context == wanted), None)
    if context_id is None:
        return None
    message_id = channel.next_message_id()
    command: dict[int, int | str] = {
        AFFECTED_SOP_CLASS: stored.sop_class_uid,
        COMMAND_FIELD: C_STORE_RQ,
        MESSAGE_ID: message_id,
        PRIORITY: 0,
        AFFECTED_SOP_INSTANCE: stored.sop_instance_uid,
        **extra,
    }
    channel.send_file(context_id, command, stored.path, stored.offset)
    counters.count_sent(stored.sop_instance_uid)
    return message_id


def _answered(answer: Message, stored: Stored, counters: Counters) -> int:
    status = answer.number(STATUS)
    if status == SUCCESS:
        counters.count_acknowledged(stored.sop_instance_uid)
    return status


class GetSender(Sender):
    """Sends over the association of the C-GET itself, where the requester is an SCP (PS3.7 D.3.3.4)."""

    def __init__(self, channel: Channel, counters: Counters) -> None:
        self._channel, self._counters = channel, counters

    def send(self, stored: Stored, request: Message) -> int | None:
        message_id = _store(self._channel, stored, {}, self._counters)
        if message_id is None:
            return None
        cancelled = False
        while True:
            answer = self._channel.receive()
            if answer.number(COMMAND_FIELD) == C_CANCEL_RQ:
                cancelled = cancelled or answer.number(RESPONDED_TO) == request.number(MESSAGE_ID)
            elif answer.number(RESPONDED_TO) == message_id:
                status = _answered(answer, stored, self._counters)
                if cancelled:
                    raise Cancelled
                return status

    def close(self) -> None:
        """The association is the requester's to end."""

    def abort(self) -> None:
        """Nothing but the requester's association is open."""


class MoveSender(Sender):
    """Sends over associations to the move destination, opened for at most 128 contexts at a time."""

    def __init__(
        self,
        aet: str,
        destination: tuple[str, tuple[str, int]],
        wanted: Sequence[Stored],
        counters: Counters,
        connected: Connected,
    ) -> None:
        self._aet, self._counters = aet, counters
        self._destination, self._address = destination
        self._proposals = _proposals(wanted)
        self._proposed: frozenset[tuple[str, str]] = frozenset()
        self._channel: Channel | None = None
        self._open = contextlib.ExitStack()
        self._connected = connected
        self._given_up = False

    def send(self, stored: Stored, request: Message) -> int | None:
        if self._given_up:
            return None
        try:
            channel = self._channel_for(stored)
            extra: dict[int, int | str] = {
                ORIGINATOR_AET: self._aet,
                ORIGINATOR_ID: request.number(MESSAGE_ID),
            }
            message_id = _store(channel, stored, extra, self._counters)
            if message_id is None:
                return None
            return _answered(channel.receive(), stored, self._counters)
        except PeerGone:
            self._given_up = True
            self.abort()
            return None

    def _channel_for(self, stored: Stored) -> Channel:
        pair = (stored.sop_class_uid, stored.transfer_syntax_uid)
        if self._channel is None or pair not in self._proposed:
            self.close()
            self._proposed = self._proposals[pair]
            try:
                connection = socket.create_connection(self._address, _CONNECT_SECONDS)
            except OSError as error:
                raise PeerGone from error
            self._open.enter_context(self._connected(connection))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.settimeout(_STORE_SECONDS)
            self._channel = request_association(
                connection, self._aet, self._destination, sorted(self._proposed)
            )
        return self._channel

    def close(self) -> None:
        if self._channel is not None:
            self._channel.release()
            self._channel = None
        self._open.close()

    def abort(self) -> None:
        if self._channel is not None:
            self._channel.abort()
            self._channel = None
        self._open.close()


def _proposals(wanted: Sequence[Stored]) -> dict[tuple[str, str], frozenset[tuple[str, str]]]:
    """For each pair of SOP class and transfer syntax, all that are proposed together with it."""
    pairs = list(dict.fromkeys((one.sop_class_uid, one.transfer_syntax_uid) for one in wanted))
    groups = [frozenset(pairs[at : at + _MOST_CONTEXTS]) for at in range(0, len(pairs), _MOST_CONTEXTS)]
    return {pair: group for group in groups for pair in group}


@dataclass(slots=True)
class _Tally:
    """The counts of one retrieve, as its responses tell them (PS3.7 9.1.4.1)."""

    total: int
    completed: int = 0
    warned: int = 0
    failed: list[str] = field(default_factory=list[str])

    def count(self, stored: Stored, status: int | None) -> None:
        if status == SUCCESS:
            self.completed += 1
        elif status is not None and status >> 12 == 0xB:
            self.warned += 1
        else:
            self.failed.append(stored.sop_instance_uid)

    def numbers(self, faults: Faults, *, remaining: bool) -> dict[int, int | str]:
        if "missing-counts" in faults:
            return {}
        done = self.completed + self.warned + len(self.failed)
        numbers = {
            **({REMAINING: max(self.total - done, 0)} if remaining else {}),
            COMPLETED: self.completed,
            FAILED: len(self.failed),
            WARNING: self.warned,
        }
        wrong = "wrong-counts" in faults
        return {tag: min(number * 2 + 1 if wrong else number, 0xFFFF) for tag, number in numbers.items()}


class Retrieving:
    """Serves the retrieves of a simulated PACS."""

    def __init__(
        self,
        aet: str,
        answers: Answers,
        misbehaviour: Misbehaviour,
        destinations: Mapping[str, tuple[str, int]],
        counters: Counters,
        pace: Pace,
        connected: Connected,
    ) -> None:
        self._aet, self._answers, self._misbehaviour = aet, answers, misbehaviour
        self._faults = misbehaviour.faults
        self._destinations, self._counters, self._pace = destinations, counters, pace
        self._connected = connected

    def serve_move(self, channel: Channel, request: Message) -> None:
        """Answer one C-MOVE request; raises `PeerGone`."""
        destination = request.text(MOVE_DESTINATION)
        address = self._destinations.get(destination)
        if "unknown-destination" in self._faults:
            if self._faults.text("unknown-destination") == "silence":
                return
            address = None
        if address is None:
            status = self._faults.status("unknown-destination", _UNKNOWN_DESTINATION)
            self._pace.wait()
            channel.send(request.context_id, response_to(request, status, "Move Destination unknown"))
            return
        self._serve(
            channel,
            request,
            lambda wanted: MoveSender(
                self._aet, (destination, address), wanted, self._counters, self._connected
            ),
        )

    def serve_get(self, channel: Channel, request: Message) -> None:
        """Answer one C-GET request; raises `PeerGone`."""
        self._serve(channel, request, lambda _: GetSender(channel, self._counters))

    def _serve(
        self, channel: Channel, request: Message, sender_for: Callable[[Sequence[Stored]], Sender]
    ) -> None:
        try:
            wanted = self._answers.wanted(read_query(channel, request))
        except QueryRefused as refused:
            self._pace.wait()
            channel.send(request.context_id, response_to(request, refused.status, refused.comment))
            return
        plan = self._misbehaviour.plan(wanted)
        tally = _Tally(len(wanted), completed=len(wanted) - len(plan))
        sender = sender_for(plan)
        try:
            self._perform(channel, request, plan, sender, tally)
        except Cancelled:
            sender.close()
            numbers = tally.numbers(self._faults, remaining=True)
            self._respond(channel, request, {**response_to(request, CANCELLED), **numbers}, tally)
            return
        except PeerGone:
            sender.abort()
            raise
        sender.close()
        self._misbehaviour.after_retrieve(plan)
        status = SUCCESS if not tally.failed else _SOME_FAILED if tally.completed or tally.warned else _UNABLE
        self._pace.wait()
        numbers = tally.numbers(self._faults, remaining=False)
        self._respond(channel, request, {**response_to(request, status), **numbers}, tally)

    def _perform(
        self, channel: Channel, request: Message, plan: Sequence[Stored], sender: Sender, tally: _Tally
    ) -> None:
        grown: set[str] = set()
        for done, stored in enumerate(plan):
            self._drop_if_due(channel, done)
            self._pace.wait()
            if is_cancelled(channel, request):
                raise Cancelled
            status = None
            if not self._misbehaviour.refuses_this_one():
                status = self._send(sender, stored, request)
            tally.count(stored, status)
            self._misbehaviour.after_suboperation()
            if stored.study_instance_uid not in grown:
                grown.add(stored.study_instance_uid)
                self._misbehaviour.grow(stored.study_instance_uid)
            pending = {**response_to(request, PENDING), **tally.numbers(self._faults, remaining=True)}
            channel.send(request.context_id, pending)
        self._drop_if_due(channel, len(plan))

    def _send(self, sender: Sender, stored: Stored, request: Message) -> int | None:
        try:
            return sender.send(stored, request)
        except OSError:  # the file went away or cannot be read
            return None

    def _drop_if_due(self, channel: Channel, done: int) -> None:
        if self._misbehaviour.drops_now(done):
            channel.abort()
            raise PeerGone

    def _respond(
        self, channel: Channel, request: Message, command: Mapping[int, int | str], tally: _Tally
    ) -> None:
        identifier = b""
        if tally.failed:
            encoding = Encoding.of(channel.contexts[request.context_id].transfer_syntax)
            uids = "\\".join(_that_fit(tally.failed)).encode("ascii", "replace")
            identifier = write_elements([(_FAILED_UIDS, "UI", uids)], encoding)
        channel.send(request.context_id, command, identifier)


def _that_fit(uids: Sequence[str]) -> Iterator[str]:
    size = 0
    for uid in uids:
        size += len(uid) + 1
        if size > _NO_UID_LIST_BEYOND:
            return
        yield uid
