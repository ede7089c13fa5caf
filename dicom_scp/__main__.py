"""`python -m dicom_scp [--index] [--open] [--bound]`: the DICOM server, until it is told to stop.

`--bound`: it ends when its parent does (standard input closes); `--index`: with an indexer beside it; `--open`: any
calling AE title on this machine is served. `--socket` and `--tls-socket`: one of several processes of a server, on
listening sockets it inherited.
"""

import argparse
import signal
import socket
import sys
import threading

from dicom_scp.family import run_family
from dicom_scp.receiving import GRACE_SECONDS, ReceivingProcess, log_plainly
from vna.errors import BackupError
from vna.platform import end_with_parent
from vna.settings import Settings, load_settings

HARD_END_SECONDS = GRACE_SECONDS + 5.0


def main() -> int:
    """0 after a clean stop, 1 with one sentence on standard error if it cannot run."""
    parser = argparse.ArgumentParser(prog="dicom_scp", description="Receive DICOM instances into the spool.")
    parser.add_argument("--index", action="store_true", help="also place what arrives in storage units")
    parser.add_argument("--open", action="store_true", help="serve any calling AE title on this machine")
    parser.add_argument("--bound", action="store_true", help="end when standard input closes")
    parser.add_argument("--socket", type=int, help="descriptor of a listening socket, as one of several")
    parser.add_argument("--tls-socket", type=int, help="likewise, for TLS")
    options = parser.parse_args()
    stop = threading.Event()
    if options.bound:
        end_with_parent(stop, HARD_END_SECONDS)
    try:
        settings = load_settings()
        log_plainly(settings)
        if options.socket is not None or options.tls_socket is not None:
            return _receive_on(settings, options, stop)
        return run_family(settings, index=options.index, open_to_loopback=options.open, stop=stop)
    except BackupError as error:
        print(error, file=sys.stderr)
        return 1


def _receive_on(settings: Settings, options: argparse.Namespace, stop: threading.Event) -> int:
    """One of several processes: the parent, which has the sockets too, says when to stop."""
    for name in ("SIGINT", "SIGTERM"):  # a terminal or a service manager tells all of us; the parent decides
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    process = ReceivingProcess(
        settings,
        open_to_loopback=options.open,
        share=settings.scp_processes,
        plain=_inherited(options.socket),
        tls=_inherited(options.tls_socket),
    )
    try:
        process.start()
        stop.wait()
    finally:
        process.drain(GRACE_SECONDS)
    return 0


def _inherited(descriptor: int | None) -> socket.socket | None:
    return None if descriptor is None else socket.socket(fileno=descriptor)


if __name__ == "__main__":
    sys.exit(main())
