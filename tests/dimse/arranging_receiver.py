"""What the receiver's tests arrange: a sender in a few lines, which can also misbehave."""

import re
import socket
import ssl
import struct
from pathlib import Path

import pydicom
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    MaximumLengthNotification,
)
from pynetdicom.presentation import build_context, build_role

from vna.spool import ReceivedFile, Spool, dataset_offset

CT = "1.2.840.10008.5.1.4.1.1.2"
VERIFICATION = "1.2.840.10008.1.1"
PRIVATE_CLASS = "1.3.6.1.4.1.99999.1.2.3"
EXPLICIT = "1.2.840.10008.1.2.1"
TEST_FILES = Path(pydicom.__file__).parent / "data" / "test_files"


def association_request(
    contexts: list[tuple[str, list[str]]],
    called: str = "BACKUPDR",
    max_pdu: int = 131072,
    calling: str = "SENDER",
    roles: dict[str, tuple[bool, bool]] | None = None,
) -> bytes:
    primitive = A_ASSOCIATE()
    primitive.application_context_name = "1.2.840.10008.3.1.1.1"
    primitive.calling_ae_title, primitive.called_ae_title = calling, called
    length = MaximumLengthNotification()
    length.maximum_length_received = max_pdu
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = "1.2.3.4"
    proposals = [build_role(uid, scu_role=scu, scp_role=scp) for uid, (scu, scp) in (roles or {}).items()]
    primitive.user_information = [length, implementation, *proposals]
    proposed = [build_context(name, syntaxes) for name, syntaxes in contexts]
    for number, context in enumerate(proposed):
        context.context_id = 2 * number + 1
    primitive.presentation_context_definition_list = proposed
    pdu = A_ASSOCIATE_RQ()
    pdu.from_primitive(primitive)
    return pdu.encode()


def element(number: int, value: bytes) -> bytes:
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HHI", 0, number, len(value)) + value


def store_command(
    sop_instance_uid: str, sop_class_uid: str = CT, message_id: int = 1, dataset: bool = True
) -> bytes:
    body = (
        element(0x0002, sop_class_uid.encode())
        + element(0x0100, b"\x01\0")
        + element(0x0110, struct.pack("<H", message_id))
        + element(0x0700, b"\0\0")
        + element(0x0800, b"\0\0" if dataset else b"\x01\x01")
        + element(0x1000, sop_instance_uid.encode())
    )
    return element(0x0000, struct.pack("<I", len(body))) + body


def echo_command(message_id: int = 7) -> bytes:
    body = (
        element(0x0002, VERIFICATION.encode())
        + element(0x0100, b"\x30\0")
        + element(0x0110, struct.pack("<H", message_id))
        + element(0x0800, b"\x01\x01")
    )
    return element(0x0000, struct.pack("<I", len(body))) + body


def pdv(context_id: int, control: int, data: bytes) -> bytes:
    return struct.pack(">IBB", len(data) + 2, context_id, control) + data


def p_data(*pdvs: bytes) -> bytes:
    body = b"".join(pdvs)
    return struct.pack(">BBI", 4, 0, len(body)) + body


class Sender:
    """One association, byte by byte."""

    def __init__(
        self,
        port: int,
        contexts: list[tuple[str, list[str]]] | None = None,
        tls: ssl.SSLContext | None = None,
        **request: object,
    ) -> None:
        contexts = contexts or [(CT, [EXPLICIT]), (VERIFICATION, [EXPLICIT])]
        asked = association_request(contexts, **request)  # pyright: ignore[reportArgumentType]
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(asked)
        self.kind, self.answer = self.pdu()

    @property
    def refused(self) -> tuple[int, ...]:
        """Result, source and diagnostic of an A-ASSOCIATE-RJ; empty if it was accepted."""
        return tuple(self.answer[1:4]) if self.kind == 3 else ()

    @property
    def results(self) -> dict[int, int]:
        """Context ID to the result it got: 0 accepted, 1 user rejection, 3 SOP class, 4 transfer syntaxes."""
        return {number: result for number, result, _ in self._contexts()}

    @property
    def syntaxes(self) -> dict[int, str]:
        """Context ID to transfer syntax, of the accepted ones."""
        return {number: syntax for number, result, syntax in self._contexts() if not result}

    def _contexts(self) -> list[tuple[int, int, str]]:
        found = re.findall(rb"\x21\0..(.)\0(.)\0\x40\0..([0-9.]+)", self.answer, re.DOTALL)
        return [(number[0], result[0], syntax.decode()) for number, result, syntax in found]

    def pdu(self) -> tuple[int, bytes]:
        """The next PDU's type and body; (0, b"") when the peer has closed."""
        try:
            head = self.exactly(6)
            return head[0], self.exactly(struct.unpack(">I", head[2:])[0])
        except ConnectionError:
            return 0, b""

    def exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = self.socket.recv(count - len(data))
            if not part:
                raise ConnectionError
            data += part
        return data

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def store(self, sop_instance_uid: str, dataset: bytes, context_id: int = 1, **command: object) -> int:
        """Send one instance, command and data set as a usual sender does; returns the status."""
        self.send(p_data(pdv(context_id, 3, store_command(sop_instance_uid, **command))))  # pyright: ignore[reportArgumentType]
        for start in range(0, max(len(dataset), 1), 100_000):
            last = 2 if start + 100_000 >= len(dataset) else 0
            self.send(p_data(pdv(context_id, last, dataset[start : start + 100_000])))
        return self.status()

    def response(self) -> dict[int, bytes]:
        command = b""
        while True:
            kind, body = self.pdu()
            assert kind == 4, f"PDU type {kind} instead of a response"
            command += body[6:]
            if body[5] & 2:
                break
        values, at = {}, 0
        while at < len(command):
            _, number, length = struct.unpack_from("<HHI", command, at)
            values[number] = command[at + 8 : at + 8 + length]
            at += 8 + length
        return values

    def status(self) -> int:
        return int.from_bytes(self.response()[0x0900], "little")

    def echo(self, context_id: int = 3) -> int:
        self.send(p_data(pdv(context_id, 3, echo_command())))
        return self.status()

    def release(self) -> None:
        self.send(struct.pack(">BBII", 5, 0, 4, 0))
        assert self.pdu()[0] == 6
        self.close()

    def close(self) -> None:
        self.socket.close()


def all_received(spool: Spool) -> list[ReceivedFile]:
    return [file for folder in spool.folders() for file in spool.received(folder)]


def dataset_of(path: Path) -> bytes:
    return path.read_bytes()[dataset_offset(path) :]
