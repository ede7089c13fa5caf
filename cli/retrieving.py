"""What `backupdr retrieve` does: check the question, run the flow, tell the outcome."""

import contextlib
import os
import signal
from collections.abc import Generator, Sequence

from cli.console import say, show, warn
from cli.settings_of_site import known_name
from vna.settings import load_settings
from vna.site import load_site

SHOWN_PROBLEMS = 20


STOPPING = "Stopping when the studies in work are left in order; Ctrl-C again ends at once."


@contextlib.contextmanager
def told_twice() -> Generator[None]:
    """The first Ctrl-C ends the run in order, the second at once, which loses nothing either."""

    def first(*_: object) -> None:
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
        warn(STOPPING)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def retrieve(
    remote: str,
    filters: Sequence[str],
    study_uids: Sequence[str],
    *,
    order: str,
    unit: str,
    recheck: bool,
    as_json: bool,
) -> int:
    """The exit code: 0 = every wanted study is complete, 1 = not, 130 = stopped by Ctrl-C.

    What cannot be right fails before Prefect is started.
    """
    settings = load_settings()
    site = load_site(settings)
    remote = known_name("remote server", remote, site.remotes)
    unit = known_name("storage unit", unit, site.units)
    from vna.jobs.filters import make_filter, parse_filter

    for text in filters:
        parse_filter(text)
    for uid in study_uids:
        make_filter("StudyInstanceUID", uid)

    from deployments.server import embedded_server

    warn(f"Preparing the backup of {remote} to {unit}…")
    with embedded_server(settings.home), told_twice():
        from flows.query_retrieve import Stopped, run_retrieval

        try:
            outcome = run_retrieval(
                settings,
                remote,
                filters,
                study_uids,
                order=order,
                unit=unit,
                recheck=recheck,
                on_progress=warn,
            )
            code = 0 if outcome.ok else 1
        except Stopped as stopped:
            outcome, code = stopped.outcome, 130
    for problem in outcome.problems[:SHOWN_PROBLEMS]:
        warn(problem)
    if len(outcome.problems) > SHOWN_PROBLEMS:
        warn(f"… and {len(outcome.problems) - SHOWN_PROBLEMS} more (all of them with --json).")
    for note in outcome.notes:
        say(note, as_json=as_json)
    say(outcome.sentence, as_json=as_json)
    if as_json:
        show(outcome.as_json())
    return code
