"""C-STORE as SCU over one connection (PS3.7 9.1.1): stored bytes go from the file to the socket as they are.

Used over associations of our own (`sending`) and over the one a C-GET came on. While the peer works on one instance
the next is read and digested. An answer that never comes, or says nothing, is no success.
"""

import struct
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from vna.dimse.borrowing import Connection, Message, PeerBroke
from vna.dimse.index import HeldInstance
from vna.dimse.outgoing import CopyChanged, Outgoing, Working, new_buffer, prepare
from vna.errors import AnswerInvalid, BackupError, InstanceRefused, NoGoodCopy, SyntaxNotAccepted, peers_words

Pair = tuple[str, str]
"""SOP Class UID and Transfer Syntax UID."""
MoveOriginator = tuple[str, int]
"""AE title that asked for the C-MOVE, and the Message ID it used (PS3.7 9.1.1.1)."""

_C_STORE_RQ, _C_STORE_RSP, C_CANCEL_RQ = 0x0001, 0x8001, 0x0FFF
_SUCCESS = 0x0000
_WITH_DATA_SET, _NO_DATA_SET = 0x0001, 0x0101
_LONGEST_COMMENT = 64  # of an LO value
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class StoreOutcome:
    """What became of one instance: the peer's status, None where it was not sent or nothing is known.

    `error` says why it is not stored there for sure; None for success and for a warning (PS3.4 B.2.3).
    """

    status: int | None
    error: BackupError | None = None

    @property
    def sentence(self) -> str:
        """For an operator; empty where all is well."""
        return "" if self.error is None else str(self.error)


def encode_command(elements: Iterable[tuple[int, bytes]]) -> bytes:
    """A command set (PS3.7 6.3.1) from elements in ascending order, padded already, with its group length."""
    body = b"".join(struct.pack("<HHI", 0, element, len(value)) + value for element, value in elements)
    return struct.pack("<HHII", 0, 0, 4, len(body)) + body


def number_value(number: int) -> bytes:
    """The value of a US element."""
    return struct.pack("<H", number)


def text_value(text: str, padding: bytes = b" ") -> bytes:
    """The value of a text element; UIDs are padded with a null."""
    value = text.encode("utf-8", "surrogateescape")
    return value + padding * (len(value) % 2)


def encode_response(
    command_field: int,
    sop_class_uid: str,
    message_id: int,
    status: int,
    *,
    with_data_set: bool,
    comment: str = "",
    counts: Iterable[tuple[int, bytes]] = (),
) -> bytes:
    """The command set of a C-FIND, C-GET or C-MOVE response (PS3.7 tables 9.3-4, 9.3-8, 9.3-11).

    `comment` is cut to what an error comment may hold; `counts` = elements of sub-operations, of those that have any.
    """
    return encode_command(
        [
            (0x0002, text_value(sop_class_uid, b"\0")),
            (0x0100, number_value(command_field)),
            (0x0120, number_value(message_id)),
            (0x0800, number_value(_WITH_DATA_SET if with_data_set else _NO_DATA_SET)),
            (0x0900, number_value(status)),
            *([(0x0902, text_value(comment[:_LONGEST_COMMENT]))] if comment else []),
            *counts,
        ]
    )


@dataclass(frozen=True, slots=True)
class Sent:
    """A request on its way: its answer comes under this Message ID."""

    outgoing: Outgoing
    message_id: int


