"""`prefect.yaml` → deployments on the server, with their work pool; the same as often as it is asked."""

import subprocess
import sys
from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import WorkPool
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

from deployments.environment import process_environment
from vna.errors import PrefectUnavailable

POOL = "backupdr"


def prefect_file() -> Path:
    """`prefect.yaml`: in the root of a checkout, beside this module in an installed package."""
    here = Path(__file__).resolve().parent
    installed = here / "prefect.yaml"
    return installed if installed.exists() else here.parent / "prefect.yaml"


def make_work_pool() -> WorkPool:
    """The pool whose workers start each run as a process of its own on this machine."""
    with get_client(sync_client=True) as client:
        try:
            return client.read_work_pool(POOL)
        except ObjectNotFound:
            pass
        try:
            return client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
        except ObjectAlreadyExists:
            return client.read_work_pool(POOL)


def deploy(home: Path, api_url: str, file: Path | None = None) -> None:
    """Make the deployments of `prefect.yaml`; raises `PrefectUnavailable` if one is not there afterwards."""
    make_work_pool()
    file = file or prefect_file()
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)],
        env=process_environment(home, api_url),
        cwd=file.parent,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    missing = _wanted(file) - _deployed()
    if done.returncode or missing:  # Prefect skips an entry it refuses and still ends with 0
        said = (done.stdout + done.stderr).strip().splitlines()
        what = f"missing {', '.join(sorted(missing))}; " if missing else ""
        raise PrefectUnavailable(f"prefect.yaml could not be deployed ({what}{' '.join(said[-3:])})")


def _wanted(file: Path) -> set[str]:
    import yaml

    return {entry["name"] for entry in yaml.safe_load(file.read_text(encoding="utf-8"))["deployments"]}


def _deployed() -> set[str]:
    with get_client(sync_client=True) as client:
        return {deployment.name for deployment in client.read_deployments()}
