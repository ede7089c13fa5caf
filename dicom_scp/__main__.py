"""`python -m dicom_scp [--index] [--bound]`: the DICOM server in this process, until it is told to stop.

`--bound`: it ends when its parent does (standard input closes); `--index`: with an indexer beside it.
"""

import argparse
import logging
import sys
import threading

from dicom_scp.family import run_family
from vna.errors import BackupError
from vna.platform import end_with_parent
from vna.settings import load_settings

GRACE_SECONDS = 25.0


def main() -> int:
    """0 after a clean stop, 1 with one sentence on standard error if it cannot run."""
    parser = argparse.ArgumentParser(prog="dicom_scp", description="Receive DICOM instances into the spool.")
    parser.add_argument("--index", action="store_true", help="also place what arrives in storage units")
    parser.add_argument("--bound", action="store_true", help="end when standard input closes")
    options = parser.parse_args()
    stop = threading.Event()
    if options.bound:
        end_with_parent(stop, GRACE_SECONDS)
    try:
        settings = load_settings()
        logging.basicConfig(
            level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
        )
        return run_family(settings, index=options.index, stop=stop)
    except BackupError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
