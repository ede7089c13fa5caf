"""What cannot work: one clear sentence, an exit code that is not 0, no traceback, nothing half-written.

What can be told without a connection is tested in test_command_line.py; here are the mistakes that show only
when the site, its disks or the source are asked.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deployments.server import start_server, wait_until_healthy, write_server_file
from vna.settings import Settings
from vna.simulated_pacs import SimulatedPacs, parse_faults, write_studies
from vna.site import RemoteServer, Site, UnitDefinition, publish_site
from vna.storage import create_unit

ROOT = Path(__file__).resolve().parents[2]
ONE_PETABYTE = 10**15

# The command again and again in one process (Prefect takes seconds to import), with what it really wrote.
COMMANDS = """
import json, os, sys, tempfile
from cli.__main__ import run
answers = os.fdopen(os.dup(1), "w")
for line in sys.stdin:
    asked = json.loads(line)
    before = {name: os.environ.get(name) for name in asked["environment"]}
    os.environ.update(asked["environment"])
    with tempfile.TemporaryFile("w+b") as out, tempfile.TemporaryFile("w+b") as err:
        kept = os.dup(1), os.dup(2)
        os.dup2(out.fileno(), 1), os.dup2(err.fileno(), 2)
        code = run(asked["arguments"])
        sys.stdout.flush(), sys.stderr.flush()
        os.dup2(kept[0], 1), os.dup2(kept[1], 2)
        os.close(kept[0]), os.close(kept[1])
        out.seek(0), err.seek(0)
        said = {"code": code, "stdout": out.read().decode(), "stderr": err.read().decode()}
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})
    print(json.dumps(said), file=answers, flush=True)
"""


@dataclass(frozen=True, slots=True)
class Said:
    """What a command left on the terminal."""

    code: int
    stdout: str
    stderr: str

    @property
    def sentence(self) -> str:
        """The one sentence of what is wrong: after the lines of how far it is nothing else is said."""
        assert "Traceback" not in self.stderr, self.stderr
        lines = [line for line in self.stderr.splitlines() if not line.endswith("…")]
        assert len(lines) == 1, self.stderr
        assert lines[0].endswith("."), self.stderr
        return lines[0]

    @property
    def answer(self) -> dict[str, Any]:
        """The object a script reads; nothing else is on standard output."""
        (line,) = self.stdout.splitlines()
        return json.loads(line)


def environment(home: Path, **more: str) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "BACKUPDR_HOME": str(home),
        "BACKUPDR_SCP_BIND": "127.0.0.1",
        **more,
    }


def backupdr(home: Path, *arguments: str, **more: str) -> Said:
    done = subprocess.run(
        [sys.executable, "-m", "cli", *arguments],
        env=environment(home, **more),
        capture_output=True,
        text=True,
        timeout=120,
    )
    return Said(done.returncode, done.stdout, done.stderr)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def stranger(answer: bytes = b"") -> Iterator[int]:
    """A port where something listens that knows no DICOM: it answers this and closes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(4096)
                        connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)


