"""What `backupdr demo` does: the main job on this machine, start to proof, without touching anything of yours.

A simulated PACS with generated studies and real files; our DICOM server, Prefect and a worker; a backup as a
deployment run, a second one after the world has changed, and the proof of both.
"""

import contextlib
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

from cli.console import say
from cli.everything import running
from cli.stopping import until_told
from vna.errors import BackupError
from vna.settings import Settings, load_settings

if TYPE_CHECKING:
    from vna.jobs.outcome import RetrievalOutcome
    from vna.simulated_pacs import GeneratedStudy, SimulatedPacs

STUDIES, INSTANCES, SIZE_BYTES = 12, 6, 128 * 1024
LONGEST_SECONDS = 240.0
SOURCE, UNIT = "demo-pacs", "demo-unit"


class DemoFailed(BackupError):
    """The demo did not show what it promises; the message says what."""


def run(*, keep: bool) -> int:
    """Play the scenario; 0 if all of it held. With `keep` everything stays up until Ctrl-C."""
    began = time.monotonic()
    home = Path(tempfile.mkdtemp(prefix="backupdr-demo-"))
    try:
        with until_told() as stop, _settings_of(home) as settings:
            from vna.simulated_pacs import SimulatedPacs

            studies = _make_data(home / "pacs")
            own = {settings.scp_aet: ("127.0.0.1", settings.scp_port)}
            with SimulatedPacs(home / "pacs", "DEMOPACS", 0, destinations=own) as pacs:
                say(f"1. A simulated PACS with {_size_of(home / 'pacs')} listens on port {pacs.port}.")
                with running(settings, 4200 if keep else 0) as everything:
                    url = everything.server.url
                    say(
                        f"2. Prefect, a worker and our DICOM server run (port {settings.scp_port}); pages: {url}"
                    )
                    _play(settings, pacs, studies)
                    say(f"Shown in {time.monotonic() - began:.0f} s.")
                    if keep:
                        say(f"\nThe runs can be seen at {url} until Ctrl-C; then all of this is removed.")
                        while not stop.wait(0.5):
                            everything.mind()
    finally:
        shutil.rmtree(home, ignore_errors=True)
    if not keep:
        say("Nothing is left behind. `make demo KEEP=1` keeps the Prefect pages up to look at.")
    return 0


@contextlib.contextmanager
def _settings_of(home: Path) -> Generator[Settings]:
    """Settings of a home of the demo's own, for this process and its children."""
    own = {
        "BACKUPDR_HOME": str(home / "home"),
        "BACKUPDR_SCP_PORT": str(_free_port()),
        "BACKUPDR_SCP_BIND": "127.0.0.1",
    }
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith("BACKUPDR_")]:
        del os.environ[name]
    os.environ.update(own)
    try:
        settings = load_settings()
        settings.home.mkdir(parents=True)
        yield settings
    finally:
        os.environ.clear()
        os.environ.update(before)


def _make_data(folder: Path) -> "list[GeneratedStudy]":
    from vna.simulated_pacs import shipped_files, write_studies

    studies = write_studies(folder, STUDIES, instances=INSTANCES, size_bytes=SIZE_BYTES)
    for number, path in enumerate(shipped_files()):
        shutil.copyfile(path, folder / f"shipped-{number:03d}.dcm")
    return studies


def _play(settings: Settings, pacs: "SimulatedPacs", studies: "list[GeneratedStudy]") -> None:
    from blocks import RemoteServer, StorageUnit
    from deployments.site import publish, save_remote, save_unit
    from vna.simulated_pacs import add_instances, change_instance, write_studies
    from vna.site import UnitDefinition
    from vna.storage import create_unit

    path = settings.home / "units" / UNIT
    create_unit(UnitDefinition(name=UNIT, path=path))
    save_unit(UNIT, StorageUnit(path=str(path)))
    save_remote(
        SOURCE, RemoteServer.model_validate({"aet": "DEMOPACS", "host": "127.0.0.1", "port": pacs.port})
    )
    publish(settings)

    say("3. Backing up everything the PACS has, as a run of the deployment query-retrieve:")
    first = _back_up(settings)
    _tell(settings, first)
    asked_before = sum(pacs.sent.values())

    grown = add_instances(studies[0], 2)
    change_instance(studies[1].instances[0], PatientName="Corrected^Name", StudyDescription="Corrected")
    for instance in studies[1].instances[1:]:
        change_instance(instance, PatientName="Corrected^Name", StudyDescription="Corrected")
    (new,) = write_studies(pacs.data, 1, instances=INSTANCES, size_bytes=SIZE_BYTES, seed=2)
    missing = 2 + len(studies[1].instances) + len(new.instances)
    say(
        f"4. The world changes: a new study ({len(new.instances)} instances), a study that grew by 2, a study whose "
        f"{len(studies[1].instances)} instances were corrected under the same UIDs. The same run again:"
    )
    second = _back_up(settings)
    _tell(settings, second)
    sent = sum(pacs.sent.values()) - asked_before
    _must(
        sent == missing == second.instances, f"{sent} instances were pulled for {missing} that were missing"
    )
    _must(second.changed == 1, "the corrected study was not noticed")
    _must(len(grown.instances) == INSTANCES + 2, "the study did not grow")
    say(
        f"   The PACS sent {sent} instances: only what was missing. Both versions of the corrected study are kept."
    )


def _back_up(settings: Settings) -> "RetrievalOutcome":
    """One run of the deployment by the worker, told while it goes."""
    from prefect.client.orchestration import get_client

    from vna.catalog import Catalog
    from vna.jobs.ledger import Ledger
    from vna.jobs.outcome import read_outcome

    deadline = time.monotonic() + LONGEST_SECONDS
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("query-retrieve/query-retrieve")
        flow_run = client.create_flow_run_from_deployment(
            deployment.id, parameters={"source": SOURCE, "unit": UNIT}
        )
        while flow_run.state is None or not flow_run.state.is_final():
            _must(time.monotonic() < deadline, f"the run did not end within {LONGEST_SECONDS:.0f} s")
            time.sleep(0.3)
            flow_run = client.read_flow_run(flow_run.id)
    say(f"   run {flow_run.name!r}: {flow_run.state.name}")
    _must(flow_run.state.is_completed(), flow_run.state.message or "the run failed")
    with Catalog(settings.catalog_database_url) as catalog:
        return read_outcome(catalog, Ledger(catalog.engine, settings.home), str(flow_run.id))


def _tell(settings: Settings, outcome: "RetrievalOutcome") -> None:
    from vna.catalog import Catalog
    from vna.site import load_site
    from vna.storage import open_unit
    from vna.verification.units import verify_unit

    say(f"   found     {outcome.found} studies")
    say(
        f"   copied    {outcome.instances} instances, {outcome.bytes / 1e6:.1f} MB; {outcome.held} were held already"
    )
    say(f"   complete  {outcome.complete} studies: the same instances as at the PACS, each read back")
    with Catalog(settings.catalog_database_url) as catalog:
        report = verify_unit(open_unit(load_site(settings).unit(UNIT)), catalog, "checksum")
    _must(report.ok == report.checked > 0, " ".join(report.problems) or "nothing was stored")
    say(
        f"   verified  {report.ok} of {report.checked} copies by SHA-256 ({outcome.seconds:.1f} s for the run)"
    )


def _must(held: bool, otherwise: str) -> None:
    if not held:
        raise DemoFailed(f"The demo failed: {otherwise.rstrip('.')}.")


def _size_of(folder: Path) -> str:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return f"{len(files)} instances ({sum(path.stat().st_size for path in files) / 1e6:.1f} MB)"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
