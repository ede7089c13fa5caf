"""The environment Prefect runs in here: everything below the home folder, nothing said to anyone outside.

Prefect reads its settings when it is imported, so `use_home` comes before the first import of Prefect in
every process of ours. This module itself imports nothing of Prefect.
"""

import base64
import contextlib
import os
import sys
from pathlib import Path

API_URL = "PREFECT_API_URL"
DATABASE_URL = "BACKUPDR_PREFECT_DATABASE_URL"


def prefect_environment(home: Path) -> dict[str, str]:
    """All variables a process of ours gives to Prefect, but for the address of its server.

    - Block secrets are encrypted with a key outside the database (`keys/prefect`, made at the first use).
    - Analytics, telemetry, promotional pages are off.
    - Logs go to the runs' pages; the console shows what `BACKUPDR_LOG_LEVEL=debug` asks for, else nothing,
      because the commands say in their own sentences how a run ended.
    - Events and flow runs are swept after 90 days, else the database grows without end.
    - The database is SQLite in the home folder unless `BACKUPDR_PREFECT_DATABASE_URL` names a PostgreSQL.
    """
    prefect_home = home / "prefect"
    sqlite = f"sqlite+aiosqlite:///{(prefect_home / 'prefect.db').as_posix()}"
    debug = os.environ.get("BACKUPDR_LOG_LEVEL", "").lower() == "debug"
    return {
        "PREFECT_HOME": str(prefect_home),
        "PREFECT_PROFILES_PATH": str(prefect_home / "profiles.toml"),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": os.environ.get(DATABASE_URL) or sqlite,
        "PREFECT_SERVER_ENCRYPTION_KEY": encryption_key(home),
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
        "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(prefect_home / "ui"),
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(90 * 86400),
        # What ran is written soon, so that a command that ends leaves its task runs as they ended. The recorder
        # cuts its interval to whole seconds: below 1 it waits for 0 and takes a whole core for ever.
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
        "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "0.5",
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_CLI_COLORS": "false",
        "PREFECT_LOGGING_LEVEL": "DEBUG" if debug else "INFO",
        "PREFECT_LOGGING_SERVER_LEVEL": "WARNING" if debug else "ERROR",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "DEBUG" if debug else "CRITICAL",
        "PREFECT_LOGGING_COLORS": "false",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    }


def database_is_ours() -> bool:
    """Whether Prefect's database is in the home folder, so that no other machine's runs are in it."""
    return not os.environ.get(DATABASE_URL)


def process_environment(home: Path, api_url: str | None) -> dict[str, str]:
    """The whole environment of a process of this home: ours, without what another Prefect left in it."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    own = {"BACKUPDR_HOME": str(home), **prefect_environment(home)}
    if api_url is not None:
        own[API_URL] = api_url
    return {**inherited, **own, **_without_proxy(inherited)}


def use_home(home: Path, api_url: str | None = None) -> None:
    """Give this process, and the children it will start, the Prefect environment of `home`."""
    wanted = process_environment(home, api_url)
    for name in set(os.environ) - set(wanted):
        del os.environ[name]
    os.environ.update(wanted)
    if "prefect" in sys.modules:  # a notebook or a test that imported it before: read the settings again
        from prefect.context import refresh_global_settings_context

        refresh_global_settings_context()


def _without_proxy(environment: dict[str, str]) -> dict[str, str]:
    """Hospitals have proxies; our own server on this machine is never reached through one."""
    given = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    hosts = [host for host in given.split(",") if host]
    hosts += [host for host in ("127.0.0.1", "localhost") if host not in hosts]
    return dict.fromkeys(("no_proxy", "NO_PROXY"), ",".join(hosts))


def encryption_key(home: Path) -> str:
    """The key of the block secrets of this home, made at the first call: 0600 in a 0700 folder."""
    keys = home / "keys"
    path = keys / "prefect"
    with contextlib.suppress(FileNotFoundError):
        return path.read_text(encoding="ascii").strip()
    keys.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f"prefect.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(base64.urlsafe_b64encode(os.urandom(32)) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    with contextlib.suppress(FileExistsError):
        os.link(temporary, path)  # whoever comes first decides the key
    temporary.unlink()
    return path.read_text(encoding="ascii").strip()
