"""Writing one instance: one pass over the bytes, two digests, and nothing said before it is durable."""

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from vna.checkpoints import checkpoint
from vna.errors import DiskFull, SpoolUnusable
from vna.identity import Receipt, safe_name
from vna.platform import free_bytes, sync_folder
from vna.spool.header import dataset_offset, encode_header
from vna.spool.received import received_name

CHECK_EVERY = 64 * 2**20
_NO_SPACE = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
_OPEN = (
    os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
)  # O_BINARY is Windows'


class InstanceWriter:
    """One instance on its way to the disk: `write` its bytes, then `commit` or `abandon`.

    Every method raises `DiskFull` when space runs out and `SpoolUnusable` when the disk fails; only
    `abandon` is left then. A writer that is dropped leaves a `.part` file, which is swept.
    """

    def __init__(
        self,
        folder: Path,
        part_name: str,
        check_space: Callable[[int], None],
        *,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax_uid: str,
        source_aet: str,
    ) -> None:
        self.sop_class_uid = sop_class_uid
        self.sop_instance_uid = sop_instance_uid
        self.transfer_syntax_uid = transfer_syntax_uid
        self._folder = folder
        self._part = folder / part_name
        self._check_space = check_space
        self._header = encode_header(sop_class_uid, sop_instance_uid, transfer_syntax_uid, source_aet)
        self._digest = hashlib.sha256()
        self._size = 0
        self._check_at = CHECK_EVERY
        self._descriptor = -1
        try:
            self._descriptor = os.open(self._part, _OPEN, 0o640)
            self._append(memoryview(self._header))
        except OSError as error:
            self.abandon()
            raise self._failure(error) from error

    def write(self, data: "bytes | bytearray | memoryview") -> None:
        """Append bytes of the data set; they are not kept, so the caller may reuse its buffer."""
        view = memoryview(data)
        self._digest.update(view)
        try:
            self._append(view)
            if self._size >= self._check_at:
                self._check_at = self._size + CHECK_EVERY
                self._check_space(0)
                # else the sender waits for gigabytes to be synced after its last byte, and gives up
                os.fsync(self._descriptor)
        except OSError as error:
            raise self._failure(error) from error

    def commit(self) -> Receipt:
        """Make the instance durable under its final name; only after this may success be said of it.

        The same bytes under the same UID once more in one association are one file.
        """
        dataset_sha256 = self._digest.hexdigest()
        try:
            os.fsync(self._descriptor)
            checkpoint("spool.part_synced")
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)
            name = self._rename(dataset_sha256)
            checkpoint("spool.renamed")
            sync_folder(self._folder)
            checkpoint("spool.folder_synced")
        except OSError as error:
            raise self._failure(error) from error
        return Receipt(
            association=self._folder.name,
            sop_class_uid=self.sop_class_uid,
            sop_instance_uid=self.sop_instance_uid,
            transfer_syntax_uid=self.transfer_syntax_uid,
            header_sha256=hashlib.sha256(self._header).hexdigest(),
            dataset_sha256=dataset_sha256,
            size=self._size,
            file_name=name,
        )

    def abandon(self) -> None:
        """Forget the instance and free its space; what cannot be removed now is swept later."""
        descriptor, self._descriptor = self._descriptor, -1
        with contextlib.suppress(OSError):
            if descriptor >= 0:
                os.close(descriptor)
            self._part.unlink(missing_ok=True)

    def _append(self, view: memoryview) -> None:
        self._size += len(view)
        written = os.write(self._descriptor, view)
        while written < len(view):
            written += os.write(self._descriptor, view[written:])

    def _rename(self, dataset_sha256: str) -> str:
        """Give the part its name; drop it if that very file is there already.

        No other thread adds names to this folder, so looking first is enough; the indexer may take some away.
        """
        number = 1
        while True:
            name = received_name(safe_name(self.sop_instance_uid), dataset_sha256, number)
            target = self._folder / name
            existing = _header_of(target)
            if existing is None:
                self._part.rename(target)
                return name
            if existing == self._header:
                self._part.unlink()
                return name
            number += 1

    def _failure(self, error: OSError) -> DiskFull | SpoolUnusable:
        if error.errno in _NO_SPACE:
            with contextlib.suppress(OSError):
                return DiskFull(str(self._folder), free_bytes(self._folder)[0], 0)
        return SpoolUnusable(str(self._folder), error.strerror or str(error))


def _header_of(path: Path) -> bytes | None:
    try:
        end = dataset_offset(path)
        with path.open("rb") as file:
            return file.read(end)
    except FileNotFoundError:
        return None
