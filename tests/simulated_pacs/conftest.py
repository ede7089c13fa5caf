"""A simulated PACS over generated studies, and where C-MOVE can send to."""

import contextlib
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from pacs_client import Client, Destination, Retrieved, World
from pynetdicom import AE, AllStoragePresentationContexts, evt

from vna.simulated_pacs import TRANSFER_SYNTAXES, SimulatedPacs, parse_faults, write_studies


@pytest.fixture(scope="session")
def destination_server() -> Generator[Destination]:
    known = Destination("MOVEHERE", 0)
    ae = AE(known.aet)
    for context in AllStoragePresentationContexts:
        ae.add_supported_context(context.abstract_syntax, list(TRANSFER_SYNTAXES))

    def keep(event: evt.Event) -> int:
        return known.result.keep(event)  # each retrieve has a result of its own

    server = ae.start_server(
        ("127.0.0.1", 0),
        block=False,
        evt_handlers=[(evt.EVT_C_STORE, keep)],
    )
    known.port = server.server_address[1]
    yield known
    server.shutdown()


@pytest.fixture
def destination(destination_server: Destination) -> Destination:
    """Where C-MOVE can send to; its `result` is that of the last move."""
    destination_server.result = Retrieved()
    return destination_server


@pytest.fixture
def world(tmp_path: Path, destination: Destination) -> Generator[Callable[..., World]]:
    """Makes a world: faults as written on the command line, and what `write_studies` takes."""
    with contextlib.ExitStack() as leaving:

        def make(*faults: str, count: int = 6, **options: object) -> World:
            folder = tmp_path / "data"
            studies = write_studies(folder, count, **options)
            pacs = leaving.enter_context(
                SimulatedPacs(
                    folder,
                    "SIMULATED",
                    0,
                    parse_faults(faults),
                    {destination.aet: ("127.0.0.1", destination.port)},
                )
            )
            pairs = {(i.sop_class_uid, i.transfer_syntax_uid) for study in studies for i in study.instances}
            return World(folder, studies, pacs, Client(pacs, tuple(sorted(pairs))))

        yield make
