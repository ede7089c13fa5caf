"""All tests, in two sessions side by side: the whole chain's, and the others. `python -m tests.together [options]`.

Starting and killing processes waits as much as it works, so two sessions take little longer than the longer one. The
second's report follows the first's; the exit code is that of whichever failed.
"""

import subprocess
import sys
import tempfile

SESSIONS = (["--ignore=tests/chain"], ["tests/chain"])


def main(options: list[str]) -> int:
    """Run both; with a path among the options, one session of just that."""
    pytest = [sys.executable, "-m", "pytest", "-q", "-m", "not prove"]
    if any(not option.startswith("-") for option in options):
        return subprocess.run([*pytest, *options]).returncode
    first, second = ([*pytest, *options, *session] for session in SESSIONS)
    with tempfile.TemporaryFile() as report:
        beside = subprocess.Popen(second, stdout=report, stderr=report, stdin=subprocess.DEVNULL)
        try:
            codes = [subprocess.run(first).returncode, beside.wait()]
        finally:
            if beside.poll() is None:
                beside.terminate()
        report.seek(0)
        sys.stdout.buffer.write(report.read())
    return max(codes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
