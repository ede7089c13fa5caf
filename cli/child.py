"""A command of ours as a child of another: `python -m cli.child scp`. It ends when its parent does.

When the parent closes our standard input, or is gone, we are told to stop as an operator would (SIGTERM),
and leave hard if that takes too long.
"""

import os
import signal
import sys
import threading

from vna.platform import IS_WINDOWS, end_with_parent

GRACE_SECONDS = 25.0


def main() -> None:
    """Run the command given as arguments, bound to the parent."""
    stop = threading.Event()
    end_with_parent(stop, GRACE_SECONDS)

    def pass_on() -> None:
        stop.wait()
        if IS_WINDOWS:
            signal.raise_signal(signal.SIGTERM)  # os.kill would end us on the spot there
        else:
            os.kill(os.getpid(), signal.SIGTERM)  # reaches the main thread even in a system call

    threading.Thread(target=pass_on, name="pass-on", daemon=True).start()
    from cli.__main__ import main as command

    command(sys.argv[1:])


if __name__ == "__main__":
    main()
