"""What an operator does at a running server, as a child: deployments, blocks, a deployment run.

`python -m tests.chain.operating prepare AET HOST PORT UNIT` and `… run UNIT`; the home and the server come from the
environment. In the tests' own process it would change the Prefect settings of all other tests.
"""

import json
import os
import sys
import time
from pathlib import Path

from deployments.environment import API_URL, use_home

SOURCE = "source"


def prepare(home: Path, api_url: str, aet: str, host: str, port: int, unit: str) -> None:
    from blocks import RemoteServer, StorageUnit
    from deployments.definitions import deploy
    from deployments.site import publish, save_remote, save_unit
    from vna.settings import load_settings
    from vna.site import UnitDefinition
    from vna.storage import create_unit

    deploy(home, api_url)
    save_remote(SOURCE, RemoteServer(aet=aet, host=host, port=port))
    path = home / "units" / unit
    create_unit(UnitDefinition(name=unit, path=path))
    save_unit(unit, StorageUnit(path=str(path)))
    publish(load_settings(home=home))


def run(unit: str) -> None:
    """Print the id of a new deployment run, then a line for every state until a final one."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("query-retrieve/query-retrieve")
        flow_run = client.create_flow_run_from_deployment(
            deployment.id, parameters={"source": SOURCE, "unit": unit}
        )
        print(json.dumps({"id": str(flow_run.id)}), flush=True)
        told = None
        while True:
            state = client.read_flow_run(flow_run.id).state
            if state is not None and (state.type, state.name) != told:
                told = (state.type, state.name)
                print(json.dumps({"state": state.type.value, "message": state.message}), flush=True)
                if state.is_final():
                    return
            time.sleep(0.2)


def main(arguments: list[str]) -> None:
    home, api_url = Path(os.environ["BACKUPDR_HOME"]), os.environ[API_URL]
    use_home(home, api_url)
    if arguments[0] == "prepare":
        aet, host, port, unit = arguments[1:]
        prepare(home, api_url, aet, host, int(port), unit)
    else:
        run(arguments[1])


if __name__ == "__main__":
    main(sys.argv[1:])
