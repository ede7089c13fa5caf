"""Writing one instance: one pass over the bytes, two digests, and nothing said before it is durable."""

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from vna.checkpoints import checkpoint
from vna.errors import DatasetUnreadable, DiskFull, SpoolUnusable
from vna.identity import Receipt, safe_name
from vna.platform import KeptFolder, free_bytes
from vna.spool.digest import Digest
from vna.spool.header import dataset_offset, encode_header
from vna.spool.newfile import NewFile
from vna.spool.received import received_name
from vna.spool.space import CHECK_EVERY

SYNC_EVERY = 64 * 2**20
_NO_SPACE = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


class InstanceWriter:
    """One instance on its way to the disk: `write` its bytes, then `commit` or `abandon`.

    Every method raises `DiskFull` when space runs out and `SpoolUnusable` when the disk fails; only
    `abandon` is left then. A writer that is dropped leaves a `.part` file, which is swept.
    """

    def __init__(
        self,
        folder: Path,
        kept: KeptFolder,
        part_name: str,
        check_space: Callable[[int], None],
        count: Callable[[int], int],
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
        self._kept = kept
        self._part = os.path.join(folder, part_name)  # noqa: PTH118 - a Path costs as much as a system call here
        self._check_space = check_space
        self._count = count
        self._header = encode_header(sop_class_uid, sop_instance_uid, transfer_syntax_uid, source_aet)
        self._digest = Digest()
        self._sync_at = SYNC_EVERY
        self._is_whole = False
        try:
            self._file = NewFile(self._part)
        except OSError as error:
            raise self._failure(error) from error

    def write(self, *pieces: "bytes | bytearray | memoryview", is_last: bool = False) -> None:
        """Append bytes of the data set; they are not kept, so the caller may reuse its buffer.

        `is_last` = nothing follows.
        """
        self._is_whole = is_last
        views = [memoryview(piece) for piece in pieces]
        file = self._file
        written = views if file.size else [memoryview(self._header), *views]
        size = sum(map(len, written))
        if self._count(size) >= CHECK_EVERY:
            self._check_space(size)
        try:
            self._digest.update_while(views, lambda: file.write(written, is_last=is_last))
            if file.size >= self._sync_at and file.is_cached and not is_last:
                # else the sender waits for gigabytes to be synced after its last byte, and gives up
                self._sync_at = file.size + SYNC_EVERY
                file.sync()
        except OSError as error:
            raise self._failure(error) from error

    def commit(self) -> Receipt:
        """Make the instance durable under its final name; only after this may success be said of it.

        The same bytes under the same UID once more in one association are one file.
        """
        if not self._is_whole:
            self.write(is_last=True)
        dataset_sha256 = self._digest.hexdigest()
        try:
            self._file.sync()
            checkpoint("spool.part_synced")
            self._file.close()
            name = self._rename(dataset_sha256)
            checkpoint("spool.renamed")
            self._kept.sync()
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
            size=self._file.size,
            file_name=name,
        )

    def abandon(self) -> None:
        """Forget the instance and free its space; what cannot be removed now is swept later."""
        with contextlib.suppress(OSError):
            self._file.close()
            os.unlink(self._part)  # noqa: PTH108

    def _rename(self, dataset_sha256: str) -> str:
        """Give the part its name, also where that very instance has it already.

        What is there may have rotted, or its name may never have become durable: only what was just written and
        synced is believed. No other thread adds names to this folder, so looking first is enough; the indexer may
        take the name away at any moment, and by then has the same instance safe elsewhere.
        """
        number = 1
        while True:
            name = received_name(safe_name(self.sop_instance_uid), dataset_sha256, number)
            target = os.path.join(self._folder, name)  # noqa: PTH118
            existing = _header_of(target)
            if existing is None or existing == self._header:
                os.replace(self._part, target)  # noqa: PTH105
                return name
            number += 1

    def _failure(self, error: OSError) -> DiskFull | SpoolUnusable:
        if error.errno in _NO_SPACE:
            with contextlib.suppress(OSError):
                return DiskFull(str(self._folder), free_bytes(self._folder)[0], 0)
        return SpoolUnusable(str(self._folder), error.strerror or str(error))


def _header_of(path: str) -> bytes | None:
    """None if there is no such file; empty if the disk damaged its header."""
    if not os.access(path, os.F_OK):  # as usual, and without the cost of an exception
        return None
    try:
        end = dataset_offset(Path(path))
        with Path(path).open("rb") as file:
            return file.read(end)
    except FileNotFoundError:
        return None
    except (DatasetUnreadable, OSError):
        return b""
