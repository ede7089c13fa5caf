"""The DICOM server as a process: started, found, used, drained, killed at every step."""

import contextlib
import hashlib
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "dimse"))

from arranging_receiver import Sender, all_received, dataset_of, p_data, pdv, store_command  # noqa: E402

from tests.dicom_scp.arranging_server import (  # noqa: E402
    know_the_sender,
    server,
    settings_in,
    spool_of,
    until,
)
from vna.dimse.service import receiving, running_scp  # noqa: E402
from vna.errors import PortInUse, SettingsError  # noqa: E402
from vna.platform import take_lock  # noqa: E402
from vna.settings import Settings  # noqa: E402


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path)


def test_a_running_server_is_found_and_after_its_end_it_is_not(settings: Settings) -> None:
    assert running_scp(settings) is None
    with server(settings) as process:
        found = running_scp(settings)
        assert found is not None
        assert (found.aet, found.port, found.pid) == ("BACKUPDR", settings.scp_port, process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert running_scp(settings) is None
    assert not (settings.home / "scp.json").exists()


def test_a_killed_server_is_not_taken_for_a_running_one(settings: Settings) -> None:
    with server(settings) as process:
        process.kill()
        process.wait()
        assert (settings.home / "scp.json").exists()
        assert running_scp(settings) is None


def test_a_second_server_of_a_home_says_so_and_ends(settings: Settings) -> None:
    with server(settings), server(settings.model_copy(update={"scp_port": settings.scp_port})) as second:
        _, said = second.communicate(timeout=20)
        assert second.returncode == 1
        assert b"already running" in said
        assert b"Traceback" not in said


def test_a_strangers_port_is_one_sentence(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", settings.scp_port)), server(settings) as process:
        _, said = process.communicate(timeout=20)
        assert process.returncode == 1
        assert f"Port {settings.scp_port}".encode() in said
        assert b"Traceback" not in said


def test_sigterm_lets_the_object_in_work_be_finished(settings: Settings) -> None:
    with server(settings) as process:
        sender = Sender(settings.scp_port)
        sender.send(p_data(pdv(1, 3, store_command("1.2.3"))) + p_data(pdv(1, 0, b"half, ")))
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        time.sleep(1)
        with pytest.raises(OSError):
            Sender(settings.scp_port)
        sender.send(p_data(pdv(1, 2, b"whole")))
        assert sender.status() == 0
        assert process.wait(20) == 0
    (file,) = all_received(spool_of(settings))
    assert dataset_of(file.path) == b"half, whole"


def test_a_bound_server_ends_with_its_parent(settings: Settings) -> None:
    with server(settings, "--bound") as process:
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
        assert process.wait(20) == 0


def send_until_it_dies(port: int, prefix: str, count: int, acknowledged: list[str]) -> None:
    with contextlib.suppress(OSError, AssertionError):
        sender = Sender(port)
        for number in range(count):
            uid = f"{prefix}.{number}"
            if sender.store(uid, os.urandom(50_000)) == 0:
                acknowledged.append(uid)


STEPS = ("spool.opened", "spool.part_synced", "spool.renamed", "spool.folder_synced")


@pytest.mark.parametrize(
    "step", [f"{name}:{count}" for name in STEPS[1:] for count in (1, 7)] + [f"{STEPS[0]}:2"]
)
def test_nothing_acknowledged_to_two_senders_is_lost_when_the_server_is_killed(
    settings: Settings, step: str
) -> None:
    acknowledged: list[str] = []
    with server(settings, BACKUPDR_KILL_AT=step) as process:
        senders = [
            threading.Thread(
                target=send_until_it_dies, args=(settings.scp_port, f"1.2.{n}", 10, acknowledged)
            )
            for n in range(2)
        ]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join(30)
        assert process.wait(20) == -signal.SIGKILL
    spool = spool_of(settings)
    assert set(acknowledged) <= spool.pending(acknowledged)
    for file in all_received(spool):
        assert hashlib.sha256(dataset_of(file.path)).hexdigest() == file.dataset_sha256
    with server(settings):
        sender = Sender(settings.scp_port)
        assert sender.store("1.9", b"after") == 0
        sender.release()
    for folder in list(spool.folders()):
        for file in spool.received(folder):
            spool.remove_received(file)
        until(lambda folder=folder: spool.sweep(folder))
    assert list(spool.folders()) == []


def resident_kib(pid: int, field: str = "VmHWM") -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    raise AssertionError("no such field")


@pytest.mark.parametrize("loop", ["own", "library"])
def test_memory_is_the_same_for_half_a_megabyte_and_for_a_gigabyte(settings: Settings, loop: str) -> None:
    with server(settings, BACKUPDR_RECEIVE_LOOP=loop) as process:
        sender = Sender(settings.scp_port)
        for number in range(20):
            assert sender.store(f"1.2.{number}", os.urandom(500_000)) == 0
        small = resident_kib(process.pid)
        size = 2**30 if loop == "own" else 2**28  # the library's loop takes its time
        sender.socket.settimeout(120)
        chunk = p_data(pdv(1, 0, os.urandom(131_000)))
        sender.send(p_data(pdv(1, 3, store_command("1.2.99"))))
        for _ in range(size // 131_000):
            sender.send(chunk)
        sender.send(p_data(pdv(1, 2, b"end.")))
        assert sender.status() == 0
        large = resident_kib(process.pid)
        sender.release()
    print(f"{loop}: {small} KiB after small objects, {large} KiB after {size} bytes")
    assert large - small < 30 * 1024
    assert large < 150 * 1024


def test_receiving_by_c_get_starts_nothing(settings: Settings) -> None:
    with receiving(settings, by_move=False):
        assert running_scp(settings) is None


def test_receiving_starts_a_server_and_ends_it(settings: Settings) -> None:
    know_the_sender(settings)
    with receiving(settings, by_move=True):
        assert running_scp(settings) is not None
        sender = Sender(settings.scp_port)
        assert sender.store("1.2.3", b"data") == 0
        sender.release()
    assert running_scp(settings) is None
    assert len(all_received(spool_of(settings))) == 1


def test_receiving_uses_the_server_that_runs_and_leaves_it_running(settings: Settings) -> None:
    with server(settings) as process:
        with receiving(settings, by_move=True):
            found = running_scp(settings)
            assert found is not None
            assert found.pid == process.pid
        assert process.poll() is None
        assert running_scp(settings) == found


def test_a_server_that_runs_on_another_port_than_the_settings_say_is_not_used(settings: Settings) -> None:
    changed = settings.model_copy(update={"scp_port": settings.scp_port + 1})
    with (
        server(settings),
        pytest.raises(SettingsError, match="start it again"),
        receiving(changed, by_move=True),
    ):
        raise AssertionError("the block must not be entered")


def test_receiving_goes_on_when_the_server_it_used_goes_away(settings: Settings) -> None:
    know_the_sender(settings)
    with server(settings) as process, receiving(settings, by_move=True):
        process.kill()
        process.wait()
        until(lambda: running_scp(settings) is not None)
        own = running_scp(settings)
        assert own is not None
        os.kill(own.pid, signal.SIGKILL)  # and again when its own is killed
        until(lambda: (now := running_scp(settings)) is not None and now.pid != own.pid)
        sender = Sender(settings.scp_port)
        assert sender.store("1.2.3", b"data") == 0
        sender.release()
    assert running_scp(settings) is None


def test_what_a_killed_server_said_is_not_believed_of_its_successor(settings: Settings) -> None:
    with server(settings) as process:
        facts = (settings.home / "scp.json").read_bytes()
        process.kill()
        process.wait()
        (settings.home / "scp.json").write_bytes(facts)
        with take_lock(settings.home / "scp.lock") or pytest.fail("the lock of a killed server is held"):
            assert running_scp(settings) is None


def test_two_runs_at_once_share_one_server_and_the_last_keeps_it(settings: Settings) -> None:
    with receiving(settings, by_move=True):
        with contextlib.ExitStack() as first:
            first.enter_context(receiving(settings, by_move=True))
        until(lambda: running_scp(settings) is not None)


def test_receiving_with_a_strangers_port_is_one_sentence(settings: Settings) -> None:
    with (
        socket.create_server(("127.0.0.1", settings.scp_port)),
        pytest.raises(PortInUse),
        receiving(settings, by_move=True),
    ):
        pass


def test_a_server_that_cannot_use_its_spool_is_named(settings: Settings) -> None:
    settings.home.mkdir()
    (settings.home / "spool").write_text("")
    with pytest.raises(Exception, match="spool"), receiving(settings, by_move=True):
        pass
