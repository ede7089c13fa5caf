"""`backupdr scp`: its options, and what `--health` says of a server in every state it can be in."""

import contextlib
import datetime
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "dimse"))

from arranging_receiver import Sender, p_data, pdv, store_command  # noqa: E402

from cli.console import HEALTH_NOTHING  # noqa: E402
from cli.findings import look  # noqa: E402
from cli.health import of_indexer  # noqa: E402
from tests.dicom_scp.arranging_server import (  # noqa: E402
    environment,
    free_port,
    know_the_sender,
    server,
    settings_in,
    until,
)
from tests.indexing.arranging import receive, study  # noqa: E402
from vna.dimse.service import answers_itself, running_scp  # noqa: E402
from vna.dimse.status import ScpStatus, read_statuses, together  # noqa: E402
from vna.settings import Settings  # noqa: E402
from vna.site import DicomServer, load_site  # noqa: E402
from vna.spool import Waiting  # noqa: E402

KEYS = {*HEALTH_NOTHING, "problems"}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path)


def health(settings: Settings, *options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "cli", "scp", "--health", *options],
        cwd=ROOT,
        env=environment(settings),
        capture_output=True,
        text=True,
        timeout=60,
    )


def facts(settings: Settings) -> tuple[int, dict[str, object]]:
    said = health(settings, "--json")
    found = json.loads(said.stdout)
    assert said.stdout.count("\n") == 1
    assert set(found) == KEYS
    assert "Traceback" not in said.stderr
    return said.returncode, found


