"""What storage commitment says: Action Information and Event Information (PS3.4 tables J.3-1 and J.3-2) and bytes.

A request may name a hundred thousand instances, and the library makes several objects of each; and it calls itself
for every nested sequence, which a hostile request has without end. Here the bytes are walked once, without recursion.
"""

import contextlib
import struct
import sys
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

from vna.spool import Reference

TRANSACTION_UID = 0x00081195
FAILED_SOP_SEQUENCE = 0x00081198
REFERENCED_SOP_SEQUENCE = 0x00081199
REFERENCED_SOP_CLASS_UID = 0x00081150
REFERENCED_SOP_INSTANCE_UID = 0x00081155
FAILURE_REASON = 0x00081197

_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_LONGEST_UID = 64
_LONG = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})


@dataclass(frozen=True, slots=True)
class ActionInformation:
    """What is asked for: the transaction, and each instance once, in the order of the request."""

    transaction_uid: str
    references: tuple[Reference, ...]


def decode_action_information(encoded: bytes, *, is_implicit: bool, is_little: bool) -> ActionInformation:
    """Raises `ValueError`, in words for the requester, where something is missing or no data set comes."""
    walk = _Walk(encoded, is_implicit, is_little)
    transaction_uid = ""
    references: dict[Reference, None] = {}
    while walk.at < len(encoded):
        tag, length = walk.element()
        if tag == TRANSACTION_UID and length != _UNDEFINED:
            transaction_uid = walk.text(length)
        elif tag == REFERENCED_SOP_SEQUENCE:
            for found in walk.items(length):
                references[_reference(found)] = None
        else:
            walk.skip(length)
    if not transaction_uid:
        raise ValueError("no Transaction UID")
    if not references:
        raise ValueError("no instance in the Referenced SOP Sequence")
    return ActionInformation(transaction_uid, tuple(references))


def _reference(found: dict[int, str]) -> Reference:
    sop_class = found.get(REFERENCED_SOP_CLASS_UID, "")
    instance = found.get(REFERENCED_SOP_INSTANCE_UID, "")
    if not sop_class or not instance:
        raise ValueError("a reference without its class or instance UID")
    return sys.intern(sop_class), instance  # there are few classes of very many instances


class _Walk:
    """A place in a data set that goes forward only; every method raises `ValueError` at its end."""

    def __init__(self, data: bytes, is_implicit: bool, is_little: bool) -> None:
        self.at = 0
        self._data = data
        self._is_implicit = is_implicit
        order = "<" if is_little else ">"
        self._tag = struct.Struct(f"{order}HH")
        self._long = struct.Struct(f"{order}I")
        self._short = struct.Struct(f"{order}H")

    def element(self) -> tuple[int, int]:
        """Tag and length of the next element, in bytes; its value comes next."""
        try:
            group, number = self._tag.unpack_from(self._data, self.at)
            tag = group << 16 | number
            if self._is_implicit or group == 0xFFFE:
                (length,) = self._long.unpack_from(self._data, self.at + 4)
                self.at += 8
            elif self._data[self.at + 4 : self.at + 6] in _LONG:
                (length,) = self._long.unpack_from(self._data, self.at + 8)
                self.at += 12
            else:
                (length,) = self._short.unpack_from(self._data, self.at + 6)
                self.at += 8
        except struct.error:
            raise ValueError("the data set ends in an element") from None
        if length != _UNDEFINED and self.at + length > len(self._data):
            raise ValueError("the data set ends in a value")
        return tag, length

    def text(self, length: int) -> str:
        """A UID as it stands, without its padding; what is not ASCII survives until it is sent back."""
        value = self._data[self.at : self.at + length].strip(b"\0 ")
        self.at += length
        if len(value) > _LONGEST_UID:
            raise ValueError("a UID of more than 64 characters")
        return value.decode("utf-8", "surrogateescape")

    def skip(self, length: int) -> None:
        """Pass over a value, whatever is nested in it."""
        if length != _UNDEFINED:
            self.at += length
            return
        depth = 1
        while depth:
            tag, length = self.element()
            if tag in (_ITEM_END, _SEQUENCE_END):
                depth -= 1
            elif length == _UNDEFINED:
                depth += 1
            else:
                self.at += length

    def items(self, length: int) -> Iterator[dict[int, str]]:
        """The UIDs of each item of a sequence by their tags."""
        end = None if length == _UNDEFINED else self.at + length
        while end is None or self.at < end:
            tag, length = self.element()
            if tag == _SEQUENCE_END and end is None:
                return
            if tag != _ITEM:
                raise ValueError("a sequence holds something else than items")
            yield self._uids(None if length == _UNDEFINED else self.at + length)

    def _uids(self, end: int | None) -> dict[int, str]:
        found: dict[int, str] = {}
        while end is None or self.at < end:
            tag, length = self.element()
            if tag == _ITEM_END and end is None:
                break
            if tag in (REFERENCED_SOP_CLASS_UID, REFERENCED_SOP_INSTANCE_UID) and length != _UNDEFINED:
                found[tag] = self.text(length)
            else:
                self.skip(length)
        return found


