"""The DICOM server over TLS: mutual, BCP 195, renewed while it runs, and not to be blocked by a silent peer."""

import contextlib
import hashlib
import os
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Callable, Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from arranging_receiver import Sender, all_received, association_request, dataset_of
from arranging_tls import Authority

from vna.dimse.admission import Reason
from vna.dimse.pdata import Loop
from vna.dimse.ports import listen
from vna.dimse.receiver import Receiver
from vna.dimse.server_tls import ServerTls, TlsFiles, expiry
from vna.errors import SettingsError
from vna.settings import Settings
from vna.site import RemoteServer, Site
from vna.spool import read_association

SENDER = RemoteServer(name="ct", aet="SENDER", host="127.0.0.1", port=104)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    folder = tmp_path / "keys"
    folder.mkdir()
    return Authority(folder)


@contextlib.contextmanager
def serving(
    home: Path, files: TlsFiles, *remotes: RemoteServer, loop: Loop = Loop.own, **settings: Any
) -> Generator[Receiver]:
    facts = {"home": home, "scp_bind": "127.0.0.1", "reserve_bytes": 0, "scp_tls_port": 2762}
    made = Settings(**(facts | settings), scp_tls_cert=files.cert, scp_tls_key=files.key, scp_tls_ca=files.ca)
    site = Site(remotes={remote.name: remote for remote in remotes or (SENDER,)})
    plain = None if made.scp_tls_only else listen("127.0.0.1", 0)
    receiver = Receiver.from_settings(made, lambda: site, socket=plain, tls_socket=listen("127.0.0.1", 0))
    receiver._loop = loop
    with receiver:
        yield receiver


def tls_port(receiver: Receiver) -> int:
    assert receiver.tls_port is not None
    return receiver.tls_port