@contextlib.contextmanager
def started(settings: Settings, *options: str) -> Iterator["subprocess.Popen[str]"]:
    """The command as people start it, with its options and without settings of the server."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", "scp", *options],
        cwd=ROOT,
        env={**os.environ, "BACKUPDR_HOME": str(settings.home), "BACKUPDR_SCP_BIND": "127.0.0.1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_the_options_are_the_servers_and_its_health_needs_none_of_them(settings: Settings) -> None:
    port = str(settings.scp_port)
    options = ("--port", port, "--aet", "OTHER", "--processes", "2", "--open")
    with started(settings, *options) as process:
        until(lambda: sum(status.processes for status in read_statuses(settings)) == 2)
        sender = Sender(settings.scp_port, called="OTHER")
        assert sender.store("1.2.3", b"data") == 0
        sender.release()
        until(lambda: together(read_statuses(settings)).instances == 1)
        said = subprocess.run(
            [sys.executable, "-m", "cli", "scp", "--health", "--json"],
            env={**os.environ, "PYTHONPATH": str(ROOT), "BACKUPDR_HOME": str(settings.home)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        found = json.loads(said.stdout)
        assert said.returncode == 0, said.stderr
        assert found["receiving"] is True
        assert (found["aet"], found["port"], found["processes"]) == ("OTHER", settings.scp_port, 2)
        assert (found["instances"], found["accepted"], found["backlog"]) == (1, 1, 1)
        assert found["problems"] == []
        process.send_signal(signal.SIGINT)
        _, log = process.communicate(timeout=30)
        assert process.returncode == 0
        assert "receiving as OTHER" in log


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--aet", "SEVENTEEN_LETTERS"], "an AE title has 1 to 16 printable ASCII characters"),
        (["--port", "0"], "a port is a number from 1 to 65535"),
        (["--processes", "0"], "processes"),
        (["--health", "--port", "104"], "--health tells of the server that runs"),
        (["--json"], "--json belongs to --health"),
        (["--bad", "--json"], "No such option"),
    ],
)
def test_options_that_cannot_be_used_are_one_sentence(
    settings: Settings, options: list[str], sentence: str
) -> None:
    with started(settings, *options) as process:
        _, said = process.communicate(timeout=30)
        assert process.returncode == 2
        assert sentence in said
        assert "Traceback" not in said
    assert not settings.home.exists() or not list(settings.home.iterdir())


def test_whoever_did_not_look_does_not_say_that_nothing_is_received(settings: Settings) -> None:
    said = subprocess.run(
        [sys.executable, "-m", "cli", "scp", "--json"],
        cwd=ROOT,
        env=environment(settings),
        capture_output=True,
        text=True,
        timeout=60,
    )
    found = json.loads(said.stdout)
    assert set(found) == KEYS
    assert found["receiving"] is None
    assert found["problems"] == ["--json belongs to --health; a server that runs has no result."]


def test_a_home_that_is_a_file_or_cannot_be_written_is_one_sentence(settings: Settings) -> None:
    settings.home.touch()
    with started(settings, "--port", str(settings.scp_port)) as process:
        _, said = process.communicate(timeout=30)
        assert process.returncode == 2
        assert said == f"The home {settings.home} is not a folder; set BACKUPDR_HOME to one.\n"
    checked = subprocess.run(
        [sys.executable, "-m", "cli", "check"],
        cwd=ROOT,
        env=environment(settings),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert checked.returncode == 2
    assert checked.stderr == said


def test_a_server_that_finishes_what_is_sent_says_that_it_is_ending_and_a_second_signal_ends_it(
    settings: Settings,
) -> None:
    with server(settings) as process:
        until(lambda: read_statuses(settings))
        sender = Sender(settings.scp_port)
        sender.send(p_data(pdv(1, 3, store_command("1.2.3"))) + p_data(pdv(1, 0, b"half, ")))
        until(lambda: together(read_statuses(settings)).associations)
        process.send_signal(signal.SIGTERM)
        until(lambda: together(read_statuses(settings)).ending)
        until(lambda: running_scp(settings) is None)
        code, found = facts(settings)
        assert (code, found["receiving"]) == (1, False)
        assert "is ending: it takes no new association" in str(found["sentence"])
        assert "(1 association open)" in str(found["sentence"])
        time.sleep(0.6)  # two signals at once are one
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=5)
        assert process.returncode == 128 + signal.SIGTERM
        assert b"finishing what is being received, at most 20 s; Ctrl-C again ends it now" in log
        assert b"ended without finishing" in log
        assert read_statuses(settings) == []


def test_a_second_signal_ends_all_processes_of_a_server(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, scp_processes=2)
    with server(settings) as process:
        until(lambda: together(read_statuses(settings)).processes == 2)
        sender = Sender(settings.scp_port)
        sender.send(p_data(pdv(1, 3, store_command("1.2.3"))) + p_data(pdv(1, 0, b"half, ")))
        receivers = {status.pid for status in read_statuses(settings) if status.processes}
        process.send_signal(signal.SIGINT)
        time.sleep(0.6)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=5)
        assert process.returncode == 128 + signal.SIGINT
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in receivers), 5)


def test_an_indexer_that_was_not_there_yet_is_starting_and_one_that_ended_is_wrong() -> None:
    nothing = Waiting(0, None, ())
    (starting,) = of_indexer(ScpStatus(processes=1, indexer="starting"), nothing)
    assert (starting.wrong, starting.sentence) == (False, "The indexer beside the DICOM server is starting.")
    (ended,) = of_indexer(ScpStatus(processes=1, indexer="ended"), nothing)
    assert ended.wrong


def test_our_own_look_and_a_librarys_plugins_are_not_in_the_log(settings: Settings) -> None:
    with server(settings) as process:
        assert facts(settings)[0] == 0
        sender = Sender(settings.scp_port)
        sender.release()
        query = subprocess.run(
            [
                sys.executable,
                "-c",
                (
                    "import logging; from dicom_scp.receiving import log_plainly; "
                    "from vna.settings import load_settings; log_plainly(load_settings()); import vna.catalog.migrating"
                ),
            ],
            cwd=ROOT,
            env=environment(settings),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (query.returncode, query.stderr) == (0, "")
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=30)
    assert b"SENDER at 127.0.0.1: association accepted" in log
    assert b"BACKUPDR at 127.0.0.1: association" not in log


def test_without_a_server_it_does_not_receive_and_the_backlog_is_told_all_the_same(
    settings: Settings,
) -> None:
    code, found = facts(settings)
    assert code == 1
    assert found["receiving"] is False
    assert found["problems"] == [f"No DICOM server of {settings.home} is running."]
    receive(settings, *study(1, 3))
    code, found = facts(settings)
    assert code == 1
    assert found["backlog"] == 3


def test_a_server_that_hangs_does_not_receive(settings: Settings) -> None:
    with server(settings) as process:
        process.send_signal(signal.SIGSTOP)
        try:
            code, found = facts(settings)
        finally:
            process.send_signal(signal.SIGCONT)
        assert code == 1
        assert "does not answer" in str(found["sentence"])
        until(lambda: facts(settings)[0] == 0)


def test_a_server_whose_disk_is_below_its_reserve_does_not_receive(settings: Settings) -> None:
    full = settings.model_copy(update={"reserve_bytes": 2**60})
    with server(full):
        sender = Sender(full.scp_port)
        assert sender.store("1.2.3", b"data") == 0xA700
        sender.release()
        until(lambda: together(read_statuses(full)).refused_instances)
        code, found = facts(full)
        assert code == 1
        assert found["refused_instances"] == {"0xA700": 1}
        assert "refuses what is sent" in str(found["sentence"])
        assert any("must stay free" in str(problem) for problem in found["problems"])  # type: ignore[union-attr]


def test_who_was_refused_and_why_is_told_also_by_check(settings: Settings) -> None:
    know_the_sender(settings)
    with server(settings, known_only=True):
        for request in ({"called": "ELSEWHERE"}, {"called": "ELSEWHERE"}):
            assert Sender(settings.scp_port, **request).refused == (1, 1, 7)
        until(lambda: together(read_statuses(settings)).refused)
        said = health(settings)
        assert said.returncode == 0, "refusing strangers is what it is there for"
        assert "2 associations refused since its start: 2 × not our AE title called." in said.stdout
        assert "SENDER at 127.0.0.1 was refused at" in said.stdout
        assert "it called ELSEWHERE" in said.stdout
        _, found = facts(settings)
        assert found["refused"] == {"called-aet": 2}
        told = (finding.sentence for finding in look(settings, load_site(settings)))
        assert any("2 associations refused" in sentence for sentence in told)


def test_a_study_counts_as_arriving_until_it_was_quiet_for_the_latency(settings: Settings) -> None:
    know_the_sender(settings)
    receive(settings, *study(1, 2), *study(2, 1))
    with server(settings, "--index"):
        told = ("backlog", "indexer")
        until(lambda: [facts(settings)[1][name] for name in told] == [0, "running"], 30)
        said = health(settings, "--json")
        found = json.loads(said.stdout)
        assert said.returncode == 0
        assert (found["indexer"], found["arriving"]) == ("running", 2)
        assert "2 studies are still arriving: something came within the last 60 s." in said.stderr
        know_the_sender(settings, DicomServer(latency_seconds=0.1))
        assert facts(settings)[1]["arriving"] == 0


def test_by_tls_only_it_asks_itself_by_tls_and_tells_when_the_certificate_ends(
    settings: Settings, tmp_path: Path
) -> None:
    authority = trustme.CA()
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=7, hours=1)
    certificate = authority.issue_cert("backupdr.example", not_after=soon)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    secure = settings_in(
        tmp_path,
        scp_tls_port=settings.scp_port,
        scp_tls_only=True,
        scp_tls_cert=tmp_path / "cert.pem",
        scp_tls_key=tmp_path / "key.pem",
        scp_tls_ca=tmp_path / "ca.pem",
        scp_processes=2,
    )
    with server(secure, known_only=True):
        until(lambda: sum(status.processes for status in read_statuses(secure)) == 2)
        code, found = facts(secure)
        assert code == 0, found
        assert (found["port"], found["tls_port"]) == (None, secure.scp_tls_port)
        assert str(found["certificate_ends"]).startswith(f"{soon:%Y-%m-%d}")
        elsewhere = {name: value for name, value in os.environ.items() if not name.startswith("BACKUPDR_")}
        said = subprocess.run(
            [sys.executable, "-m", "cli", "scp", "--health"],
            env={**elsewhere, "PYTHONPATH": str(ROOT), "BACKUPDR_HOME": str(secure.home)},
            timeout=60,
        )
        assert said.returncode == 0, "the home alone tells how the server was started"
        assert any("in 7 days" in str(problem) for problem in found["problems"])  # type: ignore[union-attr]


def server_only_certificate(folder: Path) -> dict[str, Path]:
    """A certificate with the purpose of servers only, as many authorities make them for a server."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "backupdr.example")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=365))
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    plain, unlocked = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    paths = {f"scp_tls_{what}": folder / f"{what}.pem" for what in ("cert", "key", "ca")}
    paths["scp_tls_cert"].write_bytes(pem)
    paths["scp_tls_ca"].write_bytes(pem)
    paths["scp_tls_key"].write_bytes(key.private_bytes(serialization.Encoding.PEM, plain, unlocked))
    return paths


