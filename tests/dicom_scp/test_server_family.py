"""The server as a family of processes: several behind one port, what changes while it runs, what it says of itself."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "dimse"))

from arranging_receiver import CT, EXPLICIT, Sender, all_received, dataset_of, p_data, pdv, store_command  # noqa: E402

from tests.dicom_scp.arranging_server import (  # noqa: E402
    environment,
    know_the_sender,
    server,
    settings_in,
    spool_of,
    until,
)
from vna.dimse.admission import Knock, Refusal, Rules, admit  # noqa: E402
from vna.dimse.callers import Caller  # noqa: E402
from vna.dimse.service import answers_itself, echo_ourselves, running_scp  # noqa: E402
from vna.dimse.status import ScpStatus, read_statuses, status_folder, together, write_status  # noqa: E402
from vna.settings import Settings  # noqa: E402
from vna.simulated_pacs import write_studies  # noqa: E402
from vna.site import DicomServer, Site, UnitDefinition, publish_site  # noqa: E402
from vna.storage import create_unit  # noqa: E402


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path)


def receivers_of(settings: Settings) -> set[int]:
    """The processes that take associations."""
    return {status.pid for status in read_statuses(settings) if status.processes}


def now(settings: Settings) -> ScpStatus:
    return together(read_statuses(settings))


class TestSeveralProcesses:
    """`--processes N`: one port, N processes."""

    @pytest.fixture
    def settings(self, tmp_path: Path) -> Settings:
        return settings_in(tmp_path, scp_processes=2)

    def test_two_processes_serve_one_port_and_count_together(self, settings: Settings) -> None:
        with server(settings) as parent:
            until(lambda: len(receivers_of(settings)) == 2)
            assert parent.pid not in receivers_of(settings)
            senders = [Sender(settings.scp_port) for _ in range(12)]
            for number, sender in enumerate(senders):
                assert sender.store(f"1.2.{number}", b"data") == 0
            until(lambda: now(settings).instances == 12)
            assert now(settings).associations == 12
            assert all(status.accepted for status in read_statuses(settings) if status.processes)
            for sender in senders:
                sender.release()
            until(lambda: now(settings).associations == 0)
            parent.send_signal(signal.SIGTERM)
            assert parent.wait(20) == 0
        assert len(all_received(spool_of(settings))) == 12
        assert list(status_folder(settings).iterdir()) == []

    def test_a_killed_process_is_replaced_and_nothing_acknowledged_is_lost(self, settings: Settings) -> None:
        with server(settings):
            until(lambda: len(receivers_of(settings)) == 2)
            before = receivers_of(settings)
            acknowledged: list[str] = []
            stop = threading.Event()

            def send(prefix: str) -> None:
                number = 0
                while not stop.is_set():
                    with contextlib.suppress(OSError, AssertionError):
                        sender = Sender(settings.scp_port)
                        for _ in range(20):
                            number += 1
                            uid = f"{prefix}.{number}"
                            if sender.store(uid, os.urandom(20_000)) == 0:
                                acknowledged.append(uid)
                        sender.release()

            threads = [threading.Thread(target=send, args=(f"1.2.{n}",)) for n in range(3)]
            for thread in threads:
                thread.start()
            time.sleep(0.5)
            for pid in before:
                os.kill(pid, signal.SIGKILL)
                until(lambda pid=pid: pid not in receivers_of(settings))
            until(lambda: len(receivers_of(settings) - before) == 2)
            count = len(acknowledged)
            until(lambda: len(acknowledged) > count + 20)
            stop.set()
            for thread in threads:
                thread.join(30)
        assert set(acknowledged) <= spool_of(settings).pending(acknowledged)

    def test_connections_wait_at_the_port_while_no_process_is_there_to_take_them(
        self, settings: Settings
    ) -> None:
        with server(settings):
            until(lambda: len(receivers_of(settings)) == 2)
            for pid in receivers_of(settings):
                os.kill(pid, signal.SIGKILL)
            sender = Sender(settings.scp_port)
            assert sender.store("1.2.3", b"data") == 0

    def test_sigterm_lets_each_process_finish_what_it_receives(self, settings: Settings) -> None:
        with server(settings) as parent:
            until(lambda: len(receivers_of(settings)) == 2)
            senders = [Sender(settings.scp_port) for _ in range(6)]
            for number, sender in enumerate(senders):
                sender.send(p_data(pdv(1, 3, store_command(f"1.2.{number}"))) + p_data(pdv(1, 0, b"half, ")))
            time.sleep(0.3)
            parent.send_signal(signal.SIGTERM)
            time.sleep(1)
            with pytest.raises(OSError):
                Sender(settings.scp_port)
            for sender in senders:
                sender.send(p_data(pdv(1, 2, b"whole")))
                assert sender.status() == 0
            assert parent.wait(20) == 0
        received = all_received(spool_of(settings))
        assert [dataset_of(file.path) for file in received] == [b"half, whole"] * 6

    def test_they_end_with_their_parent_even_if_it_is_killed(self, settings: Settings) -> None:
        with server(settings) as parent:
            until(lambda: len(receivers_of(settings)) == 2)
            pids = receivers_of(settings)
            parent.kill()
            parent.wait()
            until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
        with server(settings):  # and what the killed one left of its status is gone
            until(lambda: len(receivers_of(settings)) == 2)
            assert not pids & receivers_of(settings)

    def test_ctrl_c_in_the_terminal_reaches_all_and_still_ends_in_order(self, settings: Settings) -> None:
        command = [sys.executable, "-m", "dicom_scp", "--open"]
        parent = subprocess.Popen(command, cwd=ROOT, env=environment(settings), start_new_session=True)
        try:
            until(lambda: len(receivers_of(settings)) == 2)
            sender = Sender(settings.scp_port)
            sender.send(p_data(pdv(1, 3, store_command("1.2.3"))) + p_data(pdv(1, 0, b"half, ")))
            time.sleep(0.3)
            os.killpg(parent.pid, signal.SIGINT)
            time.sleep(0.5)
            sender.send(p_data(pdv(1, 2, b"whole")))
            assert sender.status() == 0
            assert parent.wait(20) == 0
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(parent.pid, signal.SIGKILL)
            parent.wait()

    def test_a_strangers_port_is_one_sentence_and_no_process_is_left(self, settings: Settings) -> None:
        with socket.create_server(("127.0.0.1", settings.scp_port)), server(settings) as parent:
            _, said = parent.communicate(timeout=20)
            assert parent.returncode == 1
            assert said.count(f"Port {settings.scp_port}".encode()) == 1
            assert b"Traceback" not in said

    def test_where_a_port_cannot_be_shared_one_process_serves_it_and_says_so(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        from dicom_scp import family

        monkeypatch.setattr(family, "can_share_sockets", False)
        stop = threading.Event()
        runner = threading.Thread(
            target=family.run_family, args=(settings,), kwargs={"stop": stop, "open_to_loopback": True}
        )
        runner.start()
        try:
            until(lambda: receivers_of(settings) == {os.getpid()})
            assert "cannot share a port" in caplog.text
            sender = Sender(settings.scp_port)
            assert sender.store("1.2.3", b"data") == 0
            sender.release()
        finally:
            stop.set()
            runner.join(30)


class TestChangesWhileItRuns:
    """`site.json` takes effect without a restart, and nobody is dropped."""

    def test_who_becomes_known_is_taken_and_who_was_open_stays_open(self, settings: Settings) -> None:
        know_the_sender(settings)
        with server(settings, known_only=True):
            open_before = Sender(settings.scp_port)
            know_the_sender(settings, aet="ANOTHER")
            until(lambda: refused_by(settings.scp_port))
            assert open_before.store("1.2.1", b"data") == 0
            know_the_sender(settings, aet="ANOTHER", calling_aets=["SENDER"])
            until(lambda: not refused_by(settings.scp_port))
            assert open_before.store("1.2.2", b"data") == 0
            open_before.release()
            until(lambda: now(settings).refused.get("calling-aet", 0) > 0)
            refusal = now(settings).last_refusals[0]
            assert (refusal.calling_aet, refusal.address) == ("SENDER", "127.0.0.1")
            assert "SENDER" in refusal.sentence

    def test_a_site_file_that_cannot_be_used_leaves_the_last_good_one_and_is_told(
        self, settings: Settings
    ) -> None:
        know_the_sender(settings)
        with server(settings, known_only=True):
            settings.site_path.write_text("{", encoding="utf-8")
            until(lambda: now(settings).problems)
            (problem,) = now(settings).problems
            assert str(settings.site_path) in problem
            assert "last good one" in problem
            sender = Sender(settings.scp_port)
            assert sender.store("1.2.1", b"data") == 0
            sender.release()
            know_the_sender(settings)
            until(lambda: not now(settings).problems)

    def test_the_log_level_changes_at_run_time_and_names_no_patient(self, settings: Settings) -> None:
        know_the_sender(settings, DicomServer(log_level="debug"))
        with server(settings, known_only=True) as process:
            until(lambda: now(settings).processes)
            sender = Sender(settings.scp_port, [(CT, [EXPLICIT]), ("1.2.840.10008.5.1.4.31", [EXPLICIT])])
            sender.store("1.2.1", b"Doe^Jane")
            sender.release()
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=20)
        assert b"Doe" not in said
        assert b"log level is debug now" in said
        assert f"for {CT} in {EXPLICIT}: accepted with {EXPLICIT}".encode() in said
        assert (
            b"for 1.2.840.10008.5.1.4.31 in 1.2.840.10008.1.2.1: refused, the service is not offered" in said
        )
        assert b"instance 1.2.1, " in said


def refused_by(port: int) -> bool:
    sender = Sender(port)
    if sender.refused:
        sender.close()
        return True
    sender.release()
    return False


class TestWithoutItsParts:
    """Receiving needs a disk, and nothing else."""

    def test_a_server_that_receives_has_loaded_no_database(self, settings: Settings) -> None:
        program = (
            "import os, sys, threading, time\n"
            "sys.path.insert(0, 'tests/dimse')\n"
            "from arranging_receiver import Sender\n"
            "from dicom_scp.family import run_family\n"
            "from vna.settings import load_settings\n"
            "settings, stop = load_settings(), threading.Event()\n"
            "server = threading.Thread(target=run_family, args=(settings,),\n"
            "                          kwargs={'stop': stop, 'open_to_loopback': True})\n"
            "server.start()\n"
            "while not (settings.home / 'scp.json').exists(): time.sleep(0.02)\n"
            "sender = Sender(settings.scp_port)\n"
            "assert sender.store('1.2.3', b'data') == 0\n"
            "sender.release()\n"
            "time.sleep(2.5)  # its looks at commitments and its status\n"
            "print(sorted(name for name in sys.modules if name.split('.')[0] in\n"
            "             {'sqlalchemy', 'sqlmodel', 'alembic', 'psycopg', 'prefect'}))\n"
            "stop.set()\n"
            "server.join()\n"
        )
        said = subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env=environment(settings),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert said.stdout.strip() == "[]", said.stderr

    def test_a_query_while_the_catalog_is_away_is_refused_and_receiving_goes_on(
        self, settings: Settings
    ) -> None:
        from pydicom.dataset import Dataset
        from pynetdicom.ae import ApplicationEntity

        away = settings.model_copy(
            update={"catalog_url": "postgresql://nobody@127.0.0.1:1/none?connect_timeout=1"}
        )
        study_root_find = "1.2.840.10008.5.1.4.1.2.2.1"
        with server(away):
            entity = ApplicationEntity("SENDER")
            entity.add_requested_context(study_root_find)
            association = entity.associate("127.0.0.1", away.scp_port, ae_title="BACKUPDR")
            assert association.is_established
            query = Dataset()
            query.QueryRetrieveLevel, query.StudyInstanceUID = "STUDY", ""
            statuses = [status.Status for status, _ in association.send_c_find(query, study_root_find)]
            association.release()
            assert statuses
            assert statuses[-1] & 0xF000 in {0xA000, 0xC000}
            sender = Sender(away.scp_port)
            assert sender.store("1.2.3", b"data") == 0
            sender.release()


def test_what_nobody_asked_for_is_placed_in_the_one_unit_and_found_by_a_query(
    settings: Settings, tmp_path: Path
) -> None:
    from pydicom.dataset import Dataset
    from pynetdicom.ae import ApplicationEntity

    unit = UnitDefinition(name="nas1", path=tmp_path / "nas1")
    create_unit(unit)
    publish_site(settings, Site(units={"nas1": unit}))
    (study,) = write_studies(tmp_path / "data", 1, instances=3)
    query = Dataset()
    query.QueryRetrieveLevel, query.StudyInstanceUID = "STUDY", study.study_instance_uid
    query.NumberOfStudyRelatedInstances = ""
    with server(settings.model_copy(update={"scp_processes": 2}), "--index"):
        entity = ApplicationEntity("ANYBODY")
        for uid in ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.2.2.1"):
            entity.add_requested_context(uid)
        association = entity.associate("127.0.0.1", settings.scp_port, ae_title="BACKUPDR")
        for path in sorted((tmp_path / "data").rglob("*.dcm")):
            assert association.send_c_store(path).Status == 0
        until(lambda: len(list(unit.path.rglob("*.dcm"))) == 3, 30)
        until(lambda: not spool_of(settings).waiting().files, 30)
        answers = list(association.send_c_find(query, "1.2.840.10008.5.1.4.1.2.2.1"))
        association.release()
    assert [status.Status for status, _ in answers] == [0xFF00, 0]
    assert answers[0][1].NumberOfStudyRelatedInstances == 3


class TestServiceManager:
    """systemd's Type=notify."""

    def test_it_tells_systemd_that_it_is_ready_alive_and_stopping(
        self, settings: Settings, tmp_path: Path
    ) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(str(tmp_path / "notify"))
            manager.settimeout(20)
            more = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1000000"}
            with server(settings, **more) as process:
                told = [manager.recv(4096).decode()]
                assert told[0].startswith("READY=1\nSTATUS=receiving as BACKUPDR")
                while not any("WATCHDOG=1" in each for each in told):
                    told.append(manager.recv(4096).decode())
                process.send_signal(signal.SIGTERM)
                while "STOPPING=1" not in told[-1]:
                    told.append(manager.recv(4096).decode())
                assert process.wait(20) == 0

    def test_a_server_that_hangs_gives_no_sign_of_life(self, settings: Settings) -> None:
        with server(settings) as process:
            assert answers_itself(settings)
            process.send_signal(signal.SIGSTOP)
            try:
                assert not answers_itself(settings)
            finally:
                process.send_signal(signal.SIGCONT)

    def test_a_server_that_is_full_is_alive(self, settings: Settings) -> None:
        full = settings.model_copy(update={"max_associations": 2})
        with server(full):
            senders = [Sender(full.scp_port) for _ in range(2)]
            assert refused_by(full.scp_port)
            assert answers_itself(full)
            for sender in senders:
                sender.release()


def test_our_own_question_is_answered_although_nobody_is_known(settings: Settings) -> None:
    with server(settings, known_only=True):
        assert echo_ourselves(settings).seconds < 5


def test_we_are_known_to_ourselves_also_where_we_listen_on_one_address_only() -> None:
    rules = Rules(("BACKUPDR",))
    from_here = Knock("BACKUPDR", "BACKUPDR", "192.0.2.5", called_address="192.0.2.5")
    from_elsewhere = Knock("BACKUPDR", "BACKUPDR", "192.0.2.6", called_address="192.0.2.5")
    admitted = admit(rules, from_here)
    assert isinstance(admitted, Caller)
    assert not admitted.may_store
    assert not admitted.may_retrieve
    assert isinstance(admit(rules, from_elsewhere), Refusal)


def test_what_killed_processes_said_is_not_believed_for_long(settings: Settings) -> None:
    write_status(settings, ScpStatus(pid=1, at=time.time() - 60, processes=1, associations=3))
    write_status(settings, ScpStatus(pid=2, at=time.time(), processes=1, associations=4))
    (status_folder(settings) / "3.json").write_text("{", encoding="utf-8")
    assert now(settings).associations == 4
    assert running_scp(settings) is None
