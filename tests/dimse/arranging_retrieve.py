"""What the sending side's tests arrange: an index over files, and a storage SCP that can also misbehave."""

import contextlib
import hashlib
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pydicom
from arranging_receiver import element, p_data, pdv
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import MaximumLengthNotification

from vna.dimse.index import HeldFile, HeldInstance, Query
from vna.errors import CatalogUnavailable
from vna.part10 import header_length
from vna.simulated_pacs import GeneratedStudy


def held_file(path: Path) -> HeldFile:
    """A copy as the catalog would give it, digested as it is now."""
    data = path.read_bytes()
    length = header_length(data)
    digests = (hashlib.sha256(part).hexdigest() for part in (data[:length], data[length:]))
    return HeldFile(path, len(data), length, *digests)


def held(path: Path, *further_copies: Path) -> HeldInstance:
    """A file as a held instance."""
    header = pydicom.dcmread(path, stop_before_pixels=True)
    return HeldInstance(
        str(header.StudyInstanceUID),
        str(header.SeriesInstanceUID),
        str(header.SOPInstanceUID),
        str(header.SOPClassUID),
        str(header.file_meta.TransferSyntaxUID),
        tuple(held_file(each) for each in (path, *further_copies)),
    )


def held_of(studies: Sequence[GeneratedStudy]) -> list[HeldInstance]:
    """All instances of generated studies, in order."""
    return [held(instance.path) for study in studies for instance in study.instances]


def digest(instance: HeldInstance) -> str:
    return instance.files[0].dataset_sha256


@dataclass
class FileIndex:
    """An `InstanceIndex` over instances; `away` makes it fail after so many instances, 0 at once."""

    instances: list[HeldInstance]
    patient_ids: Mapping[str, str] = field(default_factory=dict)
    away: int | None = None
    given: int = 0

    supported_keywords: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def _wanted(self, query: Query) -> list[HeldInstance]:
        names = {
            "StudyInstanceUID": "study_instance_uid",
            "SeriesInstanceUID": "series_instance_uid",
            "SOPInstanceUID": "sop_instance_uid",
        }
        found = self.instances
        for keyword, value in query.keys.items():
            values = set(value.split("\\"))
            if keyword == "PatientID":
                found = [i for i in found if self.patient_ids.get(i.study_instance_uid) in values]
            else:
                found = [i for i in found if getattr(i, names[keyword]) in values]
        return found

    def matches(self, query: Query) -> Iterator[Mapping[str, str]]:
        raise NotImplementedError

    def held(self, query: Query) -> Iterator[HeldInstance]:
        for number, instance in enumerate(self._wanted(query)):
            if number == self.away:
                raise CatalogUnavailable("it was stopped")
            self.given += 1
            yield instance

    def count(self, query: Query) -> int:
        if self.away == 0:
            raise CatalogUnavailable("it was stopped")
        return len(self._wanted(query))

    def syntaxes_held(self) -> Mapping[str, Sequence[str]]:
        if self.away == 0:
            raise CatalogUnavailable("it was stopped")
        common = Counter((i.sop_class_uid, i.transfer_syntax_uid) for i in self.instances).most_common()
        return {cls: [uid for (one, uid), _ in common if one == cls] for (cls, _), _ in common}

    def verified(self, sop_instance_uids: Collection[str]) -> Mapping[str, str]:
        raise NotImplementedError


def spoil(path: Path, at: int = -1) -> None:
    """Change one byte of a file, as a disk does: same size."""
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)


def spoiled(instance: HeldInstance) -> HeldInstance:
    """The same instance where nothing has the digest that was recorded."""
    return replace(instance, files=tuple(replace(f, dataset_sha256="0" * 64) for f in instance.files))


@dataclass
class Stored:
    """What a `StorageScp` got: its UID, digest and Move Originator, and the largest PDU it came in."""

    sop_instance_uid: str
    sha256: str
    originator: tuple[str, int] | None
    largest_pdu: int


Answer = Callable[["StorageScp", socket.socket, int, bytes, bytes], None]
"""(scp, connection, context ID, Message ID, SOP Instance UID): whatever it does instead of a good answer."""


