"""What storage commitment says: Action Information and Event Information (PS3.4 tables J.3-1 and J.3-2) and bytes.

A request may name a hundred thousand instances, and the library makes several objects of each; and it calls itself
for every nested sequence, which a hostile request has without end. Here the bytes are walked once, without recursion.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
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
    return sop_class, instance


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
    committed: Iterable[Reference],
    failed: Sequence[tuple[Reference, int]],
    *,
    is_implicit: bool,
    is_little: bool,
) -> bytes:
    """The report: what is committed, and what is not with its Failure Reason (PS3.3 C.14.1.1)."""
    write = _Writer(is_implicit, is_little)
    parts = [write.uid(TRANSACTION_UID, transaction_uid)]
    if failed:
        items = b"".join(
            write.item(write.reference(reference) + write.number(FAILURE_REASON, reason))
            for reference, reason in failed
        )
        parts.append(write.element(FAILED_SOP_SEQUENCE, b"SQ", items))
    if items := b"".join(write.item(write.reference(reference)) for reference in committed):
        parts.append(write.element(REFERENCED_SOP_SEQUENCE, b"SQ", items))
    return b"".join(parts)


class _Writer:
    """Elements to bytes in one transfer syntax."""

    def __init__(self, is_implicit: bool, is_little: bool) -> None:
        self._is_implicit = is_implicit
        order = "<" if is_little else ">"
        self._short_head = struct.Struct(f"{order}HH2sH")
        self._long_head = struct.Struct(f"{order}HH2s2xI")
        self._head = struct.Struct(f"{order}HHI")
        self._number = struct.Struct(f"{order}H")

    def element(self, tag: int, vr: bytes, value: bytes) -> bytes:
        group, number = tag >> 16, tag & 0xFFFF
        if self._is_implicit:
            return self._head.pack(group, number, len(value)) + value
        if vr in _LONG:
            return self._long_head.pack(group, number, vr, len(value)) + value
        return self._short_head.pack(group, number, vr, len(value)) + value

    def uid(self, tag: int, uid: str) -> bytes:
        value = uid.encode("utf-8", "surrogateescape")
        return self.element(tag, b"UI", value + b"\0" * (len(value) % 2))

    def number(self, tag: int, value: int) -> bytes:
        return self.element(tag, b"US", self._number.pack(value))

    def reference(self, reference: Reference) -> bytes:
        sop_class, instance = reference
        return self.uid(REFERENCED_SOP_CLASS_UID, sop_class) + self.uid(REFERENCED_SOP_INSTANCE_UID, instance)

    def item(self, content: bytes) -> bytes:
        return self._head.pack(0xFFFE, 0xE000, len(content)) + content
