"""Blocks are Prefect's: give Prefect a home of its own before it is imported."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> None:
    from deployments.environment import use_home

    use_home(tmp_path_factory.mktemp("blocks-home"))
