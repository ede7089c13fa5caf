"""C-STORE as SCP (PS3.7 9.1.1): fragments become messages, data sets go to the spool as they come, and the
answer tells what is durable there.

Used by the receiver and by C-GET, under our own P-DATA loop and under the library's alike. Commands other than
C-STORE requests are passed on to the library.
"""

import logging
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from vna.dimse.commands import ProtocolViolation, command_number, decode_command
from vna.errors import DiskFull, StoreError
from vna.identity import Receipt
from vna.spool import InstanceWriter, OpenAssociation

_log = logging.getLogger(__name__)

SUCCESS = 0x0000
PROCESSING_FAILURE = 0x0110
SOP_CLASS_NOT_SUPPORTED = 0x0122
OUT_OF_RESOURCES = 0xA700
CANNOT_UNDERSTAND = 0xC000

_C_STORE_RQ, _C_STORE_RSP, _NO_DATA_SET = 0x0001, 0x8001, 0x0101
_LARGEST_COMMAND = 64 * 1024
_LARGEST_IDENTIFIER = 16 * 2**20
_MOST_PIECES = 256


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """A C-STORE request's command set (PS3.7 table 9.3-1); UIDs as sent, not yet trusted."""

    message_id: int
    sop_class_uid: str
    sop_instance_uid: str
    has_dataset: bool


