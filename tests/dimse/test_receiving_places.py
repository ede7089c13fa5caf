"""A place is given back whatever happens to its association, and the door stays open whatever comes through it."""

import contextlib
import errno
import logging
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from arranging_receiver import CT, EXPLICIT, VERIFICATION, Sender, all_received, association_request
from fuzzing import damaged
from pynetdicom.acse import ACSE
from pynetdicom.association import Association

from vna.dimse.admission import Reason, Refusal
from vna.dimse.listening import Door
from vna.dimse.places import Limits, Place, Places
from vna.dimse.receiver import Receiver
from vna.dimse.tally import Lines
from vna.spool import OpenAssociation, Spool

IMPLICIT = "1.2.840.10008.1.2"
NO_SUCH_CLASS = 3
LIMITS = Limits(2, 2)


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    spool = Spool(tmp_path / "spool", reserve_bytes=0)
    with Receiver(spool, aet="BACKUPDR", host="127.0.0.1", port=0, max_associations=8) as running:
        yield running


def until(claim: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)


def all_free(receiver: Receiver) -> bool:
    return not receiver.counts.open_associations


def serves(receiver: Receiver) -> bool:
    sender = Sender(receiver.port)
    stored = sender.store("1.2.3", b"data") == 0
    sender.release()
    until(lambda: all_free(receiver))
    return stored


# -- hostile requests


def item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(value)) + value


def context(number: int, abstract: bytes | None, *transfer: bytes) -> bytes:
    value = struct.pack(">B3x", number)
    value += b"" if abstract is None else item(0x30, abstract)
    return item(0x20, value + b"".join(item(0x40, syntax) for syntax in transfer))


def role(uid: bytes, scu: int, scp: int) -> bytes:
    return item(0x54, struct.pack(">H", len(uid)) + uid + bytes([scu, scp]))


def request(contexts: bytes, user: bytes | None = b"", calling: bytes = b"SENDER") -> bytes:
    """An A-ASSOCIATE-RQ of these items; `user` = sub-items after the usual ones, None without any at all."""
    usual = item(0x51, struct.pack(">I", 16384)) + item(0x52, b"1.2.3")
    body = struct.pack(">HH", 1, 0) + b"BACKUPDR".ljust(16) + calling.ljust(16) + bytes(32)
    body += item(0x10, b"1.2.840.10008.3.1.1.1") + contexts
    body += b"" if user is None else item(0x50, usual + user)
    return struct.pack(">BBI", 1, 0, len(body)) + body


_CT, _IMPLICIT = CT.encode(), IMPLICIT.encode()
_USUAL = context(1, _CT, _IMPLICIT)
HOSTILE = {
    "usual": request(_USUAL),
    "no abstract syntax": request(context(1, None, _IMPLICIT)),
    "no abstract syntax, with its role": request(context(1, None, _IMPLICIT), role(b"", 1, 1)),
    "empty abstract syntax": request(context(1, b"", _IMPLICIT)),
    "abstract syntax is no UID": request(context(1, b"\xff\xfe abc", _IMPLICIT)),
    "abstract syntax too long": request(context(1, b"1." * 300, _IMPLICIT)),
    "no transfer syntax": request(context(1, _CT)),
    "empty transfer syntax": request(context(1, _CT, b"")),
    "transfer syntax is no UID": request(context(1, _CT, b"\xff\xfe abc")),
    "transfer syntax too long": request(context(1, _CT, b"1" * 300)),
    "even context": request(context(2, _CT, _IMPLICIT)),
    "context zero": request(context(0, _CT, _IMPLICIT)),
    "context twice": request(_USUAL * 2),
    "no context": request(b""),
    "empty context": request(item(0x20, b"")),
    "role of nothing": request(_USUAL, role(_CT, 0, 0)),
    "role is no role": request(_USUAL, role(_CT, 7, 7)),
    "role of no UID": request(context(1, b"xx", _IMPLICIT), role(b"xx", 1, 1)),
    "role of a long UID": request(context(1, b"1." * 40, _IMPLICIT), role(b"1." * 40, 1, 1)),
    "no user information": request(_USUAL, None),
    "identity": request(_USUAL, item(0x58, b"\1\1\0\4")),
    "extended negotiation": request(_USUAL, item(0x56, b"\0\xff" + _CT)),
    "no calling AE title": request(_USUAL, calling=b""),
    "calling AE title of control characters": request(_USUAL, calling=b"\xff\\\1"),
}


