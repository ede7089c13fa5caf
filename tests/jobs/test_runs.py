"""Runs by the library's own steps, without Prefect: what is taken again, what is remembered, what is left alone."""

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vna.jobs import steps
from vna.jobs.finding import choose, find
from vna.jobs.outcome import RetrievalOutcome, read_outcome
from vna.jobs.run import BackupRun, Request, open_run
from vna.settings import Settings
from vna.simulated_pacs import SimulatedPacs, add_instances, change_instance, parse_faults, write_studies
from vna.site import RemoteServer, RetrieveMethod, Site, publish_site

MIB = 2**20


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", reserve_bytes=MIB)


@pytest.fixture
def pacs(tmp_path: Path, settings: Settings) -> Iterator[Callable[..., SimulatedPacs]]:
    """Starts a simulated PACS over the folder `pacs`, known to the site as "pacs" by C-GET."""
    started: list[SimulatedPacs] = []

    def start(*faults: str) -> SimulatedPacs:
        for running in started:
            running.__exit__(None, None, None)
        started.clear()
        server = SimulatedPacs(tmp_path / "pacs", "PACS", 0, parse_faults(faults))
        started.append(server.__enter__())
        remote = RemoteServer(
            name="pacs", aet="PACS", host="127.0.0.1", port=server.port, retrieve=RetrieveMethod.get
        )
        publish_site(settings, Site(remotes={"pacs": remote}))
        return server

    yield start
    for running in started:
        running.__exit__(None, None, None)


def work(run: BackupRun) -> RetrievalOutcome:
    find(run)
    for batch in steps.batches(run, choose(run)):
        for step in (steps.plan_batch, steps.move_batch, steps.index_batch, steps.verify_batch):
            step(run, batch)
        steps.close_batch(run, batch, "left over")
    outcome = read_outcome(run.catalog, run.ledger, run.run_id)
    run.ledger.end(run.run_id, "completed" if outcome.ok else "failed", outcome.sentence)
    return outcome


def back_up(settings: Settings, run_id: str, **request: bool) -> RetrievalOutcome:
    with open_run(settings, run_id, Request("pacs", "default", **request)) as run:
        return work(run)


def test_the_same_run_again_sees_what_its_studies_have_become(
    tmp_path: Path, settings: Settings, pacs
) -> None:
    studies = write_studies(tmp_path / "pacs", 2, instances=3)
    server = pacs()
    assert back_up(settings, "run-1").instances == 6
    add_instances(studies[0], 2)
    server.look_again()
    again = back_up(settings, "run-1")
    assert again.ok
    assert sum(server.sent.values()) == 8


def test_a_recheck_begun_again_takes_nothing_of_its_first_attempt_for_done(
    tmp_path: Path, settings: Settings, pacs
) -> None:
    (study,) = write_studies(tmp_path / "pacs", 1, instances=3)
    server = pacs()
    back_up(settings, "first")
    assert back_up(settings, "recheck", recheck=True).ok
    assert sum(server.sent.values()) == 6
    assert back_up(settings, "recheck", recheck=True).ok
    assert all(count == 3 for count in server.sent.values())
    assert len(server.sent) == len(study.instances)


def test_one_instance_that_never_comes_does_not_have_the_others_pulled_again(
    tmp_path: Path, settings: Settings, pacs
) -> None:
    (study,) = write_studies(tmp_path / "pacs", 1, instances=6)
    server = pacs("send-fewer")
    first = back_up(settings, "run-1")
    assert not first.ok
    assert "1 of 6 instances are missing" in first.sentence
    for number in (2, 3):
        assert not back_up(settings, f"run-{number}").ok
    assert sum(server.sent.values()) == 5
    server = pacs()
    assert back_up(settings, "run-4").ok
    assert sum(server.sent.values()) == 1
    assert len(study.instances) == 6


def test_only_contents_that_were_kept_as_further_versions_are_called_changed(
    tmp_path: Path, settings: Settings, pacs
) -> None:
    studies = write_studies(tmp_path / "pacs", 2, instances=2)
    server = pacs()
    assert back_up(settings, "run-1").changed == 0
    assert back_up(settings, "same", recheck=True).changed == 0
    change_instance(studies[0].instances[0], StudyDescription="Corrected")
    server.look_again()
    changed = back_up(settings, "other", recheck=True)
    assert changed.changed == 1
    assert "both versions kept" in changed.sentence


