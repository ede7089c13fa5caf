"""A source that may not send to us: the run says whom our DICOM server refused, and why."""

import socket
from pathlib import Path

import pytest

from tests.jobs.test_runs import back_up
from vna.dimse import receiving
from vna.settings import Settings
from vna.simulated_pacs import SimulatedPacs, write_studies
from vna.site import RemoteServer, Site, publish_site


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return Settings(home=tmp_path / "home", scp_port=port, scp_bind="127.0.0.1", reserve_bytes=2**20)


def test_a_source_that_sends_from_a_wrong_address_is_named_in_the_runs_sentence(
    settings: Settings, tmp_path: Path
) -> None:
    write_studies(tmp_path / "pacs", 1, instances=2)
    us = {"BACKUPDR": ("127.0.0.1", settings.scp_port)}
    with SimulatedPacs(tmp_path / "pacs", "PACS", 0, destinations=us) as pacs:
        known = {"name": "pacs", "aet": "PACS", "host": "127.0.0.1", "port": pacs.port}
        remote = RemoteServer.model_validate({**known, "addresses": ["192.0.2.1"]})
        publish_site(settings, Site(remotes={"pacs": remote}))
        with receiving(settings, by_move=True):
            outcome = back_up(settings, "refused")
            assert not outcome.ok
            assert "our DICOM server refused PACS at 127.0.0.1 meanwhile" in outcome.sentence
            assert "may call from 192.0.2.1" in outcome.sentence
            publish_site(settings, Site(remotes={"pacs": RemoteServer.model_validate(known)}))
            again = back_up(settings, "taken")
            assert again.ok, again.sentence
