"""Command sets are read strictly: what is none ends the association, it is no message with some values missing."""

import queue
import struct
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pynetdicom.pdu_primitives import P_DATA

from vna.dimse.commands import ProtocolViolation, command_number, decode_command
from vna.dimse.querying import _Answers  # pyright: ignore[reportPrivateUsage]


def element(number: int, value: bytes, *, group: int = 0, length: int | None = None) -> bytes:
    return struct.pack("<HHI", group, number, len(value) if length is None else length) + value


PENDING = element(0x0100, b"\x20\x80") + element(0x0800, b"\x01\x01") + element(0x0900, b"\x00\x00")
NO_COMMANDS = [
    PENDING + element(0x0902, b"too ", length=40),
    PENDING + element(0x0010, b"1234", group=8),
    PENDING + b"\x00\x00\x02",
    element(0x0100, b"\x20\x80") + element(0x0800, b"\x01\x01") + element(0x0900, b"\x00\x00\x00\x00"),
    element(0x0100, b"\x20\x80") + element(0x0800, b"\x01\x01"),
]


def test_a_command_set_is_its_elements() -> None:
    values = decode_command(PENDING)
    assert command_number(values, 0x0100) == 0x8020
    assert command_number(values, 0x0900) == 0


@pytest.mark.parametrize("command", NO_COMMANDS[:3])
def test_what_is_cut_off_or_of_another_group_is_no_command_set(command: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        decode_command(command)


@pytest.mark.parametrize("command", [PENDING, *NO_COMMANDS])
def test_an_answer_to_a_query_that_is_no_command_set_ends_the_association(command: bytes) -> None:
    dul = SimpleNamespace(event_queue=queue.Queue[str]())
    association: Any = SimpleNamespace(dul=dul)
    answers = _Answers(association)
    fragments = P_DATA()
    fragments.presentation_data_value_list = cast(Any, [[1, b"\x03" + command]])
    answers.receive_primitive(fragments)
    if command == PENDING:
        assert answers.msg_queue.qsize() == 1
        assert dul.event_queue.empty()
    else:
        assert answers.msg_queue.empty()
        assert dul.event_queue.get_nowait() == "Evt19"
