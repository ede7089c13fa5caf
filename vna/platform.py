"""Calls that differ between operating systems, each with its fallback; the only such place.

Linux is where it is tested. On Windows folder entries cannot be synced (NTFS journals them) and the page
cache cannot be dropped per file; what a read-back then proves is said by `read_back_is_from_disk`.
"""

import contextlib
import math
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout

IS_WINDOWS = sys.platform == "win32"

read_back_is_from_disk: bool = hasattr(os, "posix_fadvise")
"""Whether `drop_cache` works here, so that what is read back comes from the disk."""


def sync_folder(folder: Path | str) -> None:
    """Make names in `folder` durable (a renamed file can vanish without this, field note 34)."""
    if IS_WINDOWS:
        return
    descriptor = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class KeptFolder:
    """A folder kept open, because making a new name in it durable is then one call; closed by whoever made it."""

    def __init__(self, path: Path | str) -> None:
        self._descriptor = -1
        if not IS_WINDOWS:
            self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))

    def sync(self) -> None:
        """Make the names in it durable; nothing on Windows, as `sync_folder`."""
        if self._descriptor >= 0:
            os.fsync(self._descriptor)

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def bypass_cache(descriptor: int, *, on: bool) -> bool:
    """Let what is written next to a file opened for plain writing go past the page cache (O_DIRECT); returns whether
    it does now. Addresses, lengths and offsets must then be whole blocks.

    False where the platform or the file system has no such way.
    """
    flag: int = getattr(os, "O_DIRECT", 0)
    if not flag:
        return False
    import fcntl

    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flag if on else 0)
    except OSError:
        return False
    return on


def write_all(descriptor: int, pieces: Sequence[memoryview]) -> None:
    """Write these bytes one after the other, by one system call where the platform has it. Raises `OSError`."""
    left = sum(map(len, pieces))
    if hasattr(os, "writev"):
        written = os.writev(descriptor, pieces)
        if written == left:
            return
    else:
        written = 0
    for piece in pieces:
        done = min(written, len(piece))
        written -= done
        while done < len(piece):
            done += os.write(descriptor, piece[done:])


def drop_cache(descriptor: int) -> None:
    """Ask the kernel to forget its cached pages of an open, already synced file."""
    if read_back_is_from_disk:
        with contextlib.suppress(OSError):  # some network file systems refuse; the manual says what is proven
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def free_bytes(path: Path | str) -> tuple[int, int]:
    """(free for us, total) in bytes of the file system that holds `path`."""
    if IS_WINDOWS:
        import shutil

        usage = shutil.disk_usage(path)
        return usage.free, usage.total
    stat = os.statvfs(path)
    return stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize


def file_system_kind(path: Path | str) -> str:
    """The type of the file system under `path` ("ext4", "nfs4", "cifs"…), empty where it cannot be told."""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    real = os.path.realpath(path)
    best, kind = "", ""
    for line in mounts.splitlines():
        parts = line.split()
        point = parts[1].encode().decode("unicode_escape")
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, parts[2]
    return kind


NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs"})


class HeldLock:
    """An exclusive lock on a file that the system frees when its process ends, however it ends."""

    def __init__(self, lock: FileLock) -> None:
        self._lock = lock
        self.path = Path(lock.lock_file)

    def release(self) -> None:
        self._lock.release()

    def __enter__(self) -> "HeldLock":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def try_lock(path: Path | str) -> HeldLock | None:
    """Take the lock at `path` (made if absent), or None at once if another process or thread holds it."""
    lock = FileLock(path, blocking=False, thread_local=False, is_singleton=False)
    try:
        lock.acquire()
    except Timeout:
        return None
    return HeldLock(lock)


def take_lock(path: Path | str, seconds: float = 2.0) -> HeldLock | None:
    """As `try_lock`, for a lock of our own: whoever looks whether it is held, holds it for a moment."""
    import time

    deadline = time.monotonic() + seconds
    while (lock := try_lock(path)) is None and time.monotonic() < deadline:
        time.sleep(0.02)
    return lock


def is_locked(path: Path | str) -> bool:
    """Whether a living process holds the lock at `path`; False if there is no such file."""
    if not Path(path).exists():
        return False
    lock = try_lock(path)
    if lock is None:
        return True
    lock.release()
    return False


def may_be_running(pid: int) -> bool:
    """Whether there may be such a process; True where asking would end it (Windows)."""
    if IS_WINDOWS:
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def spawn_bound(command: list[str], **kwargs: object) -> "subprocess.Popen[bytes]":
    """Start a child that must not outlive us: it gets a pipe as standard input and ends when that closes.

    The child calls `end_with_parent()`; so it works on every platform and after kill -9 of the parent.
    """
    options: dict[str, object] = {"stdin": subprocess.PIPE, **kwargs}
    return subprocess.Popen(command, **options)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]


def end_with_parent(stop: "threading.Event | None" = None, grace_seconds: float = 10.0) -> None:
    """In a child of `spawn_bound`: when standard input closes, set `stop`, and after the grace period exit hard."""

    def watch() -> None:
        # the raw descriptor: a thread blocked in sys.stdin would dead-lock interpreter shutdown
        while True:
            try:
                if not os.read(0, 4096):
                    break
            except OSError:
                break
        if stop is not None:
            stop.set()
            threading.Event().wait(grace_seconds)
        os._exit(0)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def wait_readable(connection: socket.socket, seconds: float) -> bool:
    """Whether something can be received within so many seconds; by poll where it is, as select ends at descriptor
    1023. Raises `OSError`.
    """
    if connection.fileno() < 0:
        raise ConnectionError("closed")
    if not hasattr(select, "poll"):
        return bool(select.select([connection], [], [], seconds)[0])
    poller = select.poll()
    poller.register(connection, select.POLLIN)
    return bool(poller.poll(math.ceil(seconds * 1000)))


can_share_sockets: bool = not IS_WINDOWS
"""Whether a child can inherit a listening socket, so that several processes serve one port."""


def has_service_manager() -> bool:
    """Whether systemd started us and wants to be told how we are."""
    return bool(os.environ.get("NOTIFY_SOCKET")) and hasattr(socket, "AF_UNIX")


def tell_service_manager(*facts: str) -> None:
    """Tell systemd, where it started us with `Type=notify` ("READY=1", "STATUS=…", sd_notify(3)); else nothing."""
    if not has_service_manager():
        return
    address = os.environ["NOTIFY_SOCKET"]
    where = "\0" + address[1:] if address.startswith("@") else address
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.sendto("\n".join(facts).encode(), where)


def watchdog_seconds() -> float:
    """How often systemd wants a sign of life (`WatchdogSec=`); 0 = never."""
    ours = os.environ.get("WATCHDOG_PID") in {None, str(os.getpid())}
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 if ours and microseconds.isdecimal() else 0.0