class StorageScp:
    """A storage SCP byte by byte. `answers`: by the number of the request (from 0) what is done instead of success.

    `max_pdu` is what it accepts; `refuses` = transfer syntaxes it does not accept.
    """

    def __init__(
        self,
        answers: Mapping[int, Answer] | None = None,
        *,
        max_pdu: int = 65536,
        refuses: Collection[str] = (),
        always: Answer | None = None,
    ) -> None:
        self.answers, self.max_pdu, self.refuses, self.always = answers or {}, max_pdu, refuses, always
        self.stored: list[Stored] = []
        self.associations: list[list[tuple[str, str]]] = []
        self.calling: list[str] = []
        self.ends: list[str] = []
        self.requests = 0

    @contextlib.contextmanager
    def listening(self) -> Generator[int]:
        listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        try:
            yield listener.getsockname()[1]
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
            listener.close()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection, contextlib.suppress(OSError):
            try:
                self._negotiate(connection)
                while self._one(connection):
                    pass
            except ConnectionError:
                self.ends.append("closed")

    def _negotiate(self, connection: socket.socket) -> None:
        _, pdu = _pdu(connection)
        request = A_ASSOCIATE_RQ()
        request.decode(pdu)
        primitive = request.to_primitive()
        self.calling.append(str(primitive.calling_ae_title).strip())
        results = primitive.presentation_context_definition_list
        self.associations.append([(str(c.abstract_syntax), str(c.transfer_syntax[0])) for c in results])
        for context in results:
            context.result = 4 if str(context.transfer_syntax[0]) in self.refuses else 0
        length = MaximumLengthNotification()
        length.maximum_length_received = self.max_pdu
        primitive.user_information = [length, primitive.user_information[1]]
        primitive.result, primitive.result_source = 0, 1
        primitive.presentation_context_definition_results_list = results
        answer = A_ASSOCIATE_AC()
        answer.from_primitive(primitive)
        connection.sendall(answer.encode())

    def _one(self, connection: socket.socket) -> bool:
        command, data, largest = b"", b"", 0
        while True:
            kind, pdu = _pdu(connection)
            if kind != 4:
                self.ends.append({5: "released", 7: "aborted"}.get(kind, f"PDU {kind}"))
                if kind == 5:
                    connection.sendall(struct.pack(">BBII", 6, 0, 4, 0))
                return False
            largest = max(largest, len(pdu) - 6)
            context_id, control = pdu[10], pdu[11]
            assert struct.unpack_from(">I", pdu, 6)[0] == len(pdu) - 10
            if control & 1:
                command += pdu[12:]
            else:
                data += pdu[12:]
                if control & 2:
                    break
        values = _values(command)
        uid = values[0x1000].rstrip(b"\0")
        number, self.requests = self.requests, self.requests + 1
        answer = self.answers.get(number, self.always)
        if answer is not None:
            answer(self, connection, context_id, values[0x0110], uid)
            return True
        originator = None
        if 0x1030 in values:
            originator = values[0x1030].decode().strip(), int.from_bytes(values[0x1031], "little")
        self.stored.append(Stored(uid.decode(), hashlib.sha256(data).hexdigest(), originator, largest))
        respond(connection, context_id, values[0x0110], uid, 0)
        return True


def respond(
    connection: socket.socket, context_id: int, message_id: bytes, uid: bytes, status: int | None
) -> None:
    """A C-STORE response; without a status where that is None."""
    body = element(0x0100, b"\x01\x80") + element(0x0120, message_id) + element(0x0800, b"\x01\x01")
    if status is not None:
        body += element(0x0900, struct.pack("<H", status))
    body += element(0x1000, uid)
    body = element(0x0000, struct.pack("<I", len(body))) + body
    connection.sendall(p_data(pdv(context_id, 3, body)))


def _pdu(connection: socket.socket) -> tuple[int, bytes]:
    head = _exactly(connection, 6)
    return head[0], head + _exactly(connection, struct.unpack(">I", head[2:])[0])


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise ConnectionError
        data += part
    return data


def _values(command: bytes) -> dict[int, bytes]:
    values, at = {}, 0
    while at < len(command):
        _, number, length = struct.unpack_from("<HHI", command, at)
        values[number] = command[at + 8 : at + 8 + length]
        at += 8 + length
    return values
