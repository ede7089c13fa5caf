"""The C-FIND service (PS3.4 C.4.1, PS3.7 9.1.2): identifiers in, answers out, with the faults of either."""

from collections.abc import Iterator

from vna.simulated_pacs.answering import Answer, Answers, Query, QueryRefused
from vna.simulated_pacs.attributes import (
    AVAILABILITY,
    CHARACTER_SET,
    QUERY_LEVEL,
    RETRIEVE_AET,
    VRS,
    bytes_of,
    text_of,
)
from vna.simulated_pacs.channel import (
    AFFECTED_SOP_CLASS,
    C_CANCEL_RQ,
    COMMAND_FIELD,
    ERROR_COMMENT,
    MESSAGE_ID,
    RESPONDED_TO,
    RESPONSE,
    STATUS,
    Channel,
    Message,
    PeerGone,
)
from vna.simulated_pacs.elements import Encoding, all_elements, write_elements
from vna.simulated_pacs.faults import Faults
from vna.simulated_pacs.negotiation import is_patient_root
from vna.simulated_pacs.pace import Pace

SUCCESS, CANCELLED, PENDING, CANNOT_UNDERSTAND = 0x0000, 0xFE00, 0xFF00, 0xC000
_RUBBISH = b"\x4d\x5a\x90\x00 this is not a data set, whatever the message says \xff\xfe\x00" * 3


def response_to(request: Message, status: int, comment: str = "") -> dict[int, int | str]:
    """The command of a response, to be completed where there is more to say."""
    command: dict[int, int | str] = {
        AFFECTED_SOP_CLASS: request.text(AFFECTED_SOP_CLASS),
        COMMAND_FIELD: request.number(COMMAND_FIELD) | RESPONSE,
        RESPONDED_TO: request.number(MESSAGE_ID),
        STATUS: status,
    }
    if comment:
        command[ERROR_COMMENT] = comment[:64]
    return command


def read_query(channel: Channel, request: Message) -> Query:
    """The identifier of a request; raises `QueryRefused` if it is none."""
    context = channel.contexts[request.context_id]
    try:
        raw = all_elements(request.data_set, Encoding.of(context.transfer_syntax))
    except ValueError as error:
        raise QueryRefused(CANNOT_UNDERSTAND, "the identifier cannot be read") from error
    charset = text_of("CS", raw.get(CHARACTER_SET, b""), "")
    try:
        keys = {tag: text_of(VRS[tag], value, charset) for tag, value in raw.items() if tag in VRS}
    except LookupError as error:
        raise QueryRefused(CANNOT_UNDERSTAND, "unknown Specific Character Set") from error
    level = text_of("CS", raw.get(QUERY_LEVEL, b""), "").upper()
    return Query(level, keys, is_patient_root(context.abstract_syntax))


def serve_find(
    channel: Channel, request: Message, answers: Answers, faults: Faults, pace: Pace, aet: str
) -> None:
    """Answer one C-FIND request; raises `PeerGone`."""
    try:
        query = read_query(channel, request)
        if query.level == "IMAGE" and "no-image-level" in faults:
            raise QueryRefused(faults.status("no-image-level", 0xA900), "image level is not supported")
        found = answers.matches(query)
    except QueryRefused as refused:
        pace.wait()
        channel.send(request.context_id, response_to(request, refused.status, refused.comment))
        return
    encoding = Encoding.of(channel.contexts[request.context_id].transfer_syntax)
    pending = response_to(request, PENDING)
    for answer in _as_sent(found, query, faults):
        pace.wait()
        if is_cancelled(channel, request):
            channel.send(request.context_id, response_to(request, CANCELLED))
            return
        if "rubbish" in faults:
            identifier = _RUBBISH
        else:
            identifier = encode_answer(answer, query, encoding, aet, faults.text("charset"))
        channel.send(request.context_id, pending, identifier)
    pace.wait()
    channel.send(request.context_id, response_to(request, SUCCESS))


def is_cancelled(channel: Channel, request: Message) -> bool:
    """Whether the peer took this request back (PS3.7 9.3.2.3); raises `PeerGone` if it left."""
    while channel.is_something_waiting():
        message = channel.receive()
        if message.number(COMMAND_FIELD) != C_CANCEL_RQ:
            channel.abort()  # no second request may come before the first is answered
            raise PeerGone
        if message.number(RESPONDED_TO) == request.number(MESSAGE_ID):
            return True
    return False


def _as_sent(found: list[Answer], query: Query, faults: Faults) -> Iterator[Answer]:
    cap = faults.number("cap-answers")
    if query.level not in {"PATIENT", "STUDY"} and faults.option("cap-answers") != "all":
        cap = 0
    times = 2 if "duplicate-answers" in faults else 1
    sent = 0
    for answer in found:
        for _ in range(times):
            if cap and sent >= cap:
                return
            sent += 1
            yield answer


def encode_answer(answer: Answer, query: Query, encoding: Encoding, aet: str, charset: str) -> bytes:
    """An answer as a data set; `charset` in place of the files' own where given."""
    used = charset or answer.charset
    elements = [(tag, VRS[tag], bytes_of(VRS[tag], text, used)) for tag, text in answer.values.items()]
    if used:
        elements.append((CHARACTER_SET, "CS", used.encode("ascii")))
    elements += [
        (QUERY_LEVEL, "CS", query.level.encode("ascii")),
        (RETRIEVE_AET, "AE", aet.encode("ascii")),
        (AVAILABILITY, "CS", b"ONLINE"),
    ]
    return write_elements(sorted(elements), encoding)
