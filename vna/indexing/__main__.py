"""The continuous indexer as a process: `python -m vna.indexing [--bound]`.

`--bound`: it was started by `vna.platform.spawn_bound` and ends with its parent. It stops between two files, and
may be killed anywhere.
"""

import logging
import signal
import sys
import threading
from types import FrameType

from vna.errors import BackupError
from vna.indexing.indexer import Indexer
from vna.platform import end_with_parent
from vna.settings import load_settings


def main(arguments: list[str]) -> int:
    """Index until SIGINT or SIGTERM; returns the exit code."""
    stop = threading.Event()

    def end(signum: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGINT, end)
    signal.signal(signal.SIGTERM, end)
    if "--bound" in arguments:
        end_with_parent(stop)
    try:
        settings = load_settings()
    except BackupError as error:
        print(error, file=sys.stderr)
        return 1
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)
    with Indexer(settings) as indexer:
        indexer.run(stop)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
