"""Instances on their way out: the first copy that is what was stored, and its bytes as they are.

A copy's digest is taken before the first byte is sent, so that a rotten one is never sent as good. What fits
into a buffer is sent from there: the very bytes that were digested. A larger one is digested again while it is
sent, and its last part is kept back until the digest is known.
"""

import hashlib
import logging
from collections.abc import Callable, Generator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from vna.dimse.index import HeldFile, HeldInstance
from vna.errors import NoGoodCopy

_log = logging.getLogger(__name__)

BUFFER_BYTES = 640 * 1024
"""A CT or MR image of 512 × 512 fits in; more costs memory for each association, and gains nothing."""

Working = Callable[[], None]
"""Called now and then during long work, about each second or each buffer; what it raises ends the work."""


class CopyChanged(Exception):
    """A large copy changed while it was sent: the message must not be completed. It is logged already."""

    def __init__(self, outgoing: "Outgoing") -> None:
        uid, path = outgoing.instance.sop_instance_uid, outgoing.file.path
        _log.error("%s: a copy changed while it was sent, which is cut off: %s", uid, path)
        super().__init__(uid)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An instance with the copy that is sent; `content` is its data set where that fits into the buffer."""

    instance: HeldInstance
    file: HeldFile
    buffer: memoryview
    content: memoryview | None

    def parts(self, multiple: int) -> Generator[tuple[memoryview, bool]]:
        """The data set in parts whose lengths are multiples of `multiple`, but for the last, which is told so.

        Each is valid until the next is asked for. Raises `CopyChanged`.
        """
        if self.content is not None:
            yield self.content, True
            return
        digest = hashlib.sha256()
        left = self.file.size - self.file.header_length
        step = len(self.buffer) // multiple * multiple
        try:
            with _opened(self.file.path) as file:
                file.seek(self.file.header_length)
                while left:
                    part = self.buffer[: min(step, left)]
                    _fill(file, part)
                    digest.update(part)
                    left -= len(part)
                    if not left and digest.hexdigest() != self.file.dataset_sha256:
                        raise CopyChanged(self)
                    yield part, not left
        except OSError as error:
            raise CopyChanged(self) from error


def new_buffer() -> memoryview:
    """What `prepare` reads into; it is the outgoing instance's until that is sent."""
    return memoryview(bytearray(BUFFER_BYTES))


def prepare(instance: HeldInstance, buffer: memoryview, working: Working) -> Outgoing:
    """The first copy whose data set has the digest it was stored with; raises `NoGoodCopy`."""
    reachable = 0
    for file in instance.files:
        try:
            content = _proven(file, buffer, working)
        except OSError as error:
            reason = error.strerror or "too short"
            _log.warning("%s: a copy cannot be read (%s): %s", instance.sop_instance_uid, reason, file.path)
            continue
        if content is not None:
            return Outgoing(instance, file, buffer, content if content.nbytes < len(buffer) else None)
        reachable += 1
        _log.error("%s: a copy is not what was stored: %s", instance.sop_instance_uid, file.path)
    raise NoGoodCopy(instance.sop_instance_uid, reachable)


def _proven(file: HeldFile, buffer: memoryview, working: Working) -> memoryview | None:
    """The data set, or of a larger one what the buffer holds, all of it; None where the content is another.

    Raises `OSError`.
    """
    digest = hashlib.sha256()
    left = size = file.size - file.header_length
    with _opened(file.path) as opened:
        if opened.seek(0, 2) != file.size or size < 0:
            return None
        opened.seek(file.header_length)
        while left:
            part = buffer[: min(len(buffer), left)]
            _fill(opened, part)
            digest.update(part)
            left -= len(part)
            if left:
                working()
    if digest.hexdigest() != file.dataset_sha256:
        return None
    return buffer[: min(size, len(buffer))]


def _opened(path: Path) -> FileIO:
    return FileIO(path, "rb")


def _fill(file: FileIO, view: memoryview) -> None:
    filled = 0
    while filled < len(view):
        count = file.readinto(view[filled:])
        if not count:
            raise OSError("the file became shorter")
        filled += count