def encode_event_information(
    transaction_uid: str,
    committed: Sequence[Reference],
    failed: Sequence[tuple[Reference, int]],
    *,
    is_implicit: bool,
    is_little: bool,
) -> bytes:
    """The report: what is committed, and what is not with its Failure Reason (PS3.3 C.14.1.1)."""
    write = _Writer(is_implicit, is_little)
    write.uid(TRANSACTION_UID, transaction_uid)
    if failed:
        with write.nested(FAILED_SOP_SEQUENCE):
            for reference, reason in failed:
                with write.item():
                    write.reference(reference)
                    write.number(FAILURE_REASON, reason)
    if committed:
        with write.nested(REFERENCED_SOP_SEQUENCE):
            for reference in committed:
                with write.item():
                    write.reference(reference)
    return bytes(write.data)


class _Writer:
    """Elements in one transfer syntax, one after the other into one buffer."""

    def __init__(self, is_implicit: bool, is_little: bool) -> None:
        self.data = bytearray()
        self._is_implicit = is_implicit
        order = "<" if is_little else ">"
        self._short_head = struct.Struct(f"{order}HH2sH")
        self._long_head = struct.Struct(f"{order}HH2s2xI")
        self._head = struct.Struct(f"{order}HHI")
        self._length = struct.Struct(f"{order}I")
        self._number = struct.Struct(f"{order}H")

    def uid(self, tag: int, uid: str) -> None:
        value = uid.encode("utf-8", "surrogateescape")
        self._element(tag, b"UI", value + b"\0" * (len(value) % 2))

    def number(self, tag: int, value: int) -> None:
        self._element(tag, b"US", self._number.pack(value))

    def reference(self, reference: Reference) -> None:
        sop_class, instance = reference
        self.uid(REFERENCED_SOP_CLASS_UID, sop_class)
        self.uid(REFERENCED_SOP_INSTANCE_UID, instance)

    @contextlib.contextmanager
    def nested(self, tag: int) -> Generator[None]:
        """A sequence of what is written in the block."""
        group, number = tag >> 16, tag & 0xFFFF
        if self._is_implicit:
            self.data += self._head.pack(group, number, 0)
        else:
            self.data += self._long_head.pack(group, number, b"SQ", 0)
        with self._measured():
            yield

    @contextlib.contextmanager
    def item(self) -> Generator[None]:
        """An item of what is written in the block."""
        self.data += self._head.pack(_ITEM >> 16, _ITEM & 0xFFFF, 0)
        with self._measured():
            yield

    @contextlib.contextmanager
    def _measured(self) -> Generator[None]:
        """The four bytes written last tell the length of what is written in the block."""
        start = len(self.data)
        yield
        self._length.pack_into(self.data, start - 4, len(self.data) - start)

    def _element(self, tag: int, vr: bytes, value: bytes) -> None:
        group, number = tag >> 16, tag & 0xFFFF
        if self._is_implicit:
            self.data += self._head.pack(group, number, len(value))
        else:
            self.data += self._short_head.pack(group, number, vr, len(value))
        self.data += value
