"""One Prefect server for the whole chain's tests; every test has a home of its own beside it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.server import start_server, wait_until_healthy, write_server_file


@pytest.fixture(scope="session")
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("chain-prefect")


@pytest.fixture(scope="session")
def prefect_api(prefect_home: Path) -> Iterator[str]:
    """The API address of a server that runs until the tests end."""
    server = start_server(prefect_home)
    try:
        wait_until_healthy(prefect_home, server)
        write_server_file(prefect_home, server)
        yield server.api_url
    finally:
        server.stop()