def ask(receiver: Receiver, asked: bytes) -> int:
    """The type of the PDU that answers; 0 where the connection was closed instead."""
    with socket.create_connection(("127.0.0.1", receiver.port), timeout=10) as connection:
        connection.sendall(asked)
        with contextlib.suppress(ConnectionError):
            return next(iter(connection.recv(1)), 0)
    return 0


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_request_is_answered_and_takes_no_place_for_good(receiver: Receiver, what: str) -> None:
    for _ in range(10):  # more than there are places
        assert ask(receiver, HOSTILE[what]) in {2, 3, 7}
        until(lambda: all_free(receiver))
    assert serves(receiver)


def test_a_context_without_abstract_syntax_is_rejected_and_the_others_serve(receiver: Receiver) -> None:
    asked = request(context(1, None, _IMPLICIT) + context(3, _CT, _IMPLICIT))
    sender = Sender(receiver.port)
    sender.release()
    sender.socket = socket.create_connection(("127.0.0.1", receiver.port), timeout=10)
    sender.send(asked)
    sender.kind, sender.answer = sender.pdu()
    assert sender.results == {1: NO_SUCH_CLASS, 3: 0}
    assert sender.store("1.2.3", b"data", context_id=3) == 0
    sender.release()
    until(lambda: all_free(receiver))


def test_fuzzed_requests_take_no_place_for_good(receiver: Receiver) -> None:
    chance = random.Random(20261125)
    kinds = list(HOSTILE.values())
    for number in range(400):
        asked = chance.choice(kinds)
        body = damaged(asked[74:], chance, most=4)
        body = asked[6:74] + body
        with socket.create_connection(("127.0.0.1", receiver.port), timeout=10) as connection:
            connection.sendall(struct.pack(">BBI", 1, 0, len(body)) + body)
            if chance.random() < 0.5:
                connection.recv(1)
        if number % 40 == 39:
            until(lambda: all_free(receiver) and not receiver.counts.waiting)
    assert serves(receiver)


# -- whatever fails


