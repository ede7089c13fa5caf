"""How the command talks: sentences for people, one JSON object for scripts.

With `--json` standard output carries nothing but the object, as its last line; sentences and progress go to
standard error.
"""

import json
import sys
from collections.abc import Mapping

RETRIEVE_NOTHING: Mapping[str, object] = {
    "state": "failed",
    "found": 0,
    "complete": 0,
    "incomplete": 0,
    "instances": 0,
    "bytes": 0,
    "held": 0,
    "seconds": 0,
    "changed": 0,
    "excluded": 0,
    "notes": [],
    "sentence": "",
}
VERIFY_NOTHING: Mapping[str, object] = {
    "checked": 0,
    "ok": 0,
    "missing": 0,
    "differing_size": 0,
    "differing_checksum": 0,
    "orphaned": 0,
}
HEALTH_NOTHING: Mapping[str, object] = {
    "receiving": False,
    "sentence": "",
    "aet": "",
    "port": None,
    "tls_port": None,
    "pid": None,
    "seconds": None,
    "processes": 0,
    "associations": 0,
    "waiting": 0,
    "accepted": 0,
    "refused": {},
    "last_refusals": [],
    "instances": 0,
    "bytes": 0,
    "refused_instances": {},
    "indexer": "",
    "backlog": 0,
    "backlog_since": None,
    "arriving": None,
    "aside": 0,
    "free_bytes": None,
    "reserve_bytes": None,
    "certificate_ends": "",
}
NOTHING_DONE: Mapping[str, Mapping[str, object]] = {
    "retrieve": RETRIEVE_NOTHING,
    "verify": VERIFY_NOTHING,
    "rebuild-catalog": {"state": "failed", "studies": 0, "instances": 0, "copies": 0},
    "scp": HEALTH_NOTHING,
    "check": {"ok": False, "findings": []},
    "remote add": {"state": "failed", "name": ""},
    "remote echo": {"state": "failed", "name": "", "seconds": 0},
    "remote list": {"remotes": []},
    "remote remove": {"state": "failed", "name": ""},
    "unit add": {"state": "failed", "name": "", "path": "", "new_folder": False},
    "unit list": {"units": []},
}


def say(sentence: str, *, as_json: bool = False) -> None:
    """A sentence for people."""
    print(sentence, file=sys.stderr if as_json else sys.stdout, flush=True)


def warn(sentence: str) -> None:
    """A sentence about something wrong, or about how far it is: always on standard error."""
    print(sentence, file=sys.stderr, flush=True)


def show(value: Mapping[str, object]) -> None:
    """The JSON object a script reads."""
    print(json.dumps(value, ensure_ascii=False), flush=True)


def failure(command: str, sentence: str) -> dict[str, object]:
    """The object of a command (`verify`, `unit add`) that could not do what was asked: the keys of its success."""
    nothing = NOTHING_DONE.get(command, {"state": "failed"})
    said: dict[str, object] = {"sentence": sentence} if "sentence" in nothing else {}
    if "receiving" in nothing:  # nobody has looked
        said["receiving"] = None
    return {**nothing, **said, "problems": [sentence]}
