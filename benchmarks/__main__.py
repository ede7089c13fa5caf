"""`python -m benchmarks [NAME…] [--rounds N] [--json]`: print ratios; with --json the last line is one object."""

import argparse
import importlib
import json
import sys
import time

from benchmarks.measuring import Comparison
from benchmarks.peers import Missing

NAMES = ("retrieve", "find", "receive", "query", "sending")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Ours beside DCMTK, as ratios.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(NAMES)} (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each way; the median counts (3)")
    parser.add_argument("--json", action="store_true", help="end with one JSON object, for scripts")
    given = parser.parse_args()
    unknown = [name for name in given.names if name not in NAMES]
    if unknown or given.rounds < 1:
        parser.error(f"there is no benchmark {unknown[0]!r}" if unknown else "--rounds must be 1 or more")
    print("Ratio of speeds (1 = as quick as the first row), rate by the median, quickest to slowest run.")
    done: list[Comparison] = []
    left_out: dict[str, str] = {}
    for name in given.names or NAMES:
        began = time.monotonic()
        try:
            for comparison in importlib.import_module(f"benchmarks.{name}").compare(given.rounds):
                done.append(comparison)
                print("\n" + "\n".join(comparison.lines()), flush=True)
        except Missing as missing:
            left_out[name] = f"{missing} is not installed"
            print(f"\n{name}: left out, {missing} is not installed", flush=True)
        print(f"({name}: {time.monotonic() - began:.0f} s)", flush=True)
    if given.json:
        print(json.dumps({"comparisons": [each.as_json() for each in done], "left_out": left_out}))
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main())