@pytest.mark.parametrize(
    "step",
    [
        "vna.dimse.receiver.negotiate",
        "vna.dimse.receiver.new_association",
        "vna.dimse.receiver.remember_caller",
        "vna.dimse.receiver.attach",
        "vna.dimse.receiver.Association.start",
    ],
)
@pytest.mark.parametrize("error", [TypeError, RuntimeError, MemoryError, OSError])
def test_what_keeps_an_association_from_starting_keeps_no_place(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, step: str, error: type[Exception]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error("John Doe")

    with monkeypatch.context() as patched:
        patched.setattr(step, fail)
        for _ in range(3):
            assert Sender(receiver.port).kind == 7
            until(lambda: all_free(receiver))
    assert receiver.counts.refused == {Reason.failure: 3}
    assert not receiver._messages
    assert serves(receiver)


def test_an_ending_that_cannot_tidy_gives_its_place_back(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Another program has filled the disk meanwhile."""

    def full(_: OpenAssociation) -> None:
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patched:
        patched.setattr(OpenAssociation, "close", full)
        for number in range(10):
            sender = Sender(receiver.port)
            assert sender.store(f"1.2.{number}", b"data") == 0
            sender.release()
            until(lambda: all_free(receiver))
    assert "could not be tidied" in caplog.text
    assert serves(receiver)
    assert len(all_received(receiver.spool)) == 11


def test_an_association_whose_own_thread_fails_ends_though_its_peer_stays(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise TypeError("John Doe")

    with monkeypatch.context() as patched:
        patched.setattr(ACSE, "send_accept", fail)
        senders = [Sender(receiver.port) for _ in range(8)]
        assert {sender.kind for sender in senders} == {0}
        until(lambda: all_free(receiver))
    assert serves(receiver)


def test_what_follows_the_end_of_reading_is_done_though_the_end_fails(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the association's own thread waits for what nobody puts."""
    ended: list[Association] = []

    def fail(association: Association, place: Place, level: int) -> None:
        ended.append(association)
        place.give_back()
        raise MemoryError

    monkeypatch.setattr(receiver, "_on_end", fail)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    sender = Sender(receiver.port)
    sender.close()
    until(lambda: ended)
    dul: Any = ended[0].dul
    until(lambda: not dul.is_alive())
    assert "_read_pdu_data" not in dul.__dict__
    until(lambda: not ended[0].is_alive(), seconds=5)


# -- places


def test_a_place_is_given_back_once_however_often_it_is_said() -> None:
    places = Places()
    first, second = places.take("a", LIMITS), places.take("a", LIMITS)
    assert isinstance(first, Place)
    assert isinstance(second, Place)
    threads = [threading.Thread(target=first.give_back) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert places.taken == 1
    second.give_back()
    assert (places.taken, places._others) == (0, {})


def test_our_own_question_takes_no_place_from_others_and_has_no_end_of_places_itself() -> None:
    places = Places()
    assert all(isinstance(places.take("a", LIMITS, ourselves=True), Place) for _ in range(2))
    assert places.has_room(LIMITS)
    assert all(isinstance(places.take("a", LIMITS), Place) for _ in range(2))
    assert not places.has_room(LIMITS)
    for ourselves in (False, True):
        refusal = places.take("b", LIMITS, ourselves=ourselves)
        assert isinstance(refusal, Refusal)
        assert refusal.reason is Reason.limit


def test_a_receiver_says_when_it_has_no_place_for_another_caller(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", reserve_bytes=0)
    with Receiver(spool, aet="BACKUPDR", host="127.0.0.1", port=0, max_associations=1) as receiver:
        assert not receiver.counts.is_full
        sender = Sender(receiver.port)
        ours = Sender(receiver.port, calling="BACKUPDR")
        assert ours.kind == 2
        assert receiver.counts.is_full
        sender.release()
        until(lambda: not receiver.counts.is_full)
        ours.release()


# -- the door


@pytest.mark.parametrize("step", ["_read", "_accept", "_see_off", "_end_late_ones", "_let_others_go_first"])
def test_an_unforeseen_error_at_the_door_costs_one_visitor_at_most(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, step: str
) -> None:
    usual, failed = getattr(Door, step), threading.Event()
    name = "John" + " Doe"  # not as it stands in this line of the source, which the log shows

    def fail_once(door: Door, *about: Any) -> Any:
        if not failed.is_set():
            failed.set()
            raise KeyError(name)
        return usual(door, *about)

    monkeypatch.setattr(Door, step, fail_once)
    with (
        socket.create_connection(("127.0.0.1", receiver.port), timeout=5) as first,
        contextlib.suppress(ConnectionError),
    ):
        first.sendall(association_request([(VERIFICATION, [EXPLICIT])]))
        first.recv(1)
    assert failed.is_set()
    until(lambda: all_free(receiver) and not receiver.counts.waiting)
    for _ in range(3):
        assert serves(receiver)
    assert not receiver.is_broken
    assert "in fail_once" in caplog.text
    assert "John Doe" not in caplog.text


def test_who_judges_goes_on_though_even_counting_a_refusal_fails(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyError

    assert receiver._door is not None
    with monkeypatch.context() as patched:
        patched.setattr(receiver._door, "_judge", fail)
        patched.setattr(receiver._door, "_turned_away", fail)
        for _ in range(5):  # more than threads that judge
            assert Sender(receiver.port).kind == 7
    assert serves(receiver)


def test_a_door_that_cannot_be_kept_open_is_closed_and_says_so(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("vna.dimse.listening._PAUSE_SECONDS", 0.01)
    stays = Sender(receiver.port)
    assert not receiver.is_broken
    assert receiver._door is not None
    receiver._door._selector.close()
    receiver._door._ring()
    until(lambda: receiver.is_broken)
    until(lambda: not receiver._door._threads[0].is_alive())  # type: ignore[union-attr]
    with pytest.raises(ConnectionRefusedError):
        Sender(receiver.port)
    assert [record.levelno for record in caplog.records if "broke" in record.getMessage()] == [
        logging.CRITICAL
    ]
    assert stays.store("1.2.3", b"data") == 0, "who is in goes on"
    stays.release()


def test_lines_are_counted_anew_after_their_time() -> None:
    lines = Lines(2, 0.05)
    assert [lines.take() for _ in range(3)] == [True, True, False]
    time.sleep(0.06)
    assert lines.take()
