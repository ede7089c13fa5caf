"""All tests, in sessions side by side: the kills, the rest of the whole chain, the network, and all others.

`python -m tests.together [options]`. Sources that lie and processes that are killed are waited for more than worked
for, so the sessions take little longer than the longest. The reports follow one another; the exit code is that
of whichever failed.
"""

import contextlib
import subprocess
import sys
import tempfile
from typing import IO

NETWORK = ["tests/dimse", "tests/dicom_scp"]
FIRST = ["--ignore=tests/chain", *(f"--ignore={folder}" for folder in NETWORK)]
BESIDE = (["tests/chain/test_kills.py"], ["tests/chain", "--ignore=tests/chain/test_kills.py"], NETWORK)


def main(options: list[str]) -> int:
    """Run all; with a path among the options, one session of just that."""
    pytest = [sys.executable, "-m", "pytest", "-q", "-m", "not prove"]
    if any(not option.startswith("-") for option in options):
        return subprocess.run([*pytest, *options]).returncode
    with contextlib.ExitStack() as stack:
        beside: list[tuple[subprocess.Popen[bytes], IO[bytes]]] = []
        for session in BESIDE:
            report = stack.enter_context(tempfile.TemporaryFile())
            process = subprocess.Popen(
                [*pytest, *options, *session], stdout=report, stderr=report, stdin=subprocess.DEVNULL
            )
            stack.callback(process.terminate)
            beside.append((process, report))
        codes = [subprocess.run([*pytest, *options, *FIRST]).returncode]
        for process, report in beside:
            codes.append(process.wait())
            report.seek(0)
            sys.stdout.buffer.write(report.read())
            sys.stdout.flush()
    return max(codes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
