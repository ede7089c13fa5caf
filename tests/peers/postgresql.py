"""PostgreSQL in a folder of the test session; every test gets a database of its own."""

import getpass
import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Generator, Sequence
from pathlib import Path

import pytest
from peers.programs import free_port, program

_numbers = itertools.count(1)


def _as_ordinary_user(command: Sequence[str]) -> list[str]:
    """PostgreSQL does not run as root."""
    if os.geteuid() != 0:
        return list(command)
    return ["runuser", "-u", _ordinary_user(), "--", *command]


def _ordinary_user() -> str:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    return getpass.getuser()


@pytest.fixture(scope="session")
def postgresql_server() -> Generator[str]:
    """A server of this session; the URL of its database for administrators."""
    # not below pytest's own folders: the ordinary user could not enter them
    folder = Path(tempfile.mkdtemp(prefix="backupdr-postgresql-", dir="/tmp"))
    port, data = free_port(), folder / "data"
    if os.geteuid() == 0:
        shutil.chown(folder, _ordinary_user())
    initdb, pg_ctl = program("initdb"), program("pg_ctl")
    assert initdb
    assert pg_ctl
    run = {"check": True, "cwd": "/", "stdout": subprocess.DEVNULL, "stderr": subprocess.STDOUT}
    try:
        subprocess.run(
            _as_ordinary_user(
                [initdb, "-D", str(data), "-A", "trust", "-U", "backupdr", "-E", "UTF8", "--no-sync"]
            ),
            **run,
        )
        # durable as in the field, or the tests would prove less
        options = f"-c listen_addresses=127.0.0.1 -p {port} -k {folder}"
        start = [pg_ctl, "-D", str(data), "-w", "-t", "60", "-l", str(folder / "log"), "-o", options, "start"]
        subprocess.run(_as_ordinary_user(start), **run)
        try:
            yield f"postgresql+psycopg://backupdr@127.0.0.1:{port}/postgres"
        finally:
            subprocess.run(_as_ordinary_user([pg_ctl, "-D", str(data), "-w", "-m", "fast", "stop"]), **run)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgresql_url(postgresql_server: str) -> Generator[str]:
    """The URL (postgresql+psycopg://…) of an empty database for this test alone."""
    import psycopg

    name = f"test_{os.getpid()}_{next(_numbers)}"
    administrator = postgresql_server.replace("+psycopg", "")
    with psycopg.connect(administrator, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")  # pyright: ignore[reportArgumentType]
    yield postgresql_server.rsplit("/", 1)[0] + f"/{name}"
    with psycopg.connect(administrator, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")  # pyright: ignore[reportArgumentType]
