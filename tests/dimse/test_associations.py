"""What goes wrong between two peers becomes one sentence; each test is one thing that goes wrong."""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from pynetdicom import AE, evt
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import Verification

from vna.dimse import OurNode, associate, echo
from vna.dimse.associations import _PeerSocket
from vna.errors import (
    AnswerInvalid,
    AssociationAborted,
    AssociationRejected,
    PeerTimeout,
    RemoteUnreachable,
    ServiceNotAccepted,
    TlsFailed,
)
from vna.site import RemoteServer, Tls

NODE = OurNode("BACKUPDR", connect_timeout=1, acse_timeout=1, dimse_timeout=1, network_timeout=5)


def remote(port: int, **changes: object) -> RemoteServer:
    return RemoteServer.model_validate(
        {"name": "pacs", "aet": "PEER", "host": "127.0.0.1", "port": port, **changes}
    )


@contextlib.contextmanager
def scp(entity: AE, handlers: list = (), **options: object) -> Iterator[int]:
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=list(handlers), **options)
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()


def echo_scp() -> AE:
    entity = AE("PEER")
    entity.add_supported_context(Verification)
    return entity


@contextlib.contextmanager
def listener(answer: bytes | None, *, close: bool) -> Iterator[int]:
    """A TCP server that reads something, says `answer` and closes or stays."""
    server = socket.create_server(("127.0.0.1", 0))
    held: list[socket.socket] = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                held.append(connection)
                connection.recv(65536)
                if answer:
                    connection.sendall(answer)
                if close:
                    connection.close()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield server.getsockname()[1]
    finally:
        server.close()
        for connection in held:
            connection.close()


def test_a_peer_that_knows_us_answers_the_echo() -> None:
    with scp(echo_scp()) as port:
        assert 0 < echo(remote(port), NODE).seconds < 1


def test_an_echo_leaves_no_thread_behind() -> None:
    with scp(echo_scp()) as port:
        before = threading.active_count()
        for _ in range(5):
            echo(remote(port), NODE)
        deadline = time.monotonic() + 3
        while threading.active_count() > before and time.monotonic() < deadline:
            time.sleep(0.02)
        assert threading.active_count() <= before


def test_messages_do_not_wait_for_the_peers_delayed_acknowledgement() -> None:
    with (
        scp(echo_scp()) as port,
        associate(remote(port), NODE, [build_context(Verification)], during="C-ECHO") as association,
    ):
        raw = association.dul.socket.socket
        assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_closed_port_is_unreachable_and_worth_another_try() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(
        RemoteUnreachable, match=rf"pacs: no connection to 127.0.0.1:{port} \(connection refused\)"
    ) as caught:
        echo(remote(port), NODE)
    assert caught.value.transient


def test_an_unknown_host_name_is_told_as_such() -> None:
    with pytest.raises(RemoteUnreachable, match="unknown host name"):
        echo(remote(104, host="no-such-host.invalid"), NODE)


def test_a_wrong_ae_title_is_refused_for_good_and_both_titles_are_named() -> None:
    entity = echo_scp()
    entity.require_called_aet = True
    with scp(entity) as port, pytest.raises(AssociationRejected) as caught:
        echo(remote(port, aet="WRONG"), NODE)
    assert not caught.value.transient
    assert "'WRONG' as 'BACKUPDR'" in str(caught.value)
    assert "called AE title not recognised" in str(caught.value)


def test_a_peer_with_too_many_associations_is_worth_another_try() -> None:
    local_limit_exceeded = bytes.fromhex("03 00 00000004 00 02 03 02")
    with listener(local_limit_exceeded, close=False) as port, pytest.raises(AssociationRejected) as caught:
        echo(remote(port), NODE)
    assert caught.value.transient


def test_a_refusal_that_is_over_before_we_look_is_still_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            told = super().wait(timeout)
            time.sleep(0.3)  # as on a busy machine
            return told

    plain = _PeerSocket.__init__

    def slow(self: _PeerSocket, *args: object, **options: object) -> None:
        plain(self, *args, **options)  # type: ignore[arg-type]
        self._ready = Slow()

    monkeypatch.setattr(_PeerSocket, "__init__", slow)
    unknown_called_aet = bytes([3, 0, 0, 0, 0, 4, 0, 1, 1, 7])
    with listener(unknown_called_aet, close=True) as port, pytest.raises(AssociationRejected) as caught:
        echo(remote(port), NODE)
    assert "'PEER'" in str(caught.value)


