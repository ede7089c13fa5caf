"""The catalog on both of its databases; PostgreSQL is started once, on a socket of its own."""

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from vna.catalog import Catalog

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


@pytest.fixture(scope="session")
def postgresql_socket() -> Iterator[str]:
    """The folder of a running server's socket."""
    if not PROGRAMS or not shutil.which("runuser") or os.getuid() != 0:
        pytest.skip("PostgreSQL is not installed, or we are not root")
    folder = Path(tempfile.mkdtemp(prefix="backupdr-pg-"))
    shutil.chown(folder, "postgres")

    def run(*command: str) -> None:
        subprocess.run(
            ["runuser", "-u", "postgres", "--", str(PROGRAMS[-1] / command[0]), *command[1:]],
            check=True,
            capture_output=True,
            cwd=folder,
        )

    data, socket = str(folder / "data"), str(folder)
    run("initdb", "-D", data, "-A", "trust", "--locale=C.UTF-8", "--no-sync")
    options = f"-c listen_addresses='' -k {socket} -c fsync=off"
    run("pg_ctl", "-D", data, "-w", "-l", str(folder / "log"), "-o", options, "start")
    yield socket
    run("pg_ctl", "-D", data, "-m", "immediate", "stop")
    shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.peer("postgresql"))])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'home' / 'catalog.sqlite'}"
    socket = request.getfixturevalue("postgresql_socket")
    name = f"catalog_{uuid.uuid4().hex}"
    subprocess.run(
        ["runuser", "-u", "postgres", "--", str(PROGRAMS[-1] / "createdb"), "-h", socket, name], check=True
    )
    return f"postgresql://postgres@/{name}?host={socket}"


@pytest.fixture
def catalog(url: str) -> Iterator[Catalog]:
    with Catalog(url) as opened:
        opened.migrate()
        yield opened