class Place:
    """A home with a running Prefect server, remote servers that are all wrong in some way, and two units."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.unit = folder / "unit"
        self.scp_port = free_port()
        self.remotes: dict[str, RemoteServer] = {}
        self.units = {"nas": UnitDefinition(name="nas", path=self.unit)}
        create_unit(self.units["nas"])
        self.server = start_server(self.home)
        wait_until_healthy(self.home, self.server)
        write_server_file(self.home, self.server)
        self._commands = subprocess.Popen(
            [sys.executable, "-c", COMMANDS],
            env=environment(self.home, BACKUPDR_SCP_PORT=str(self.scp_port)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def knows(self, name: str, port: int, **more: Any) -> None:
        self.remotes[name] = RemoteServer(
            **{"name": name, "aet": "SIMULATED", "host": "127.0.0.1", "port": port, **more}
        )
        self._publish()

    def keeps(self, name: str, path: Path) -> None:
        self.units[name] = UnitDefinition(name=name, path=path)
        self._publish()

    def _publish(self) -> None:
        publish_site(Settings(home=self.home), Site(remotes=self.remotes, units=self.units))

    def asked(self, *arguments: str, **more: str) -> Said:
        """One command in the process that is kept for this."""
        assert self._commands.stdin is not None
        assert self._commands.stdout is not None
        self._commands.stdin.write(json.dumps({"arguments": arguments, "environment": more}) + "\n")
        self._commands.stdin.flush()
        return Said(**json.loads(self._commands.stdout.readline()))

    def retrieve(self, remote: str, unit: str = "nas", **more: str) -> Said:
        said = self.asked("retrieve", remote, "--unit", unit, "--json", **more)
        assert said.code != 0
        assert said.answer["state"] == "failed"
        assert said.answer["problems"] == [said.sentence]
        return said

    def assert_nothing_was_written(self) -> None:
        left = [
            path for folder in (self.unit, self.home / "spool", self.home / "units") for path in files(folder)
        ]
        assert left == []

    def close(self) -> None:
        assert self._commands.stdin is not None
        self._commands.stdin.close()
        self._commands.wait(30)
        self.server.stop()


def files(folder: Path) -> list[Path]:
    """All files but a unit's marker and what is said of studies that may still come."""
    return [
        path
        for path in folder.rglob("*")
        if path.is_file() and path.name != "backupdr-unit.json" and path.parent.name != "expect"
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pacs")
    write_studies(folder, 2, instances=2)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    place = Place(tmp_path_factory.mktemp("bad-input"))
    yield place
    place.close()


@pytest.fixture(scope="module")
def slow(place: Place) -> "Iterator[dict[str, subprocess.Popen[str]]]":
    """What is tried again for a while before it is given up, begun beforehand all at once.

    By C-GET: a DICOM server of theirs would be one of this home for the other tests.
    """
    with stranger(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n") as web:
        place.knows("nobody-there", free_port(), retrieve="get")
        place.knows("no-such-name", 104, host="pacs.invalid", retrieve="get")
        place.knows("web-server", web, retrieve="get")
        begun = {
            name: subprocess.Popen(
                [sys.executable, "-m", "cli", "retrieve", name, "--unit", "nas", "--json"],
                env=environment(place.home, BACKUPDR_SCP_PORT=str(place.scp_port)),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for name in ("nobody-there", "no-such-name", "web-server")
        }
        yield begun
        for process in begun.values():
            process.kill()
            process.communicate()


@pytest.mark.prefect
@pytest.mark.usefixtures("slow")
class TestASource:
    """The source is not what the settings say."""

    def test_that_calls_itself_otherwise_is_told_with_both_titles(self, place: Place, data: Path) -> None:
        with SimulatedPacs(data) as pacs:
            place.knows("misnamed", pacs.port, aet="ELSEWHERE")
            sentence = place.retrieve("misnamed").sentence
        assert "refused our association" in sentence
        assert "ELSEWHERE" in sentence
        assert "BACKUPDR" in sentence
        place.assert_nothing_was_written()

    def test_that_answers_rubbish_is_named_and_nothing_is_pulled(self, place: Place, data: Path) -> None:
        with SimulatedPacs(data, faults=parse_faults(["rubbish"])) as pacs:
            place.knows("rubbish", pacs.port)
            sentence = place.retrieve("rubbish").sentence
            assert pacs.retrieves == 0
        assert sentence.startswith("rubbish: ")
        assert "not DICOM" in sentence
        place.assert_nothing_was_written()

    def test_that_does_not_know_us_as_a_destination_is_told_so(self, place: Place, data: Path) -> None:
        with SimulatedPacs(data) as pacs:
            place.knows("no-destination", pacs.port)
            said = place.asked("retrieve", "no-destination", "--unit", "nas", "--json")
        assert said.code == 1
        assert said.answer["incomplete"] == 2
        assert all("BACKUPDR" in problem for problem in said.answer["problems"]), said.answer["problems"]
        assert "Traceback" not in said.stderr
        assert files(place.unit) == []


@pytest.mark.prefect
class TestAPlaceToStore:
    """Our own disks, ports and database are not as they should be: told before the source is asked for images."""

    def test_with_a_file_in_the_units_way(self, place: Place, tmp_path: Path, source: SimulatedPacs) -> None:
        (tmp_path / "unit").write_text("a file", encoding="utf-8")
        place.keeps("blocked", tmp_path / "unit")
        said = place.retrieve("good", "blocked")
        assert f"Storage unit blocked at {tmp_path / 'unit'}" in said.sentence
        assert (tmp_path / "unit").read_text(encoding="utf-8") == "a file"
        assert source.retrieves == 0

    def test_with_a_unit_that_is_not_mounted(
        self, place: Place, tmp_path: Path, source: SimulatedPacs
    ) -> None:
        (tmp_path / "mountpoint").mkdir()
        place.keeps("share", tmp_path / "mountpoint")
        said = place.retrieve("good", "share")
        assert f"Storage unit share at {tmp_path / 'mountpoint'} is not available" in said.sentence
        assert list((tmp_path / "mountpoint").iterdir()) == []
        assert source.retrieves == 0

    @pytest.mark.skipif(
        not hasattr(os, "geteuid") or os.geteuid() != 0 or not shutil.which("unshare"),
        reason="mounts need root",
    )
    def test_with_a_unit_on_a_read_only_disk(
        self, place: Place, tmp_path: Path, source: SimulatedPacs
    ) -> None:
        unit = tmp_path / "unit"
        create_unit(UnitDefinition(name="worn-out", path=unit))
        place.keeps("worn-out", unit)
        done = subprocess.run(
            [
                *("unshare", "-m", "sh", "-c"),
                'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"',
                str(unit),
                *(sys.executable, "-m", "cli", "retrieve", "good", "--unit", "worn-out", "--json"),
            ],
            env=environment(place.home, BACKUPDR_SCP_PORT=str(place.scp_port)),
            capture_output=True,
            text=True,
            timeout=120,
        )
        said = Said(done.returncode, done.stdout, done.stderr)
        assert said.code == 1
        assert f"Storage unit worn-out at {unit} cannot be written" in said.sentence
        assert source.retrieves == 0
        assert files(unit) == []

    def test_with_a_full_disk(self, place: Place, source: SimulatedPacs) -> None:
        said = place.retrieve("good", BACKUPDR_RESERVE_BYTES=str(ONE_PETABYTE))
        assert "GiB free" in said.sentence
        assert "make room" in said.sentence
        assert source.retrieves == 0
        place.assert_nothing_was_written()

    def test_with_a_port_that_a_stranger_holds(self, place: Place, source: SimulatedPacs) -> None:
        with stranger() as port:
            said = place.retrieve("good", BACKUPDR_SCP_PORT=str(port))
        assert f"Port {port}" in said.sentence
        assert "held by another program" in said.sentence
        assert source.retrieves == 0
        place.assert_nothing_was_written()

    def test_with_a_database_that_does_not_answer(self, place: Place, source: SimulatedPacs) -> None:
        url = f"postgresql://nobody:secret@127.0.0.1:{free_port()}/catalog"
        said = place.retrieve("good", BACKUPDR_CATALOG_URL=url)
        assert "catalog database does not answer" in said.sentence
        assert "secret" not in said.sentence
        assert source.retrieves == 0
        place.assert_nothing_was_written()

    @pytest.fixture
    def source(self, place: Place, data: Path) -> Iterator[SimulatedPacs]:
        """A source with nothing wrong."""
        with SimulatedPacs(data, destinations={"BACKUPDR": ("127.0.0.1", place.scp_port)}) as pacs:
            place.knows("good", pacs.port)
            yield pacs


class TestWithoutPrefect:
    """What is told without starting anything."""

    def test_a_unit_cannot_be_added_where_a_file_is(self, tmp_path: Path) -> None:
        (tmp_path / "unit").write_text("a file", encoding="utf-8")
        said = backupdr(tmp_path / "home", "unit", "add", "nas", "--path", str(tmp_path / "unit"))
        assert said.code != 0
        assert str(tmp_path / "unit") in said.sentence
        assert (tmp_path / "unit").read_text(encoding="utf-8") == "a file"
        assert not (tmp_path / "home" / "prefect").exists()
        assert not (tmp_path / "home" / "site.json").exists()

    @pytest.mark.parametrize("command", ["scp", "up"])
    def test_a_server_whose_port_a_stranger_holds_ends_with_a_sentence(
        self, tmp_path: Path, command: str
    ) -> None:
        with stranger() as port:
            said = backupdr(tmp_path / "home", command, BACKUPDR_SCP_PORT=str(port))
        assert said.code == 2
        assert f"Port {port}" in said.sentence
        assert "held by another program" in said.sentence

    def test_a_simulated_pacs_whose_port_a_stranger_holds_ends_with_a_sentence(self, tmp_path: Path) -> None:
        with stranger() as port:
            said = backupdr(tmp_path / "home", "simulate-pacs", "--data", str(tmp_path), "--port", str(port))
        assert said.code == 2
        assert f"Port {port}" in said.sentence

    @pytest.mark.parametrize(
        ("name", "aet", "words"),
        [("wrong-host", "SIMULATED", "no connection to"), ("wrong-aet", "ELSEWHERE", "'ELSEWHERE'")],
    )
    def test_an_echo_says_what_is_wrong_with_the_settings(
        self, tmp_path: Path, data: Path, name: str, aet: str, words: str
    ) -> None:
        with SimulatedPacs(data) as pacs:
            port = free_port() if name == "wrong-host" else pacs.port
            remote = RemoteServer(name=name, aet=aet, host="127.0.0.1", port=port)
            publish_site(Settings(home=tmp_path / "home"), Site(remotes={name: remote}))
            said = backupdr(tmp_path / "home", "remote", "echo", name, "--json")
        assert said.code == 1
        assert words in said.sentence
        assert said.answer["problems"] == [said.sentence]

    @pytest.mark.parametrize(
        "command", ["remote list", "unit list", "retrieve x", "verify", "rebuild-catalog x", "scp", "up"]
    )
    def test_a_home_where_a_file_is_in_the_way_is_one_sentence(self, tmp_path: Path, command: str) -> None:
        (tmp_path / "home").write_text("a file", encoding="utf-8")
        said = backupdr(tmp_path / "home", *command.split())
        assert said.code in {1, 2}
        assert str(tmp_path / "home") in said.sentence
        assert (tmp_path / "home").read_text(encoding="utf-8") == "a file"

    def test_a_verify_of_a_unit_that_is_not_mounted_does_not_call_it_empty(self, tmp_path: Path) -> None:
        (tmp_path / "share").mkdir()
        units = {"share": UnitDefinition(name="share", path=tmp_path / "share")}
        publish_site(Settings(home=tmp_path / "home"), Site(units=units))
        said = backupdr(tmp_path / "home", "verify", "--unit", "share", "--json")
        assert said.code == 1
        (problem,) = said.answer["problems"]
        assert f"Storage unit share at {tmp_path / 'share'} is not available" in problem
        assert list((tmp_path / "share").iterdir()) == []


@pytest.mark.prefect
class TestNobodyThere:
    """At the end of the file, because it is waited for: begun with the first test of a source."""

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("nobody-there", "no connection to 127.0.0.1:"),
            ("no-such-name", "no connection to pacs.invalid:104"),
            ("web-server", "web-server: "),
        ],
    )
    def test_a_source_that_is_not_there_or_no_dicom_server_is_one_sentence(
        self, place: Place, slow: "dict[str, subprocess.Popen[str]]", name: str, words: str
    ) -> None:
        stdout, stderr = slow[name].communicate(timeout=150)
        said = Said(slow[name].returncode, stdout, stderr)
        assert said.code == 1
        assert words in said.sentence
        assert said.answer["state"] == "failed"
        assert said.answer["problems"] == [said.sentence]
        place.assert_nothing_was_written()