def test_a_service_the_peer_does_not_offer_is_named() -> None:
    entity = AE("PEER")
    entity.add_supported_context("1.2.840.10008.5.1.4.1.1.2")
    with scp(entity) as port, pytest.raises(ServiceNotAccepted, match="pacs: does not offer C-ECHO"):
        echo(remote(port), NODE)


def test_a_peer_that_accepts_the_connection_and_says_nothing_times_out() -> None:
    with listener(None, close=False) as port, pytest.raises(PeerTimeout, match="no answer for 1 s"):
        echo(remote(port), NODE)


def test_a_peer_that_hangs_up_is_worth_another_try() -> None:
    with listener(None, close=True) as port, pytest.raises(AssociationAborted) as caught:
        echo(remote(port), NODE)
    assert caught.value.transient


def test_a_web_server_on_the_port_is_no_dicom_peer() -> None:
    with (
        listener(b"HTTP/1.1 400 Bad Request\r\n\r\n", close=False) as port,
        pytest.raises(AnswerInvalid) as caught,
    ):
        echo(remote(port), NODE)
    assert not caught.value.transient


def test_an_accepted_request_that_is_never_answered_times_out() -> None:
    release = threading.Event()
    handlers = [(evt.EVT_C_ECHO, lambda _: (release.wait(5), 0)[1])]
    with scp(echo_scp(), handlers) as port:
        with pytest.raises(PeerTimeout, match="during C-ECHO"):
            echo(remote(port), NODE)
        release.set()


def test_an_association_that_ends_during_a_request_is_told_at_once() -> None:
    def abort(event: evt.Event) -> int:
        event.assoc.abort()
        return 0

    with scp(echo_scp(), [(evt.EVT_C_ECHO, abort)]) as port:
        begun = time.monotonic()
        with pytest.raises(AssociationAborted, match="during C-ECHO"):
            echo(remote(port), NODE)
        assert time.monotonic() - begun < 0.9


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls_files(authority: trustme.CA, tmp_path: Path) -> dict[str, Path]:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return {"ca_file": tmp_path / "ca.pem"}


@contextlib.contextmanager
def tls_scp(authority: trustme.CA, name: str) -> Iterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    with scp(echo_scp(), ssl_context=context) as port:
        yield port


def test_tls_is_used_where_it_is_configured(authority: trustme.CA, tls_files: dict[str, Path]) -> None:
    with tls_scp(authority, "127.0.0.1") as port:
        assert echo(remote(port, tls=Tls(**tls_files)), NODE).seconds > 0


def test_a_certificate_for_another_host_is_refused(authority: trustme.CA, tls_files: dict[str, Path]) -> None:
    with tls_scp(authority, "other.example") as port:
        with pytest.raises(TlsFailed, match=r"127\.0\.0\.1"):
            echo(remote(port, tls=Tls(**tls_files)), NODE)
        assert echo(remote(port, tls=Tls(**tls_files, check_host=False)), NODE).seconds > 0


def test_a_certificate_nobody_vouches_for_is_refused(authority: trustme.CA, tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    with tls_scp(authority, "127.0.0.1") as port, pytest.raises(TlsFailed, match="certificate") as caught:
        echo(remote(port, tls=Tls(ca_file=tmp_path / "other.pem")), NODE)
    assert not caught.value.transient


def test_a_silent_peer_does_not_hold_a_tls_handshake_for_ever(tls_files: dict[str, Path]) -> None:
    with listener(None, close=False) as port, pytest.raises(TlsFailed, match="no answer in time"):
        echo(remote(port, tls=Tls(**tls_files)), NODE)


def test_a_missing_certificate_file_is_named_before_anything_is_sent(tmp_path: Path) -> None:
    with pytest.raises(TlsFailed, match="No such file"):
        echo(remote(1, tls=Tls(ca_file=tmp_path / "nowhere.pem")), NODE)
