"""Our DICOM server with its indexer as processes that may be killed, and senders that remember what they were told."""

import contextlib
import hashlib
import os
import random
import re
import signal
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.chain.arranging import ROOT, children, command_of, eventually, free_port, is_alive, kill_hard, stop
from tests.dimse.arranging_receiver import CT, EXPLICIT, Sender
from vna.catalog import Catalog
from vna.dimse.service import running_scp
from vna.platform import spawn_bound
from vna.settings import Settings
from vna.simulated_pacs import dataset_sha256
from vna.site import UnitDefinition
from vna.spool import Spool
from vna.storage import open_unit
from vna.verification.units import verify_unit

ROOT_UID = "1.2.826.0.1.3680043.10"


def image(sender: int, study: int, number: int, size: int = 2000) -> tuple[str, bytes]:
    """SOP Instance UID and data set (explicit little endian) of an invented image."""
    uid = f"{ROOT_UID}.{sender}.{study}"
    sop = f"{uid}.1.{number}"
    pixels = random.Random(sop).randbytes(64) * (size // 64)
    return sop, b"".join(
        (
            _element(0x0008, 0x0016, b"UI", CT),
            _element(0x0008, 0x0018, b"UI", sop),
            _element(0x0008, 0x0020, b"DA", "20240131"),
            _element(0x0008, 0x0060, b"CS", "CT"),
            _element(0x0010, 0x0010, b"PN", f"Invented^{sender}"),
            _element(0x0010, 0x0020, b"LO", f"P{sender}"),
            _element(0x0020, 0x000D, b"UI", uid),
            _element(0x0020, 0x000E, b"UI", f"{uid}.1"),
            _element(0x0020, 0x0013, b"IS", str(number)),
            struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, len(pixels)),
            pixels,
        )
    )


def _element(group: int, element: int, vr: bytes, text: str) -> bytes:
    value = text.encode() + (b"\0" if vr == b"UI" else b" ") * (len(text) % 2)
    return struct.pack("<HH2sH", group, element, vr, len(value)) + value


class Server:
    """`python -m dicom_scp --index --open` of one home; `more`: its environment each time."""

    def __init__(self, home: Path, *, index: bool = True, **more: str) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.settings = Settings(home=home, scp_port=free_port(), scp_bind="127.0.0.1", reserve_bytes=0)
        self.options = ["--bound", "--open", *(["--index"] if index else [])]
        self.more = more
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        return self.settings.scp_port

    @property
    def log(self) -> Path:
        return self.settings.home / "server.log"

    @property
    def spool(self) -> Spool:
        return Spool(self.settings.spool_path, 0)

    @property
    def environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("BACKUPDR_")}
        return {
            **inherited,
            "BACKUPDR_HOME": str(self.settings.home),
            "BACKUPDR_SCP_PORT": str(self.port),
            "BACKUPDR_SCP_BIND": "127.0.0.1",
            "BACKUPDR_RESERVE_BYTES": "0",
            "PYTHONPATH": str(ROOT),
            **self.more,
        }

    def start(self, **environment: str) -> None:
        """Return when it listens, or has ended already because it was to be killed at its start."""
        with self.log.open("ab") as log:
            process = self.process = spawn_bound(
                [sys.executable, "-m", "dicom_scp", *self.options],
                env={**self.environment, **environment},
                stdout=log,
                stderr=log,
                cwd=ROOT,
            )
        listens = eventually(lambda: running_scp(self.settings) or process.poll() is not None, 30)
        assert listens, "it does not listen"
        assert process.poll() in {None, -signal.SIGKILL}, self.log.read_text(encoding="utf-8")[-2000:]

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.wait_until_dead()

    def wait_until_dead(self, seconds: float = 60) -> None:
        """Return when it was killed and the indexer that it leaves behind has ended."""
        assert self.process is not None
        left = children(self.process.pid)
        assert self.process.wait(seconds) == -signal.SIGKILL, self.log.read_text(encoding="utf-8")[-2000:]
        stop(self.process)
        eventually(lambda: not any(map(is_alive, left)), 30)

    def stop(self) -> None:
        if self.process is not None:
            stop(self.process, 40)

    def indexer(self) -> int:
        """The process id of its indexer, waited for."""
        process = self.process
        assert process is not None
        pid = eventually(
            lambda: next((each for each in children(process.pid) if "vna.indexing" in command_of(each)), 0),
            20,
        )
        assert pid, "there is no indexer"
        return int(pid)

    @contextlib.contextmanager
    def running(self, **environment: str) -> Iterator["Server"]:
        self.start(**environment)
        try:
            yield self
        finally:
            self.stop()

    # -- what is on the disk

    def unit(self) -> UnitDefinition:
        return UnitDefinition(name="default", path=self.settings.default_unit_path)

    def waiting(self) -> list[Path]:
        """Complete files that are in the spool."""
        return [file.path for folder in self.spool.folders() for file in self.spool.received(folder)]

    def stored(self) -> list[Path]:
        return list(self.settings.default_unit_path.rglob("*.dcm"))

    def left_over(self) -> list[str]:
        """Folders of associations that ended, and what is half-written."""
        found = [folder.name for folder in self.spool.folders() if not self.spool.is_open(folder)]
        return found + [
            path.name
            for root in (self.settings.spool_path, self.settings.default_unit_path)
            for path in root.rglob("*.part")
            if path.parent.name != "manifest"
        ]


