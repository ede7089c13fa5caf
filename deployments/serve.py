"""One Prefect server: `python -m deployments.serve`, a child that `deployments.server` starts.

It binds first (any free port where the wanted one is taken), says which in a file, and ends when its parent
does, so that nothing is left of it even if the parent was killed. Its environment comes from the parent.
"""

import argparse
import json
import os
import socket
import threading
from pathlib import Path

from vna.platform import HeldLock, end_with_parent, take_lock

GRACE_SECONDS = 8.0


def main() -> None:
    """Serve until standard input closes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--told-in", type=Path, required=True, help="file that gets port and process id")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--lock", type=Path, help="held while this server lives: the one of its home")
    parser.add_argument("--embedded", action="store_true", help="for one command: no pages, no schedules")
    wanted = parser.parse_args()
    stop = threading.Event()
    end_with_parent(stop, GRACE_SECONDS)
    lock = _lock(wanted.lock) if wanted.lock else None
    listener = _bind("127.0.0.1", wanted.port)
    port = listener.getsockname()[1]
    os.environ["PREFECT_SERVER_API_PORT"] = str(port)
    os.environ["PREFECT_UI_API_URL"] = "/api"
    temporary = wanted.told_in.with_name(f"{wanted.told_in.name}.tmp")
    temporary.write_text(json.dumps({"port": port, "pid": os.getpid()}), encoding="utf-8")
    temporary.replace(wanted.told_in)

    import uvicorn
    from prefect.server.api.server import create_app

    config = uvicorn.Config(
        create_app(ephemeral=wanted.embedded, final=True),
        log_level="error",
        lifespan="on",
        access_log=False,
        timeout_graceful_shutdown=2,
    )
    server = uvicorn.Server(config)

    def end() -> None:
        stop.wait()
        server.should_exit = True

    threading.Thread(target=end, name="end", daemon=True).start()
    server.run(sockets=[listener])
    if lock is not None:
        lock.release()


def _lock(path: Path) -> HeldLock:
    lock = take_lock(path, 5.0)
    if lock is None:
        raise SystemExit("Another Prefect server of this home is running.")
    return lock


def _bind(host: str, port: int) -> socket.socket:
    for wanted in (port, 0):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if os.name == "posix":  # on Windows this option would let two programs share one port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, wanted))
        except OSError:
            listener.close()
            continue
        listener.listen(128)
        return listener
    raise SystemExit(f"No port can be opened on {host}.")


if __name__ == "__main__":
    main()
