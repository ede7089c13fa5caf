"""A long-living server of a home, with the versions that are locked: some look healthy and do half of it."""

import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deployments.environment import process_environment, use_home
from deployments.server import (
    PrefectServer,
    running_server,
    server_file,
    start_server,
    wait_until_healthy,
    write_server_file,
)
from vna import site as values
from vna.settings import load_settings
from vna.site import load_site

pytestmark = pytest.mark.prefect

HERE = Path(__file__).resolve().parent

SAMPLE = """
name: sample
pull: []
deployments:
  - name: hourly
    entrypoint: sample_flows.say_hello
    work_pool: {name: backupdr}
    schedules:
      - slug: hourly
        interval: 3600
  - name: hanging
    entrypoint: sample_flows.hang
    work_pool: {name: backupdr}
    schedules: []
"""


def eventually(what: Callable[[], object], seconds: float) -> object:
    deadline = time.monotonic() + seconds
    while True:
        value = what()
        if value or time.monotonic() > deadline:
            return value
        time.sleep(0.2)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server-home")


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[PrefectServer]:
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), str(HERE.parents[1])])
    server = start_server(home)
    use_home(home, server.api_url)
    wait_until_healthy(home, server)
    write_server_file(home, server)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def deployed(home: Path, server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> None:
    from deployments.definitions import deploy

    file = tmp_path_factory.mktemp("sample") / "prefect.yaml"
    file.write_text(SAMPLE, encoding="utf-8")
    deploy(home, server.api_url, file)
    deploy(home, server.api_url, file)


def test_the_server_tells_where_it_is_to_this_user_only(home: Path, server: PrefectServer) -> None:
    assert running_server(home) == server.api_url
    if os.name == "posix":
        assert stat.S_IMODE(server_file(home).stat().st_mode) == 0o600


@pytest.mark.skipif(sys.platform != "linux", reason="processor time of a process is read from /proc")
def test_a_server_with_nothing_to_do_leaves_the_processor_alone(server: PrefectServer) -> None:
    def processor_seconds() -> float:
        fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def share() -> float:
        before = processor_seconds()
        time.sleep(2)
        return (processor_seconds() - before) / 2

    assert eventually(lambda: share() < 0.5, 30), "it turns in circles"


@pytest.mark.usefixtures("server")
def test_reads_without_arguments_answer() -> None:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        for read in (
            client.read_flow_runs,
            client.read_task_runs,
            client.read_deployments,
            client.read_block_documents,
            client.read_block_types,
            client.read_work_pools,
            client.read_flows,
        ):
            assert isinstance(read(), list)


@pytest.mark.usefixtures("deployed")
def test_a_deployment_deployed_twice_is_there_once_and_its_schedule_makes_runs() -> None:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        (deployment,) = [each for each in client.read_deployments() if each.name == "hourly"]
        assert [schedule.slug for schedule in deployment.schedules] == ["hourly"]

        def scheduled() -> list[object]:
            return [run for run in client.read_flow_runs() if run.deployment_id == deployment.id]

        assert eventually(scheduled, 30)


@pytest.mark.usefixtures("deployed")
def test_a_block_reaches_the_site_file_and_the_run_form(home: Path) -> None:
    from prefect.client.orchestration import get_client

    from blocks import RemoteServer, StorageUnit
    from deployments import site

    settings = load_settings(home=home)
    site.save_remote("main-pacs", RemoteServer(aet="PACS", host="pacs.example", port=104))
    site.save_unit("nas1", StorageUnit(path="/mnt/nas1"))
    assert site.publish(settings) == []
    published = load_site(settings)
    assert published.remote("main-pacs").aet == "PACS"
    assert set(published.units) == {"default", "nas1"}
    with get_client(sync_client=True) as client:
        (deployment,) = [each for each in client.read_deployments() if each.name == "hourly"]
        properties = deployment.parameter_openapi_schema["properties"]
    assert properties["source"]["enum"] == ["main-pacs"]
    assert properties["unit"]["enum"] == ["default", "nas1"]


@pytest.mark.usefixtures("server")
def test_the_one_block_of_our_dicom_server_reaches_the_site_file_and_others_are_told(home: Path) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import BlockDocumentUpdate

    from blocks import DicomServer
    from deployments import site

    settings = load_settings(home=home)
    site.offer_server()
    site.offer_server()
    with get_client(sync_client=True) as client:
        document = client.read_block_document_by_name("dicom-server", "dicom-server")
    assert site.publish(settings) == []
    assert load_site(settings).server == values.DicomServer()
    site.save_server(DicomServer(latency_seconds=5, other_aets=["OLDPACS"]))
    site.offer_server()
    DicomServer(latency_seconds=7).save("another")
    (problem,) = site.publish(settings)
    assert "another" in problem
    assert load_site(settings).server.latency_seconds == 5
    with get_client(sync_client=True) as client:
        data = {**document.data, "latency_seconds": -1}
        client.update_block_document(document.id, BlockDocumentUpdate(data=data, merge_existing_data=False))
    assert any("last good value" in problem for problem in site.publish(settings))
    assert load_site(settings).server.other_aets == ("OLDPACS",)
    for name in ("another", "dicom-server"):
        DicomServer.delete(name)
    assert site.publish(settings) == []
    assert load_site(settings).server == values.DicomServer()


@pytest.mark.usefixtures("server")
def test_a_block_that_cannot_be_used_keeps_its_last_good_value(home: Path) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import BlockDocumentUpdate

    from blocks import RemoteServer
    from deployments import site

    settings = load_settings(home=home)
    site.save_remote("second", RemoteServer(aet="SECOND", host="second.example", port=104))
    site.publish(settings)
    with get_client(sync_client=True) as client:
        document = client.read_block_document_by_name("second", "remote-server")
        data = {**document.data, "aet": "A\\B"}
        client.update_block_document(document.id, BlockDocumentUpdate(data=data, merge_existing_data=False))
    (problem,) = site.publish(settings)
    assert "second" in problem
    assert "last good value" in problem
    assert load_site(settings).remote("second").aet == "SECOND"
    site.remove_remote("second")
    assert site.publish(settings) == []
    assert "second" not in load_site(settings).remotes


@pytest.mark.usefixtures("deployed")
def test_a_worker_carries_out_runs_and_a_run_whose_process_died_is_marked(home: Path, tmp_path: Path) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import StateType

    told = tmp_path / "told"
    environment = process_environment(home, running_server(home))
    command = [sys.executable, "-m", "cli.child", "worker"]
    with get_client(sync_client=True) as client:
        ids = {each.name: each.id for each in client.read_deployments()}
        quick = client.create_flow_run_from_deployment(ids["hourly"], parameters={"source": "main-pacs"})
        hanging = client.create_flow_run_from_deployment(
            ids["hanging"], parameters={"told": str(told), "home": str(home)}
        )
        with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE) as worker:
            assert eventually(lambda: client.read_flow_run(quick.id).state.type is StateType.COMPLETED, 60)
            assert eventually(told.exists, 60)
            assert client.read_flow_run(hanging.id).state.type is StateType.RUNNING
            worker.stdin.close()
            assert worker.wait(40) is not None
        state = client.read_flow_run(hanging.id).state
        assert state.type is StateType.CRASHED, state


def test_two_homes_never_meet(server: PrefectServer, tmp_path: Path) -> None:
    (tmp_path / "prefect").mkdir()
    write_server_file(tmp_path, server)  # an old file whose port is another's by now
    assert running_server(tmp_path) is None