def test_one_study_that_fails_as_nobody_foresaw_leaves_the_others_alone(
    tmp_path: Path, settings: Settings, pacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    studies = write_studies(tmp_path / "pacs", 3, instances=1)
    pacs()
    odd, plan_study = studies[1].study_instance_uid, steps.plan_study

    def plan(run, study):
        if study.study_instance_uid == odd:
            raise ValueError("Patient^Name")
        return plan_study(run, study)

    monkeypatch.setattr(steps, "plan_study", plan)
    monkeypatch.setattr(steps, "BATCHES", 1)
    outcome = back_up(settings, "run-1")
    assert (outcome.complete, outcome.incomplete) == (2, 1)
    assert outcome.problems == (f"study {odd}: failed unexpectedly (ValueError); the log has the details.",)


def test_a_run_told_to_stop_begins_no_further_study_and_the_next_takes_the_rest(
    tmp_path: Path, settings: Settings, pacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_studies(tmp_path / "pacs", 4, instances=1)
    server = pacs()
    move_study = steps.move_study

    def move(run, plan):
        said = move_study(run, plan)
        run.stopping.set()
        return said

    monkeypatch.setattr(steps, "move_study", move)
    outcome = back_up(settings, "run-1")
    assert (outcome.incomplete, outcome.problems) == (4, ())
    assert sum(server.sent.values()) == 1
    monkeypatch.undo()
    assert back_up(settings, "run-2").ok
    assert sum(server.sent.values()) == 4


def test_what_breaks_a_run_is_written_down_before_anybody_asks(
    tmp_path: Path, settings: Settings, pacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    import flows.query_retrieve as flow

    write_studies(tmp_path / "pacs", 1, instances=1)
    pacs()

    def broken(_: BackupRun) -> int:
        raise RuntimeError("Patient^Name")

    monkeypatch.setattr(flow, "find", broken)
    monkeypatch.setattr(flow, "live_progress", contextlib.nullcontext)  # it would want a Prefect server
    with pytest.raises(RuntimeError):
        flow.back_up(settings, "run-1", Request("pacs", "default"))
    with open_run(settings, "another", Request("pacs", "default")) as run:
        outcome = read_outcome(run.catalog, run.ledger, "run-1")
    assert not outcome.ok
    assert outcome.sentence == "The run failed unexpectedly (RuntimeError); its log has the details."


def test_a_lost_catalog_costs_no_second_transfer(tmp_path: Path, settings: Settings, pacs) -> None:
    write_studies(tmp_path / "pacs", 2, instances=2)
    server = pacs()
    assert back_up(settings, "run-1").ok
    for path in settings.home.glob("catalog.sqlite*"):
        path.unlink()
    again = back_up(settings, "run-2")
    assert again.ok
    assert (again.instances, again.held) == (0, 4)
    assert sum(server.sent.values()) == 4


def test_what_the_source_sends_and_does_not_list_proves_its_list_cut(
    tmp_path: Path, settings: Settings, pacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vna.jobs import planning, proving

    (study,) = write_studies(tmp_path / "pacs", 1, instances=4)
    pacs()
    listed = planning.find_instances

    def cut(*arguments, **options):
        return listed(*arguments, **options)[:3]

    monkeypatch.setattr(planning, "find_instances", cut)
    monkeypatch.setattr(proving, "find_instances", cut)
    outcome = back_up(settings, "run-1")
    assert not outcome.ok
    assert f"study {study.study_instance_uid}: stored, unproven" in outcome.sentence
    assert "it sent 1 instances that its list of 3 lacks" in outcome.sentence


def test_a_run_removes_at_once_what_a_kill_cut_off(tmp_path: Path, settings: Settings, pacs) -> None:
    write_studies(tmp_path / "pacs", 1, instances=1)
    pacs()
    receiver = (
        "import os, sys; from pathlib import Path; from vna.spool import Spool\n"
        "spool = Spool(Path(sys.argv[1]), 1)\n"
        "folder = spool.open_association(calling_aet='A', called_aet='B', peer_address='c', listener='scp')\n"
        "folder.begin('1.2.840.10008.5.1.4.1.1.2', '1.2.3', '1.2.840.10008.1.2.1', 'A').write(b'part')\n"
        "os._exit(137)\n"
    )
    subprocess.run([sys.executable, "-c", receiver, str(settings.spool_path)])
    assert list(settings.spool_path.rglob("*.part"))
    assert back_up(settings, "run-1").ok
    assert not list(settings.spool_path.rglob("*.part"))
