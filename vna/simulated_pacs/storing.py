"""The C-STORE service (PS3.4 B): what is stored here lies in the folder `received`, bytes as they came."""

import contextlib
from collections.abc import Generator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from vna.identity import safe_name
from vna.simulated_pacs.channel import (
    AFFECTED_SOP_CLASS,
    AFFECTED_SOP_INSTANCE,
    Channel,
    Command,
    Message,
)
from vna.simulated_pacs.elements import file_header
from vna.simulated_pacs.folder import Folder, read_stored
from vna.simulated_pacs.querying import SUCCESS, response_to

_OUT_OF_RESOURCES, _CANNOT_UNDERSTAND, _NOT_AS_SAID = 0xA700, 0xC000, 0xA900


class Incoming:
    """One instance on its way in. A disk that fails is remembered for the answer; the rest is read and dropped."""

    def __init__(self, path: Path, header: bytes) -> None:
        self.path, self.failure = path, ""
        self._file: BinaryIO | None = None
        try:
            path.parent.mkdir(exist_ok=True)
            self._file = path.open("wb")
            self._file.write(header)
        except OSError as error:
            self.failure = error.strerror or "the disk failed"

    def write(self, data: memoryview, /) -> None:
        if self._file is not None and not self.failure:
            try:
                self._file.write(data)
            except OSError as error:
                self.failure = error.strerror or "the disk failed"

    def __enter__(self) -> "Incoming":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            try:
                self._file.close()
            except OSError as error:
                self.failure = self.failure or error.strerror or "the disk failed"
        if kind is not None or self.failure:
            self.path.unlink(missing_ok=True)


class Storing:
    """Receives the instances of one association."""

    def __init__(self, channel: Channel, data: Path, folder: Folder, number: int) -> None:
        self._channel, self._folder = channel, folder
        self._received = data / "received"
        self._partial = self._received / f"{number}.part"
        self._incoming: Incoming | None = None

    def sink(self, command: Command, context_id: int) -> Incoming:
        """Where the data set of a request is written."""
        context = self._channel.contexts[context_id]
        header = file_header(
            {
                0x00020002: ("UI", str(command.get(AFFECTED_SOP_CLASS, "")).encode("ascii", "replace")),
                0x00020003: ("UI", str(command.get(AFFECTED_SOP_INSTANCE, "")).encode("ascii", "replace")),
                0x00020010: ("UI", context.transfer_syntax.encode("ascii", "replace")),
                0x00020012: ("UI", b"2.25.314159265358979323846"),
                0x00020016: ("AE", self._channel.calling_aet.encode("ascii", "replace")),
            }
        )
        self._incoming = Incoming(self._partial, header)
        return self._incoming

    def serve(self, request: Message) -> str:
        """Answer a request whose data set has come; returns the SOP Instance UID stored, "" if it was not."""
        uid = request.text(AFFECTED_SOP_INSTANCE)
        status, comment = self._keep(uid)
        response = response_to(request, status, comment)
        self._channel.send(request.context_id, {**response, AFFECTED_SOP_INSTANCE: uid})
        return uid if status == SUCCESS else ""

    def _keep(self, uid: str) -> tuple[int, str]:
        incoming, self._incoming = self._incoming, None
        if incoming is None:
            return _CANNOT_UNDERSTAND, "no data set came"
        if incoming.failure:
            return _OUT_OF_RESOURCES, incoming.failure
        with _removed_unless_kept(incoming.path):
            try:
                stored = read_stored(incoming.path)
                if stored is None:
                    return _CANNOT_UNDERSTAND, "the data set cannot be read"
                if stored.sop_instance_uid != uid:
                    return _NOT_AS_SAID, "another SOP Instance UID than in the command"
                path = self._received / f"{safe_name(uid)}.dcm"
                incoming.path.replace(path)
                self._folder.add(path)
            except OSError as error:
                return _OUT_OF_RESOURCES, error.strerror or "the disk failed"
        return SUCCESS, ""


@contextlib.contextmanager
def _removed_unless_kept(path: Path) -> Generator[None]:
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
