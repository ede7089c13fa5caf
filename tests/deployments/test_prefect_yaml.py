"""`prefect.yaml`: Prefect skips an entry it refuses without failing, so every entry is read here."""

from importlib import import_module
from pathlib import Path

import pytest
import yaml

from deployments.definitions import POOL, prefect_file

KNOWN = {
    "name",
    "entrypoint",
    "description",
    "tags",
    "enforce_parameter_schema",
    "concurrency_limit",
    "work_pool",
    "schedules",
    "parameters",
}


@pytest.fixture(scope="module")
def definitions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    from deployments.environment import use_home

    use_home(tmp_path_factory.mktemp("yaml-home"))
    return yaml.safe_load(prefect_file().read_text(encoding="utf-8"))


def test_every_deployment_names_a_flow_that_can_be_imported(definitions) -> None:
    from prefect import Flow

    for entry in definitions["deployments"]:
        module, _, function = entry["entrypoint"].rpartition(".")
        assert isinstance(getattr(import_module(module), function), Flow), entry["name"]


def test_every_entry_holds_only_what_prefect_knows_and_every_schedule_a_slug(definitions) -> None:
    for entry in definitions["deployments"]:
        assert set(entry) <= KNOWN, entry["name"]
        assert entry["work_pool"]["name"] == POOL
        assert entry["description"].strip()
        for schedule in entry["schedules"]:
            assert schedule["slug"], entry["name"]


def test_the_file_is_found_in_the_checkout() -> None:
    assert prefect_file() == Path(__file__).resolve().parents[2] / "prefect.yaml"
