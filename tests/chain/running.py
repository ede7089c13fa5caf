"""A child that makes runs of the flow: one JSON request a line in, one JSON outcome a line out.

`python -m tests.chain.running`; it ends when its standard input does. Its home, its Prefect server and a
boundary to be killed at come from its environment, as for any process of ours. With `CHAIN_BATCHES` studies are
taken by 25, as in runs of hundreds, which costs Prefect fewer tasks.
"""

import json
import os
import sys

import vna.jobs.steps
from flows.query_retrieve import run_retrieval
from vna.settings import load_settings


def main() -> None:
    if "CHAIN_BATCHES" in os.environ:
        vna.jobs.steps.BATCHES = 1
    settings = load_settings()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        outcome = run_retrieval(settings, **json.loads(line))
        print(json.dumps(outcome.as_json()), flush=True)


if __name__ == "__main__":
    main()
