"""Orthanc as a PACS, with its REST interface to fill it and to ask what it has."""

import contextlib
import itertools
import json
import subprocess
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from peers.programs import QUICK, free_port, running


@dataclass
class Orthanc:
    """A running Orthanc: a DICOM server, and REST at `url`."""

    aet: str
    port: int
    http_port: int
    log: Path
    process: "subprocess.Popen[bytes]" = field(repr=False)
    host: str = "127.0.0.1"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    def upload(self, path: Path) -> None:
        """Give it one file, as an operator drops it into its web page."""
        httpx.post(f"{self.url}/instances", content=path.read_bytes(), timeout=30).raise_for_status()

    def get(self, path: str) -> Any:
        """A REST answer, such as of `/statistics`."""
        answer = httpx.get(self.url + path, timeout=30)
        answer.raise_for_status()
        return answer.json()

    def post(self, path: str, value: object) -> Any:
        """A REST request, such as `/modalities/NAME/store` with a list of resources."""
        answer = httpx.post(self.url + path, json=value, timeout=120)
        answer.raise_for_status()
        return answer.json()


@pytest.fixture
def orthanc(tmp_path: Path) -> Generator[Callable[..., Orthanc]]:
    """`orthanc(destinations={AET: (host, port)}, aet="ORTHANC", **settings)` starts one that knows these as
    modalities, each by its AE title in lower case.
    """
    numbers = itertools.count(1)
    with contextlib.ExitStack() as leaving:

        def start(
            destinations: Mapping[str, tuple[str, int]] | None = None,
            aet: str = "ORTHANC",
            **settings: object,
        ) -> Orthanc:
            base = tmp_path / f"orthanc-{next(numbers)}"
            base.mkdir()
            port, http_port = free_port(), free_port()
            modalities = {a.lower(): [a, host, number] for a, (host, number) in (destinations or {}).items()}
            configuration = {
                "Name": aet,
                "HttpPort": http_port,
                "DicomPort": port,
                "DicomAet": aet,
                "StorageDirectory": str(base / "storage"),
                "IndexDirectory": str(base / "storage"),
                "RemoteAccessAllowed": False,
                "AuthenticationEnabled": False,
                "DicomCheckCalledAet": False,
                **{f"DicomAlwaysAllow{what}": True for what in ("Echo", "Store", "Find", "Get", "Move")},
                "UnknownSopClassAccepted": True,
                "SynchronousCMove": True,
                "OverwriteInstances": True,
                "DicomModalities": modalities,
                "Plugins": [],
                **settings,
            }
            (base / "orthanc.json").write_text(json.dumps(configuration))
            command = ["Orthanc", str(base / "orthanc.json")]
            process = leaving.enter_context(running(command, port, base / "log", QUICK))
            made = Orthanc(aet, port, http_port, base / "log", process)
            _wait_for_rest(made)
            return made

        yield start


def _wait_for_rest(made: Orthanc) -> None:
    transport = httpx.HTTPTransport(retries=20)
    with httpx.Client(transport=transport) as client:
        client.get(f"{made.url}/system", timeout=30).raise_for_status()
