"""Arranging for the client side: a remote server block for anything that listens, and small servers."""

import contextlib
from collections.abc import Generator
from typing import Any

import pytest
from pynetdicom import AE

from vna.dimse import OurNode
from vna.site import RemoteServer


@pytest.fixture
def node() -> OurNode:
    """Ourselves, impatient."""
    return OurNode("BACKUPDR", connect_timeout=2, acse_timeout=2, dimse_timeout=2, network_timeout=5)


def remote_at(port: int, **changes: object) -> RemoteServer:
    """A remote server block for a port of this machine."""
    facts = {"name": "pacs", "aet": "PEER", "host": "127.0.0.1", "port": port}
    return RemoteServer.model_validate(facts | changes)


@contextlib.contextmanager
def serving(*abstract_syntaxes: str, handlers: list[Any]) -> Generator[RemoteServer]:
    """An SCP of the library for these services with these handlers."""
    entity = AE("PEER")
    for uid in abstract_syntaxes:
        entity.add_supported_context(uid)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    try:
        yield remote_at(server.server_address[1])
    finally:
        server.shutdown()
