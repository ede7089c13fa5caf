"""C-ECHO: does the peer answer, and how quickly (PS3.4 A, PS3.7 9.1.5)."""

import time
from dataclasses import dataclass

from pydicom.uid import UID
from pynetdicom.dimse_primitives import C_ECHO
from pynetdicom.presentation import build_context

from vna.dimse.associations import associate, exchange, next_message, send
from vna.dimse.node import OurNode
from vna.errors import AnswerInvalid
from vna.site import RemoteServer

VERIFICATION = UID("1.2.840.10008.1.1")


@dataclass(frozen=True, slots=True)
class EchoAnswer:
    """`seconds` from opening the connection to the answer."""

    seconds: float


def echo(remote: RemoteServer, node: OurNode) -> EchoAnswer:
    """Verify that the peer knows us and answers; raises the `PeerError` that says what is in the way."""
    begun = time.monotonic()
    with associate(remote, node, [build_context(VERIFICATION)], during="C-ECHO") as association:
        request = C_ECHO()
        request.MessageID = 1
        request.AffectedSOPClassUID = VERIFICATION
        (context,) = association.accepted_contexts
        with exchange(association):
            send(association, request, context)
            answer = next_message(association, remote.name, "C-ECHO", node.dimse_timeout)
        if not isinstance(answer, C_ECHO) or answer.Status is None:
            raise AnswerInvalid(remote.name, "something else than an answer to C-ECHO")
        if answer.Status != 0:
            raise AnswerInvalid(remote.name, f"C-ECHO status 0x{answer.Status:04X}")
        return EchoAnswer(time.monotonic() - begun)