class Channel:
    """C-STORE over one borrowed connection; `contexts` are those over which we may store.

    `cancelled` is told the Message ID of a C-CANCEL that comes instead of an answer.
    """

    def __init__(
        self,
        connection: Connection,
        name: str,
        contexts: Mapping[Pair, int],
        answer_seconds: float,
        cancelled: Callable[[int | None], None] = lambda _: None,
    ) -> None:
        self._connection, self._name, self._contexts = connection, name, contexts
        self._seconds, self._cancelled = answer_seconds, cancelled
        self._last_id = 0

    def begin(
        self, outgoing: Outgoing, originator: MoveOriginator | None, working: Working
    ) -> "Sent | StoreOutcome":
        """Send the request; the outcome at once where it cannot be sent. Raises `PeerGone`."""
        instance = outgoing.instance
        context_id = self._contexts.get((instance.sop_class_uid, instance.transfer_syntax_uid))
        if context_id is None:
            return StoreOutcome(None, not_accepted(self._name, instance))
        self._last_id = self._last_id % 65535 + 1
        connection = self._connection
        pieces = [
            *connection.pdus(context_id, _store_request(instance, self._last_id, originator), is_command=True)
        ]
        try:
            for part, is_last in outgoing.parts(connection.fragment_size):
                pieces += connection.pdus(context_id, part, is_command=False, is_last=is_last)
                connection.send(pieces)
                pieces = []
                if not is_last:
                    working()
        except CopyChanged:
            connection.cut()  # half a message was sent
            return StoreOutcome(None, NoGoodCopy(instance.sop_instance_uid, 1))
        return Sent(outgoing, self._last_id)

    def finish(self, sent: Sent, working: Working) -> StoreOutcome:
        """Wait for the answer. Raises `PeerGone`."""
        while True:
            answer = self._connection.receive(self._seconds, working)
            command = answer.number(0x0100)
            if command == C_CANCEL_RQ:
                self._cancelled(answer.number(0x0120))
            elif command == _C_STORE_RSP and answer.number(0x0120) == sent.message_id:
                return self._judge(sent.outgoing.instance, answer)
            else:
                raise self._broke("something else than an answer to C-STORE")

    def _broke(self, what: str) -> PeerBroke:
        """What nobody answers the peer waits for: it is told by the end of the connection."""
        self._connection.cut()
        return PeerBroke(what)

    def _judge(self, instance: HeldInstance, answer: Message) -> StoreOutcome:
        status, uid = answer.number(0x0900), answer.text(0x1000)
        if status is None:
            raise self._broke("an answer to C-STORE without status")
        if uid and uid != instance.sop_instance_uid:
            error = AnswerInvalid(
                self._name, f"an answer for another instance than {instance.sop_instance_uid}"
            )
            return StoreOutcome(None, error)
        if status == _SUCCESS or _is_warning(status):
            return StoreOutcome(status)
        comment = peers_words(answer.text(0x0902))
        return StoreOutcome(status, InstanceRefused(self._name, instance.sop_instance_uid, status, comment))


def _is_warning(status: int) -> bool:
    """Stored, with a reserve (PS3.4 table B.2-1; PS3.7 annex C for the other two)."""
    return status >> 12 == 0xB or status in {0x0001, 0x0107, 0x0116}


def _store_request(instance: HeldInstance, message_id: int, originator: MoveOriginator | None) -> bytes:
    """PS3.7 table 9.3-1."""
    elements = [
        (0x0002, text_value(instance.sop_class_uid, b"\0")),
        (0x0100, number_value(_C_STORE_RQ)),
        (0x0110, number_value(message_id)),
        (0x0700, number_value(0)),
        (0x0800, number_value(1)),
        (0x1000, text_value(instance.sop_instance_uid, b"\0")),
    ]
    if originator is not None:
        elements += [(0x1030, text_value(originator[0])), (0x1031, number_value(originator[1]))]
    return encode_command(elements)


def not_accepted(name: str, instance: HeldInstance) -> SyntaxNotAccepted:
    """Why an instance is not sent: no context for it."""
    return SyntaxNotAccepted(
        name, instance.sop_instance_uid, instance.sop_class_uid, instance.transfer_syntax_uid
    )


class _Carrier(Protocol[_T]):
    def begin(
        self, outgoing: Outgoing, originator: MoveOriginator | None, working: Working
    ) -> _T | StoreOutcome: ...

    def finish(self, sent: _T, working: Working) -> StoreOutcome: ...


def store_each(
    carrier: _Carrier[_T],
    instances: Iterable[HeldInstance],
    originator: MoveOriginator | None,
    working: Working,
) -> Generator[tuple[HeldInstance, StoreOutcome]]:
    """Store one after the other, telling each outcome; the next is prepared while the peer works on this one.

    Nothing is under way while an outcome is told, so the caller may stop there.
    """
    buffers = new_buffer(), new_buffer()
    under_way: tuple[HeldInstance, _T | StoreOutcome] | None = None
    for number, instance in enumerate(instances):
        try:
            outgoing: Outgoing | StoreOutcome = prepare(instance, buffers[number % 2], working)
        except NoGoodCopy as error:
            outgoing = StoreOutcome(None, error)
        if under_way is not None:
            yield under_way[0], _finished(carrier, under_way[1], working)
        if isinstance(outgoing, StoreOutcome):
            under_way = instance, outgoing
        else:
            under_way = instance, carrier.begin(outgoing, originator, working)
    if under_way is not None:
        yield under_way[0], _finished(carrier, under_way[1], working)


def _finished(carrier: _Carrier[_T], sent: _T | StoreOutcome, working: Working) -> StoreOutcome:
    return sent if isinstance(sent, StoreOutcome) else carrier.finish(sent, working)
