"""Peers: a test that needs a program we did not write is skipped by name where that is absent, and told once;
with BACKUPDR_REQUIRE_PEERS=1 it fails instead.

A test needs a peer by the marker `peer(name)`, or by using one of its fixtures.
"""

import os
import socket
from collections import Counter

import pytest
from peers.dcmtk import dcmqrscp, storescp
from peers.orthanc import orthanc
from peers.postgresql import postgresql_server, postgresql_url
from peers.programs import PROGRAMS, missing

__all__ = ["dcmqrscp", "orthanc", "postgresql_server", "postgresql_url", "storescp"]

_OF_FIXTURE = {
    "dcmqrscp": "dcmtk",
    "storescp": "dcmtk",
    "orthanc": "orthanc",
    "postgresql_server": "postgresql",
}
_LISTEN_EVERYWHERE = {"dcmtk", "orthanc"}
_absent: Counter[str] = Counter()
_used: set[str] = set()


def _required() -> bool:
    return os.environ.get("BACKUPDR_REQUIRE_PEERS", "") not in {"", "0"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        marked = {mark.args[0] for mark in item.iter_markers("peer")}
        by_fixture = {_OF_FIXTURE[name] for name in getattr(item, "fixturenames", ()) if name in _OF_FIXTURE}
        for peer in sorted(by_fixture - marked):
            item.add_marker(pytest.mark.peer(peer))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("peer"):
        peer = mark.args[0]
        if peer not in PROGRAMS:
            pytest.fail(f"there is no peer {peer!r}; there are {', '.join(sorted(PROGRAMS))}", pytrace=False)
        absent = missing(peer)
        if absent and _required():
            pytest.fail(f"{peer} is required but not installed (no {', '.join(absent)})", pytrace=False)
        if absent:
            _absent[peer] += 1
            pytest.skip(f"{peer} is not installed")
        _used.add(peer)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _absent:
        told = ", ".join(f"{peer} ({count} tests)" for peer, count in sorted(_absent.items()))
        terminalreporter.write_line(
            f"Peers that are not installed, so their tests were skipped: {told}.", yellow=True
        )
    beyond_loopback = [name for _, name in socket.if_nameindex() if name != "lo"]
    if _used & _LISTEN_EVERYWHERE and beyond_loopback:
        told = ", ".join(sorted(_used & _LISTEN_EVERYWHERE))
        terminalreporter.write_line(
            f"{told} listened on every address of this machine; `make test` as root isolates them.",
            yellow=True,
        )
