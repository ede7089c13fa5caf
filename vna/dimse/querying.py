"""C-FIND: one association, one query after the other, each answer decoded as it comes (PS3.4 C.4.1, PS3.7 9.1.2)."""

# The library is partly untyped.
# pyright: reportUnknownMemberType=false

import contextlib
from collections.abc import Generator, Iterator, Mapping
from io import BytesIO
from typing import cast

from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_FIND
from pynetdicom.presentation import build_context

from vna.dimse.associations import associate, exchange, next_message, send
from vna.dimse.gate import SourceGate
from vna.dimse.identifiers import decode_identifier, encode_identifier
from vna.dimse.node import OurNode
from vna.dimse.splitting import AnswersCut
from vna.errors import AnswerInvalid, QueryFailed
from vna.site import RemoteServer

STUDY_ROOT_FIND = UID("1.2.840.10008.5.1.4.1.2.2.1")
_PENDING = frozenset({0xFF00, 0xFF01})
_OUT_OF_RESOURCES = 0xA700
_CANCELLED = 0xFE00
_WARNINGS = frozenset({0x0001, 0x0107, 0x0116})


class Query:
    """The queries of one association, in the Study Root model."""

    def __init__(self, remote: RemoteServer, node: OurNode, association: Association) -> None:
        self._remote, self._node, self._association = remote, node, association
        (self._context,) = association.accepted_contexts
        self._syntax: UID = self._context.transfer_syntax[0]
        self._gate = SourceGate(remote)
        self._asked = 0

    def ask(self, level: str, keys: Mapping[str, str]) -> Iterator[dict[str, str]]:
        """The answers to one query, keyword to text; to be taken to their end before the next.

        Raises `QueryFailed`, and `AnswersCut` after the last answer when the source says that there were more.
        """
        if self._asked:
            self._gate.pause()
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
                status = cast(int, answer.Status)
                if status not in _PENDING:
                    break
                answers += 1
                yield self._decoded(answer.Identifier)
        self._end(level, status, answers, str(answer.ErrorComment or ""))

    def _next(self) -> C_FIND:
        name, seconds = self._remote.name, self._node.dimse_timeout
        answer = next_message(self._association, name, "C-FIND", seconds)
        if not isinstance(answer, C_FIND) or answer.Status is None:
            raise AnswerInvalid(name, "something else than an answer to C-FIND")
        return answer

    def _decoded(self, identifier: BytesIO | None) -> dict[str, str]:
        if identifier is None:
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
        yield Query(remote, node, association)
