"""10,000 fuzzed PDUs and 1,000 fuzzed data sets against the server as it runs (field notes 24, 25, 27, 28, 30).

All the while it is asked by C-ECHO whether it is there. `BACKUPDR_FUZZ_SEED` and `BACKUPDR_FUZZ_PDUS` repeat it
with another seed or more of them.
"""

import contextlib
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from arranging_receiver import CT, EXPLICIT, VERIFICATION, Sender
from fuzzing import _SLOW, EVIL_UIDS, hostile_conversation, hostile_dataset, usual_dataset

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.dicom_scp.arranging_server import server, settings_in, spool_of, until  # noqa: E402
from vna.identity import safe_name  # noqa: E402
from vna.indexing import Indexer  # noqa: E402
from vna.settings import Settings  # noqa: E402

SEED = int(os.environ.get("BACKUPDR_FUZZ_SEED", "20260101"))
PDUS = int(os.environ.get("BACKUPDR_FUZZ_PDUS", "10000"))
DATASETS = 1000
SENDERS = 4

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")


def of_process(pid: int, name: str) -> int:
    """A number of /proc/PID/status: Threads, or VmRSS in KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise LookupError(name)


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def echo_seconds(port: int) -> float:
    """How long it takes to be answered; a refusal for now is asked again, as a modality does."""
    started = time.monotonic()
    while True:
        assert time.monotonic() - started < 15, "no C-ECHO for 15 s"
        with contextlib.suppress(OSError, AssertionError):
            sender = Sender(port, [(VERIFICATION, [EXPLICIT])])
            if sender.kind == 2 and sender.echo(1) == 0:
                sender.release()
                return time.monotonic() - started
            sender.close()
        time.sleep(0.1)


@contextlib.contextmanager
def server_with_log(settings: Settings) -> Iterator[tuple["subprocess.Popen[bytes]", list[bytes]]]:
    """The server as a child, and the lines it says as they come: a full pipe would stop it."""
    lines: list[bytes] = []
    with server(settings) as process:
        assert process.stderr is not None
        reader = threading.Thread(target=lines.extend, args=(process.stderr,))
        reader.start()
        try:
            yield process, lines
        finally:
            process.kill()
            reader.join()


class Echoes:
    """Asks for C-ECHO in the background all the time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stop = threading.Event()
        self.seconds: list[float] = []
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            while not self._stop.wait(0.2):
                self.seconds.append(echo_seconds(self._port))
        except BaseException as error:
            self.failure = error

    def __enter__(self) -> "Echoes":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def attack(port: int, seed: int, wanted: int) -> int:
    """Send hostile conversations until so many fuzzed PDUs are sent; returns how many."""
    chance, sent = random.Random(seed), 0
    while sent < wanted:
        pdus, broken = hostile_conversation(chance)
        sent += broken
        hard, waits = chance.random() < 0.1, chance.random() < 0.3
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as peer:
            peer.settimeout(0.1)
            for number, pdu in enumerate(pdus):
                peer.sendall(pdu)
                if number == 0 and waits:
                    peer.recv(65536)  # the answer to the request, as a usual peer awaits it
            if hard:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            elif chance.random() < _SLOW:
                time.sleep(0.1)
            else:
                peer.shutdown(socket.SHUT_WR)
                while peer.recv(65536):
                    pass
    return sent