def until(claim: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


@pytest.mark.parametrize("loop", list(Loop))
def test_what_comes_by_tls_is_kept_byte_by_byte_with_the_certificates_subject(
    tmp_path: Path, authority: Authority, loop: Loop
) -> None:
    with serving(tmp_path, authority.server_files(), loop=loop) as receiver:
        sender = Sender(tls_port(receiver), tls=authority.caller())
        assert sender.socket.version() in {"TLSv1.2", "TLSv1.3"}  # pyright: ignore[reportAttributeAccessIssue]
        sent = {f"1.2.{size}": os.urandom(size) for size in (2, 99_999, 3_000_001)}
        for uid, data in sent.items():
            assert sender.store(uid, data) == 0
            assert sender.echo() == 0
        sender.release()
        files = {file.sop_instance_uid: file for file in all_received(receiver.spool)}
        assert {uid: dataset_of(file.path) for uid, file in files.items()} == sent
        assert files["1.2.2"].dataset_sha256 == hashlib.sha256(sent["1.2.2"]).hexdigest()
        (folder,) = receiver.spool.folders()
        assert "CN=ct1.example" in read_association(folder).tls_subject


def test_the_plain_port_goes_on_beside_it_and_only_tls_is_only_tls(
    tmp_path: Path, authority: Authority
) -> None:
    files = authority.server_files()
    with serving(tmp_path / "both", files) as receiver:
        assert Sender(receiver.port).kind == 2
        assert Sender(tls_port(receiver), tls=authority.caller()).kind == 2
        for port, by_tls in ((receiver.port, authority.caller()), (tls_port(receiver), None)):
            with pytest.raises((OSError, AssertionError)):
                Sender(port, tls=by_tls).store("1.2.3", b"")
        until(lambda: receiver.counts.refused == {Reason.tls: 2})
        assert [told.sentence for told in receiver.counts.last_refused] == [
            "it did not use TLS; this is the port for TLS",
            "it began with TLS; this is the plain port",
        ]
    with serving(tmp_path / "only", files, scp_tls_only=True, scp_port=11119) as receiver:
        assert Sender(tls_port(receiver), tls=authority.caller()).kind == 2
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", 11119), timeout=1)


def test_a_caller_without_a_certificate_or_with_a_strangers_gets_nowhere(
    tmp_path: Path, authority: Authority
) -> None:
    (tmp_path / "else").mkdir()
    stranger = Authority(tmp_path / "else").caller()
    stranger.load_verify_locations(authority.ca_file)
    with serving(tmp_path, authority.server_files()) as receiver:
        for context in (authority.caller(None), stranger):
            with pytest.raises((OSError, AssertionError)):
                assert Sender(tls_port(receiver), tls=context).kind == 2
        until(lambda: receiver.counts.refused.get(Reason.tls) == 2)
        sentences = [refusal.sentence for refusal in receiver.counts.last_refused]
        assert "certificate verify failed" in sentences[0]
        assert "peer did not return a certificate" in sentences[1]
        assert Sender(tls_port(receiver), tls=authority.caller()).kind == 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_nothing_below_tls_1_2_and_no_weak_cipher_is_spoken(tmp_path: Path, authority: Authority) -> None:
    old = authority.caller(minimum=ssl.TLSVersion.TLSv1, maximum=ssl.TLSVersion.TLSv1_1)
    old.set_ciphers("ALL:@SECLEVEL=0")
    weak = authority.caller(maximum=ssl.TLSVersion.TLSv1_2)
    weak.set_ciphers("AES128-SHA:AES256-GCM-SHA384:@SECLEVEL=0")
    with serving(tmp_path, authority.server_files()) as receiver:
        for context in (old, weak):
            with pytest.raises(OSError):
                Sender(tls_port(receiver), tls=context)
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            good = authority.caller(minimum=version, maximum=version)
            assert Sender(tls_port(receiver), tls=good).kind == 2


def test_a_remote_server_must_show_its_own_subject(tmp_path: Path, authority: Authority) -> None:
    strict = SENDER.model_copy(update={"tls_subject": "ct1.example"})
    with serving(tmp_path, authority.server_files(), strict) as receiver:
        assert Sender(tls_port(receiver), tls=authority.caller("ct2.example")).refused == (1, 1, 3)
        assert Sender(receiver.port).refused == (1, 1, 3)
        assert Sender(tls_port(receiver), tls=authority.caller()).kind == 2
        assert receiver.counts.refused == {Reason.tls_subject: 1, Reason.tls: 1}


def test_a_silent_peer_at_the_tls_port_keeps_nobody_waiting(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Field note 22."""
    monkeypatch.setattr("vna.dimse.listening.NEGOTIATION_SECONDS", 1.0)
    with serving(tmp_path, authority.server_files()) as receiver:
        threads = threading.active_count()
        silent = [socket.create_connection(("127.0.0.1", tls_port(receiver))) for _ in range(30)]
        half = socket.create_connection(("127.0.0.1", tls_port(receiver)))
        half.sendall(b"\x16\x03\x01\x02\x00\x01")  # the head of a ClientHello
        garbage = socket.create_connection(("127.0.0.1", tls_port(receiver)))
        garbage.sendall(association_request([("1.2.840.10008.1.1", ["1.2.840.10008.1.2"])]))
        assert threading.active_count() == threads
        started = time.monotonic()
        sender = Sender(tls_port(receiver), tls=authority.caller())
        assert sender.echo() == 0
        assert time.monotonic() - started < 0.9
        sender.release()
        for connection in (*silent, half):
            connection.settimeout(5)
            assert connection.recv(1) == b""
        assert receiver.counts.refused[Reason.silent] == 31
        assert receiver.counts.refused[Reason.tls] == 1


def test_a_renewed_certificate_is_shown_to_the_next_caller_and_ends_no_association(
    tmp_path: Path, authority: Authority
) -> None:
    files = authority.server_files(days=30)
    caller = authority.caller()

    def serial() -> int:
        with socket.create_connection(("127.0.0.1", tls_port(receiver))) as connection:
            shown = caller.wrap_socket(connection).getpeercert() or {}
        return int(str(shown["serialNumber"]), 16)

    with serving(tmp_path, files) as receiver:
        sender = Sender(tls_port(receiver), tls=caller)
        before = serial()
        assert receiver.tls is not None
        assert receiver.tls.expires_at - datetime.now(UTC) < timedelta(days=31)
        authority.server_files(days=90)
        until(lambda: serial() != before)
        assert receiver.tls.expires_at - datetime.now(UTC) > timedelta(days=88)
        assert sender.store("1.2.3", b"data") == 0
        sender.release()


def test_new_files_that_cannot_be_used_leave_the_last_good_ones_in_use_and_are_told(
    tmp_path: Path, authority: Authority
) -> None:
    files = authority.server_files()
    spare = authority.folder / "spare.key"
    shutil.copy(files.key, spare)
    tls = ServerTls(files)
    tls._look_at = 0
    good = tls.context()
    files.key.write_bytes(
        authority.pair("other", "other.example")[1].read_bytes()
    )  # not that of the certificate
    for _ in range(2):
        tls._look_at = 0
        assert tls.context() is good
        assert "key values mismatch" in tls.problem
    files.key.unlink()
    tls._look_at = 0
    assert tls.context() is good
    assert "cannot be read" in tls.problem
    spare.rename(files.key)
    tls._look_at = 0
    assert tls.context() is not good
    assert tls.problem == ""


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("server.pem", b"", "server.pem"),
        ("server.pem", b"no certificate", "server.pem"),
        ("server.key", b"no key", "server.key"),
        ("ca.pem", b"no authority", "ca.pem"),
    ],
)
def test_files_that_cannot_be_used_stop_the_start_in_one_sentence(
    tmp_path: Path, authority: Authority, name: str, content: bytes, says: str
) -> None:
    files = authority.server_files()
    (authority.folder / name).write_bytes(content)
    with pytest.raises(SettingsError, match=says) as told:
        ServerTls(files)
    assert "\n" not in str(told.value)


def test_a_key_with_a_password_is_a_sentence_and_not_a_question(tmp_path: Path, authority: Authority) -> None:
    from cryptography.hazmat.primitives import serialization

    files = authority.server_files()
    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    form = serialization.PrivateFormat.TraditionalOpenSSL
    secret = serialization.BestAvailableEncryption(b"secret")
    files.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, secret))
    with pytest.raises(SettingsError, match="without a password"):
        ServerTls(files)


@pytest.mark.parametrize("missing", ["scp_tls_cert", "scp_tls_key", "scp_tls_ca"])
def test_tls_without_one_of_its_files_is_a_sentence(
    tmp_path: Path, authority: Authority, missing: str
) -> None:
    files = authority.server_files()
    named = {"scp_tls_cert": files.cert, "scp_tls_key": files.key, "scp_tls_ca": files.ca}
    with pytest.raises(SettingsError, match="scp_tls_ca"):
        TlsFiles.from_settings(Settings(home=tmp_path, scp_tls_port=2762, **(named | {missing: None})))  # pyright: ignore[reportArgumentType]
    with pytest.raises(SettingsError, match="scp_tls_port"):
        TlsFiles.from_settings(Settings(home=tmp_path, scp_tls_only=True))
    assert TlsFiles.from_settings(Settings(home=tmp_path, **named)) is None  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("year", [2049, 2051])
def test_the_end_of_a_certificate_is_read_in_both_forms_of_time(
    tmp_path: Path, authority: Authority, year: int
) -> None:
    ends = datetime(year, 6, 7, 8, 9, 10, tzinfo=UTC)
    cert = authority.made.issue_cert("localhost", not_after=ends)
    path = tmp_path / "far.pem"
    cert.cert_chain_pems[0].write_to_path(path)
    assert expiry(path) == ends
