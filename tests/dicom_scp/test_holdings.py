"""Whom an AE title stands for, when images or reports are to be sent to it."""

import pytest

from dicom_scp.holdings import remote_called, remote_calling
from vna.site import RemoteServer, Site


def site(*remotes: tuple[str, str, str, tuple[str, ...]]) -> Site:
    return Site(
        remotes={
            name: RemoteServer(name=name, aet=aet, host=host, port=104, calling_aets=further)
            for name, aet, host, further in remotes
        }
    )


def test_an_ae_title_is_its_one_registered_server() -> None:
    both = site(("ws", "WS", "192.0.2.1", ()), ("pacs", "PACS", "192.0.2.2", ("STORE",)))
    for aet, name in (("WS", "ws"), ("PACS", "pacs")):
        called, calling = remote_called(both, aet), remote_calling(both, aet)
        assert called is not None
        assert calling is not None
        assert called.name == calling.name == name
    further = remote_calling(both, "STORE")
    assert further is not None
    assert further.name == "pacs"
    assert remote_called(both, "STORE") is None
    assert remote_calling(both, "STRANGER") is None


def test_an_ae_title_of_two_machines_is_nobodys(caplog: pytest.LogCaptureFixture) -> None:
    """Images must not go to another's machine."""
    shared = site(("a-ws", "WS", "192.0.2.1", ()), ("b-ws", "WS", "192.0.2.2", ()))
    assert remote_called(shared, "WS") is None
    assert remote_calling(shared, "WS") is None
    assert "a-ws and b-ws share an AE title" in caplog.text


def test_one_machine_under_two_names_is_one() -> None:
    twice = site(("a-ws", "WS", "192.0.2.1", ()), ("b-ws", "WS", "192.0.2.1", ()))
    assert remote_called(twice, "WS") is not None