def test_a_server_that_takes_its_own_certificate_for_no_callers_is_alive_and_receives(tmp_path: Path) -> None:
    files = server_only_certificate(tmp_path)
    secure = settings_in(tmp_path, scp_tls_port=free_port(), scp_tls_only=True, **files)
    with server(secure, known_only=True) as process:
        code, found = facts(secure)
        assert code == 0, found
        assert found["receiving"] is True
        assert "It answers by TLS" in health(secure).stdout
        assert answers_itself(secure)
        process.send_signal(signal.SIGSTOP)
        try:
            assert facts(secure)[0] == 1
            assert not answers_itself(secure)
        finally:
            process.send_signal(signal.SIGCONT)


def test_a_server_without_a_free_place_says_so_though_it_answers_itself(settings: Settings) -> None:
    know_the_sender(settings, DicomServer(max_associations=2))
    with server(settings, "--index", known_only=True):
        senders = [Sender(settings.scp_port) for _ in range(2)]
        until(lambda: together(read_statuses(settings)).full)
        code, found = facts(settings)
        assert (code, found["receiving"]) == (0, True)
        assert any("As many associations as allowed are open" in str(each) for each in found["problems"])  # type: ignore[union-attr]
        senders.pop().release()
        until(lambda: not together(read_statuses(settings)).full)
        assert facts(settings)[1]["problems"] == []
        senders.pop().release()