def attack_by_several(port: int, seed: int, wanted: int) -> int:
    sent: list[int] = []
    share = -(-wanted // SENDERS)
    threads = [
        threading.Thread(target=lambda number=number: sent.append(attack(port, seed + number, share)))
        for number in range(SENDERS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(sent)


def inside(folder: Path) -> set[str]:
    return {path.relative_to(folder).parts[0] for path in folder.iterdir()}


def settled(claim: Callable[[], bool]) -> None:
    until(claim, seconds=30)


def test_10000_fuzzed_pdus_leave_a_server_that_answers_as_small_as_before(tmp_path: Path) -> None:
    """Field notes 24, 25 and 30."""
    settings = settings_in(tmp_path)
    with server_with_log(settings) as (process, said):
        attack_by_several(
            settings.scp_port, SEED + 1000, 400
        )  # the library's modules, the allocator's arenas
        settled(lambda: echo_seconds(settings.scp_port) < 1)
        time.sleep(1)
        threads, memory = of_process(process.pid, "Threads"), of_process(process.pid, "VmRSS")
        files, outside = descriptors(process.pid), inside(tmp_path / "home")
        with Echoes(settings.scp_port) as echoes:
            assert attack_by_several(settings.scp_port, SEED, PDUS) >= PDUS
        assert echoes.failure is None
        assert len(echoes.seconds) > 10
        assert max(echoes.seconds) < 15
        assert process.poll() is None
        settled(lambda: of_process(process.pid, "Threads") <= threads + 2)
        settled(lambda: descriptors(process.pid) <= files + 2)
        grown = of_process(process.pid, "VmRSS") - memory
        print(
            f"C-ECHO at most {max(echoes.seconds):.2f} s, {len(echoes.seconds)} of them; "
            f"threads {threads} → {of_process(process.pid, 'Threads')}, memory {grown / 1024:+.1f} MiB"
        )
        assert grown < 50 * 1024
        assert inside(tmp_path / "home") == outside
        assert inside(tmp_path) == {"home"}
        assert not list(settings.spool_path.rglob("*.part"))
        for path in settings.spool_path.rglob("*.dcm"):
            assert path.parent.parent == settings.spool_path
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert not [line for line in said if b"Traceback" in line or b"Error:" in line]


def test_1000_fuzzed_data_sets_are_each_placed_or_set_aside_with_a_reason(tmp_path: Path) -> None:
    """Field notes 21, 27, 28 and 30: sent over the network, read by the indexer, nothing lost and nothing invented."""
    settings = settings_in(tmp_path)
    chance = random.Random(SEED)
    with server_with_log(settings) as (process, _):
        contexts = [(CT, [EXPLICIT]), (CT, ["1.2.840.10008.1.2"]), (CT, ["1.2.840.10008.1.2.1.99"])]
        sender = Sender(settings.scp_port, contexts)
        numbers = {syntaxes[0]: 2 * number + 1 for number, (_, syntaxes) in enumerate(contexts)}
        memory = of_process(process.pid, "VmRSS")
        for number in range(DATASETS):
            uid = (
                chance.choice(EVIL_UIDS[:-1])
                if chance.random() < 0.05
                else f"1.2.826.0.1.3680043.10.78.{number}"
            )
            syntax, dataset = hostile_dataset(chance, uid)
            assert sender.store(uid, dataset, context_id=numbers[syntax]) == 0
            if number % 50 == 0:
                usual = f"1.2.826.0.1.3680043.10.79.{number}"
                assert sender.store(usual, usual_dataset(chance, usual)) == 0
        assert echo_seconds(settings.scp_port) < 15
        sender.release()
        assert of_process(process.pid, "VmRSS") - memory < 50 * 1024
    spool = spool_of(settings)
    received = [file for folder in spool.folders() for file in spool.received(folder)]
    assert len(received) >= DATASETS * 0.95  # the same bytes under the same UID are kept once
    placed, named = indexed(settings)
    aside = {entry.path.name.partition(".")[0]: entry.reason for entry in spool.aside()}
    print(f"{len(received)} received, {len(placed)} placed, {len(aside)} set aside")
    assert {file.dataset_sha256 for file in received} == placed | set(aside)
    assert all(aside.values())
    assert len(aside) > DATASETS / 4
    assert {f"1.2.826.0.1.3680043.10.79.{number}" for number in range(0, DATASETS, 50)} <= named
    sent = {file.sop_instance_uid for file in received}
    assert {safe_name(uid) for uid in named} <= sent, "nobody sent what is in the catalog"
    assert inside(tmp_path) == {"home"}


def indexed(settings: Settings) -> tuple[set[str], set[str]]:
    """Run the indexer until the spool is empty; digests of the data sets and instances that are in the catalog."""
    with Indexer(settings) as indexer:
        indexer.migrate()
        deadline = time.monotonic() + 60
        while list(spool_of(settings).folders()) and time.monotonic() < deadline:
            assert not indexer.run_once().errors
    assert not list(spool_of(settings).folders())
    with contextlib.closing(sqlite3.connect(settings.home / "catalog.sqlite")) as catalog:
        digests = {digest for (digest,) in catalog.execute("SELECT dataset_sha256 FROM version")}
        return digests, {uid for (uid,) in catalog.execute("SELECT sop_instance_uid FROM instance")}