class Modality(threading.Thread):
    """Sends images one after the other, each again and again until success was said of it.

    A new association every few images; `pause` in seconds between two images. `tls`: how it speaks TLS.
    """

    def __init__(
        self,
        number: int,
        port: int,
        *,
        size: int = 2000,
        pause: float = 0.02,
        per_association: int = 6,
        images: int | None = None,
    ) -> None:
        super().__init__(name=f"modality-{number}", daemon=True)
        self.number, self.port, self.size, self.pause = number, port, size, pause
        self.per_association, self.images = per_association, images
        self.acknowledged: dict[str, str] = {}
        self.tried: dict[str, str] = {}
        self.refused: Counter[int] = Counter()
        self._end = threading.Event()

    def run(self) -> None:
        sent = 0
        while not self._end.is_set() and (self.images is None or sent < self.images):
            sop, dataset = image(self.number, sent // 20, sent % 20, self.size)
            self.tried[sop] = hashlib.sha256(dataset).hexdigest()
            self._send(sop, dataset, sent)
            sent += 1
            self._end.wait(self.pause)
        self._hang_up()

    def end(self) -> None:
        """Let it have its last image acknowledged, and end."""
        self._end.set()
        self.join(60)
        assert not self.is_alive(), f"{self.name} never had its last image acknowledged"

    _sender: Sender | None = None

    def connect(self) -> Sender:
        return Sender(self.port, [(CT, [EXPLICIT])], calling=f"MODALITY{self.number}")

    def _send(self, sop: str, dataset: bytes, sent: int) -> None:
        if sent % self.per_association == 0:
            self._hang_up()
        while True:
            try:
                self._sender = self._sender or self.connect()
                if not self._sender.syntaxes:
                    raise ConnectionError("no association")
                status = self._sender.store(sop, dataset)
            except (OSError, AssertionError, KeyError, struct.error):
                self._hang_up(politely=False)
                time.sleep(0.05)
                continue
            if status == 0:
                self.acknowledged[sop] = self.tried[sop]
                return
            self.refused[status] += 1
            time.sleep(0.1)

    def _hang_up(self, *, politely: bool = True) -> None:
        sender, self._sender = self._sender, None
        if sender is not None:
            with contextlib.suppress(OSError, AssertionError):
                if politely:
                    sender.release()
            sender.close()


def told(modalities: list[Modality]) -> dict[str, str]:
    """SOP Instance UID → digest of all that success was said of."""
    return {sop: digest for each in modalities for sop, digest in list(each.acknowledged.items())}


def tried(modalities: list[Modality]) -> dict[str, str]:
    return {sop: digest for each in modalities for sop, digest in list(each.tried.items())}


def assert_safe(server: Server, modalities: list[Modality], known: set[str]) -> None:
    """Everything acknowledged is whole in the spool or on the unit; `known` = digests read before."""
    acknowledged = told(modalities)
    paths = [
        *server.waiting(),
        *server.stored(),
    ]  # in this order: what is placed meanwhile is seen on the unit
    by_digest: dict[str, Path] = {}
    for path in paths:
        sop, _, rest = path.name.removesuffix(".dcm").rpartition(".")
        by_digest[f"{sop}.{rest[:16]}"] = path
    for sop, digest in acknowledged.items():
        path = by_digest.get(f"{sop}.{digest[:16]}")
        assert path is not None, f"{sop} was acknowledged and is nowhere"
        if digest not in known:
            with contextlib.suppress(FileNotFoundError):  # placed meanwhile: read next time
                assert dataset_sha256(path) == digest, f"{path.name} is not what was sent"
                known.add(digest)


def assert_all_placed(server: Server, modalities: list[Modality], seconds: float = 60) -> None:
    """All of it on the unit, once, with the bytes that were sent; nothing else in the catalog; the spool clean."""
    expected = tried(modalities)
    assert told(modalities) == expected, "a sender gave up"
    eventually(lambda: not server.waiting() and not server.left_over(), seconds)
    assert not server.waiting(), "left in the spool"
    assert server.left_over() == [], "not cleaned"
    with Catalog(server.settings.catalog_database_url) as catalog:
        report = verify_unit(open_unit(server.unit()), catalog, "checksum", server.spool)
        held = [
            (copy.sop_instance_uid, copy.dataset_sha256)
            for page in catalog.copies("default")
            for copy in page
        ]
    assert (report.ok, report.orphaned, report.problems) == (report.checked, 0, []), report
    assert len(held) == len(set(held)), "placed twice"
    assert dict(held) == expected


def boundaries() -> list[str]:
    """Those of the contract, as the code has them, in the order of the data's way."""
    found: list[str] = []
    for room in ("spool", "storage", "indexing"):
        for path in sorted((ROOT / "vna" / room).glob("*.py")):
            found += re.findall(
                r'\bcheckpoint\("((?:spool|place)\.[^"]+)"\)', path.read_text(encoding="utf-8")
            )
    return list(dict.fromkeys(found))


class Endurance:
    """One home whose server is killed again and again while two modalities send."""

    def __init__(self, home: Path, *, senders: int = 2) -> None:
        self.server = Server(home)
        self.modalities = [Modality(number + 1, self.server.port) for number in range(senders)]
        self.known: set[str] = set()
        self.kills = 0

    def begin(self) -> None:
        for modality in self.modalities:
            modality.start()

    def kill_at(self, boundary: str, nth: int) -> None:
        """Start the server to be killed where it, or its indexer, reaches a boundary for the nth time."""
        self.kills += 1
        once = self.server.settings.home / f"killed-{self.kills}"
        self.server.start(BACKUPDR_KILL_AT=f"{boundary}:{nth}", BACKUPDR_KILL_ONCE=str(once))
        assert eventually(once.exists, 60), f"{boundary} was never reached {nth} times"
        if boundary.startswith("spool."):
            self.server.wait_until_dead()
        else:
            before = len(told(self.modalities))
            assert eventually(lambda: len(told(self.modalities)) > before, 20), "its indexer's end stopped it"
            self.server.kill()
        assert_safe(self.server, self.modalities, self.known)

    def kill_after(self, images: int, seconds: float, victim: str) -> None:
        """Start the server and kill it, or its indexer first, so long after so many more images came."""
        self.kills += 1
        self.server.start()
        before = len(told(self.modalities))
        assert eventually(lambda: len(told(self.modalities)) >= before + images, 60), "nothing came"
        time.sleep(seconds)
        if victim == "indexer":
            kill_hard(self.server.indexer())
            time.sleep(seconds)
        self.server.kill()
        assert_safe(self.server, self.modalities, self.known)

    def end(self) -> int:
        """Start it once more, let the senders finish, and look at everything; returns how many images."""
        with self.server.running():
            for modality in self.modalities:
                modality.end()
            assert_all_placed(self.server, self.modalities)
        return len(told(self.modalities))

    def close(self) -> None:
        self.server.stop()