class Arrivals:
    """What one network association brings: its folder of the spool, opened with the first instance.

    Not thread-safe; used by the thread that reads from the association. `stored` is told of every instance
    once it is durable, `refused` of every error of our own disk that kept one from it, `failed` of the status of each
    that is answered with another than success.
    """

    def __init__(
        self,
        open_association: Callable[[], OpenAssociation],
        source_aet: Callable[[], str],
        *,
        stored: Callable[[Receipt], None] = lambda _: None,
        refused: Callable[[StoreError], None] = lambda _: None,
        failed: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._open_association = open_association
        self._source_aet = source_aet
        self._folder: OpenAssociation | None = None
        self.stored = stored
        self.refused = refused
        self.failed = failed

    def begin(self, request: StoreRequest, transfer_syntax_uid: str) -> InstanceWriter:
        """Raises `DiskFull` or `SpoolUnusable`."""
        if self._folder is None:
            self._folder = self._open_association()
        return self._folder.begin(
            request.sop_class_uid, request.sop_instance_uid, transfer_syntax_uid, self._source_aet()
        )

    def close(self) -> None:
        """The association is over: nothing more is added to its folder."""
        folder, self._folder = self._folder, None
        if folder is not None:
            folder.close()


class _Arriving:
    """One instance on its way; takes all its bytes even when it is already refused, so that the peer gets a status."""

    def __init__(self, arrivals: Arrivals, request: StoreRequest, transfer_syntax_uid: str | None) -> None:
        self.request = request
        self._arrivals = arrivals
        self._writer: InstanceWriter | None = None
        self._status, self._comment = SUCCESS, ""
        if transfer_syntax_uid is None:
            self._refuse(SOP_CLASS_NOT_SUPPORTED, "no storage presentation context")
        elif not request.has_dataset:
            self._refuse(CANNOT_UNDERSTAND, "the request has no data set")
        else:
            with _Refusing(self):
                self._writer = arrivals.begin(request, transfer_syntax_uid)

    def write(self, pieces: Sequence[memoryview], *, is_last: bool) -> None:
        if self._writer is not None:
            with _Refusing(self):
                self._writer.write(*pieces, is_last=is_last)

    def finish(self) -> tuple[int, str]:
        """Status and error comment. Success only once the instance is durable."""
        if self._writer is not None:
            with _Refusing(self):
                receipt = self._writer.commit()
                self._writer = None
                self._arrivals.stored(receipt)
        return self._status, self._comment

    def abandon(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.abandon()

    def refuse_because(self, error: StoreError) -> None:
        self.abandon()
        _log.error("%s was not stored: %s", self.request.sop_instance_uid, error)
        self._arrivals.refused(error)
        if isinstance(error, DiskFull):
            self._refuse(OUT_OF_RESOURCES, "not enough disk space")
        else:
            self._refuse(PROCESSING_FAILURE, "the disk cannot be written")

    def _refuse(self, status: int, comment: str) -> None:
        self._status, self._comment = status, comment
        self._arrivals.failed(status)


class _Refusing:
    """Errors of our own disk become the instance's status; the association goes on."""

    def __init__(self, arriving: _Arriving) -> None:
        self._arriving = arriving

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> bool:
        if not isinstance(error, StoreError):
            return False
        self._arriving.refuse_because(error)
        return True


class Messages:
    """The messages of one association, put together from fragments (PS3.8 annex E).

    `transfer_syntax` gives a storage context's negotiated syntax, None for any other context;
    `send` sends bytes of a P-DATA-TF PDU; `pass_on` gives a whole message to the library. `fed` counts
    fragments and `passed_on` messages of the library, for whoever watches.
    """

    def __init__(
        self,
        arrivals: Arrivals,
        *,
        transfer_syntax: Callable[[int], str | None],
        send: Callable[[bytes], None],
        pass_on: Callable[[int, bytes, bytes | None], None],
        peer_max_pdu: Callable[[], int],
    ) -> None:
        self._arrivals = arrivals
        self._transfer_syntax = transfer_syntax
        self._send = send
        self._pass_on = pass_on
        self._peer_max_pdu = peer_max_pdu
        self._context_id = 0
        self._command = bytearray()
        self._identifier: bytearray | None = None
        self._arriving: _Arriving | None = None
        self._pieces: list[memoryview] = []
        self.passed_on = 0
        self.fed = 0

    @property
    def between(self) -> bool:
        """Whether the last message is complete and the next has not begun."""
        return self._context_id == 0

    def feed(self, context_id: int, is_command: bool, data: memoryview, is_last: bool) -> None:
        """Take a fragment or a part of one; `is_last` = with it the command or data set is complete.

        The bytes of a data set must stay until `flush`, so that many fragments are written at once. Raises
        `ProtocolViolation`, and `OSError` when an answer cannot be sent.
        """
        self.fed += 1
        if self._context_id == 0:
            self._context_id = context_id
        elif context_id != self._context_id:
            raise ProtocolViolation("fragments of two messages are mixed")
        if is_command:
            self._take_command(data, is_last)
        elif self._arriving is not None:
            self._pieces.append(data)
            if is_last:
                self._answer(self._arriving)
            elif len(self._pieces) >= _MOST_PIECES:
                self.flush()
        elif self._identifier is not None:
            self._identifier += data
            if len(self._identifier) > _LARGEST_IDENTIFIER:
                raise ProtocolViolation("an identifier without end")
            if is_last:
                self._hand_on(bytes(self._identifier))
        else:
            raise ProtocolViolation("a data set without its command")

    def flush(self) -> None:
        """Use the bytes of all that was fed, before their buffer is used for others."""
        if self._pieces:
            pieces, self._pieces = self._pieces, []
            if self._arriving is not None:
                self._arriving.write(pieces, is_last=False)

    def close(self) -> None:
        """The association is over, perhaps in the middle of an instance."""
        if self._arriving is not None:
            self._arriving.abandon()
        self._forget()
        self._arrivals.close()

    def _take_command(self, data: memoryview, is_last: bool) -> None:
        if self._arriving is not None or self._identifier is not None:
            raise ProtocolViolation("a command inside a data set")
        self._command += data
        if len(self._command) > _LARGEST_COMMAND:
            raise ProtocolViolation("a command without end")
        if not is_last:
            return
        values = decode_command(self._command)
        if command_number(values, 0x0100) == _C_STORE_RQ:
            request = _store_request(values)
            self._arriving = _Arriving(self._arrivals, request, self._transfer_syntax(self._context_id))
            if not request.has_dataset:
                self._answer(self._arriving)
        elif command_number(values, 0x0800) == _NO_DATA_SET:
            self._hand_on(None)
        else:
            self._identifier = bytearray()

    def _answer(self, arriving: _Arriving) -> None:
        arriving.write(self._pieces, is_last=True)
        status, comment = arriving.finish()
        command = _store_response(arriving.request, status, comment)
        context_id = self._context_id
        self._forget()
        for pdu in command_pdus(context_id, command, self._peer_max_pdu()):
            self._send(pdu)

    def _hand_on(self, identifier: bytes | None) -> None:
        context_id, command = self._context_id, bytes(self._command)
        self._forget()
        self.passed_on += 1
        self._pass_on(context_id, command, identifier)

    def _forget(self) -> None:
        self._context_id = 0
        self._command.clear()
        self._identifier = None
        self._arriving = None
        self._pieces = []


def _uid(values: dict[int, bytes], element: int) -> str:
    return values.get(element, b"").rstrip(b"\0 ").decode("utf-8", "surrogateescape")


def _store_request(values: dict[int, bytes]) -> StoreRequest:
    return StoreRequest(
        message_id=command_number(values, 0x0110),
        sop_class_uid=_uid(values, 0x0002),
        sop_instance_uid=_uid(values, 0x1000),
        has_dataset=command_number(values, 0x0800) != _NO_DATA_SET,
    )


def _store_response(request: StoreRequest, status: int, comment: str) -> bytes:
    """PS3.7 table 9.3-2; the error comment is free text for the operator at the other end."""
    elements = [
        _text(0x0002, request.sop_class_uid, b"\0"),
        struct.pack("<HHIH", 0, 0x0100, 2, _C_STORE_RSP),
        struct.pack("<HHIH", 0, 0x0120, 2, request.message_id),
        struct.pack("<HHIH", 0, 0x0800, 2, _NO_DATA_SET),
        struct.pack("<HHIH", 0, 0x0900, 2, status),
        _text(0x0902, comment, b" ") if comment else b"",
        _text(0x1000, request.sop_instance_uid, b"\0"),
    ]
    body = b"".join(elements)
    return struct.pack("<HHII", 0, 0x0000, 4, len(body)) + body


def _text(element: int, text: str, padding: bytes) -> bytes:
    value = text.encode("utf-8", "surrogateescape")
    value += padding * (len(value) % 2)
    return struct.pack("<HHI", 0, element, len(value)) + value


def command_pdus(context_id: int, command: bytes, peer_max_pdu: int) -> Iterator[bytes]:
    """A command set as P-DATA-TF PDUs no longer than the peer accepts (0 = any length, PS3.8 D.1)."""
    largest = max(peer_max_pdu - 6, 64) if peer_max_pdu else len(command)
    for start in range(0, len(command), largest):
        part = command[start : start + largest]
        control = 0x03 if start + largest >= len(command) else 0x01
        yield struct.pack(">BBIIBB", 4, 0, len(part) + 6, len(part) + 2, context_id, control) + part
