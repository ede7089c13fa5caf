"""C-FIND: one association, one query after the other, each answer decoded as it comes (PS3.4 C.4.1, PS3.7 9.1.2)."""

# The library is partly untyped.
# pyright: reportUnknownMemberType=false

import contextlib
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_primitives import C_FIND
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.presentation import build_context

from vna.dimse.associations import associate, exchange, next_message, send
from vna.dimse.commands import ProtocolViolation, command_number, decode_command
from vna.dimse.gate import pause
from vna.dimse.identifiers import decode_identifier, encode_identifier
from vna.dimse.node import OurNode
from vna.dimse.splitting import AnswersCut
from vna.errors import AnswerInvalid, QueryFailed, peers_words
from vna.site import RemoteServer

STUDY_ROOT_FIND = UID("1.2.840.10008.5.1.4.1.2.2.1")
_COMMAND, _DATA_SET_TYPE, _STATUS, _COMMENT = 0x0100, 0x0800, 0x0900, 0x0902
_FIND_RESPONSE = 0x8020
_NO_DATA_SET = 0x0101
_PENDING = frozenset({0xFF00, 0xFF01})
_OUT_OF_RESOURCES = 0xA700
_CANCELLED = 0xFE00
_WARNINGS = frozenset({0x0001, 0x0107, 0x0116})


@dataclass(frozen=True, slots=True)
class _Answer:
    """One C-FIND-RSP (PS3.7 9.3.2.2)."""

    command: int
    status: int
    comment: str
    identifier: bytes


class _Answers(DIMSEServiceProvider):
    """The library's message layer of one association, but for what it receives.

    The library makes an object of every element of every command, which takes as long as all the rest of a
    query; here the few that count are read from the bytes.
    """

    def __init__(self, association: Association) -> None:
        super().__init__(association)
        self._command, self._identifier = bytearray(), bytearray()
        self._is_closed = False

    def close(self) -> None:
        """Drop what still comes: an aborted association must not meet it."""
        self._is_closed = True
        self.msg_queue.queue.clear()

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Put a message together from its fragments (PS3.8 9.3.5.1 and E.2)."""
        if self._is_closed:
            return
        for context_id, fragment in primitive.presentation_data_value_list:
            is_command, is_last = fragment[0] & 1, fragment[0] & 2
            (self._command if is_command else self._identifier).extend(fragment[1:])
            if not is_last:
                continue
            try:
                fields = decode_command(self._command)
                if is_command and command_number(fields, _DATA_SET_TYPE) != _NO_DATA_SET:
                    continue
                answer = _Answer(
                    command=command_number(fields, _COMMAND),
                    status=command_number(fields, _STATUS),
                    comment=peers_words(fields.get(_COMMENT, b"").decode("ascii", "replace").rstrip("\0")),
                    identifier=bytes(self._identifier),
                )
            except ProtocolViolation:
                self.dul.event_queue.put("Evt19")  # an invalid PDU: the library ends the association
                return
            self._command.clear()
            self._identifier.clear()
            self.msg_queue.put((context_id, cast(Any, answer)))


class Query:
    """The queries of one association, in the Study Root model."""

    def __init__(self, remote: RemoteServer, node: OurNode, association: Association) -> None:
        self._remote, self._node, self._association = remote, node, association
        association.dimse = self._answers = _Answers(association)
        (self._context,) = association.accepted_contexts
        self._syntax: UID = self._context.transfer_syntax[0]
        self._asked = 0

    def ask(self, level: str, keys: Mapping[str, str]) -> Iterator[dict[str, str]]:
        """The answers to one query, keyword to text; to be taken to their end before the next.

        Raises `QueryFailed`, and `AnswersCut` after the last answer when the source says that there were more.
        """
        if self._asked:
            pause(self._remote)
        self._asked += 1
        request = C_FIND()
        request.MessageID = self._asked % 65535 + 1
        request.AffectedSOPClassUID = STUDY_ROOT_FIND
        request.Priority = 0
        request.Identifier = encode_identifier({"QueryRetrieveLevel": level, **keys}, self._syntax)
        answers = 0
        with exchange(self._association):
            send(self._association, request, self._context)
            while True:
                answer = self._next()
                if answer.status not in _PENDING:
                    break
                answers += 1
                yield self._decoded(answer.identifier)
        self._end(level, answer.status, answers, answer.comment)

    def close(self) -> None:
        """No more queries, and no answers to the last."""
        self._answers.close()

    def _next(self) -> _Answer:
        name, seconds = self._remote.name, self._node.dimse_timeout
        answer = next_message(self._association, name, "C-FIND", seconds)
        if answer.command != _FIND_RESPONSE:
            raise AnswerInvalid(name, "something else than an answer to C-FIND")
        return answer

    def _decoded(self, identifier: bytes) -> dict[str, str]:
        if not identifier:
            raise AnswerInvalid(self._remote.name, "an answer to C-FIND without an identifier")
        try:
            return decode_identifier(identifier, self._syntax)
        except ValueError as error:
            raise AnswerInvalid(self._remote.name, str(error)) from error

    def _end(self, level: str, status: int, answers: int, comment: str) -> None:
        if status == 0:
            return
        # we never cancel; and some sources call it a lack of resources when they have sent all they want to
        if status == _CANCELLED or status in _WARNINGS or status >> 12 == 0xB:
            raise AnswersCut
        if status == _OUT_OF_RESOURCES and answers:
            raise AnswersCut
        raise QueryFailed(self._remote.name, level, status, comment)


@contextlib.contextmanager
def querying(remote: RemoteServer, node: OurNode) -> Generator[Query]:
    """An association for C-FIND; raises what `associate` raises."""
    context = build_context(STUDY_ROOT_FIND, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    with associate(remote, node, [context], during="C-FIND (Study Root)") as association:
        query = Query(remote, node, association)
        try:
            yield query
        finally:
            query.close()
