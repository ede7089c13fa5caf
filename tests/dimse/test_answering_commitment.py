"""Storage commitment as SCP: said of verified copies only, reported where and as the requester can take it, once."""

import logging
import ssl
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import trustme
from dimse.arranging_commitment import (
    CT,
    MR,
    PUSH_MODEL,
    PUSH_MODEL_INSTANCE,
    MemoryIndex,
    Requester,
    action,
    ask_on,
    committing,
    until,
)
from pydicom.dataset import Dataset
from pynetdicom import AE

from vna.dimse import answering_commitment, reporting_commitment
from vna.dimse.pdata import Loop
from vna.site import Tls
from vna.spool import Commitments, Spool


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", reserve_bytes=0)


@pytest.fixture
def requester() -> Requester:
    return Requester()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting_commitment, "_LOOK_SECONDS", 0.1)
    for pauses in ("_PLACING", "_CATALOG", "_PEER"):
        monkeypatch.setattr(reporting_commitment, pauses, (0.2, 0.5))


def received(spool: Spool, sop_instance_uid: str) -> Any:
    """An instance in the spool; returns what places it."""
    with spool.open_association(
        calling_aet="CT_1", called_aet="BACKUPDR", peer_address="127.0.0.1", listener="scp"
    ) as association:
        writer = association.begin(CT, sop_instance_uid, "1.2.840.10008.1.2.1", "CT_1")
        writer.write(b"data set")
        writer.commit()

    def place() -> None:
        (file,) = spool.received(association.path)
        spool.remove_received(file)

    return place


def waiting(spool: Spool) -> list[str]:
    return Commitments(spool).waiting()


@pytest.mark.parametrize("loop", Loop)
def test_the_report_comes_on_the_same_association_where_that_stays_open(
    spool: Spool, requester: Requester, loop: Loop
) -> None:
    index = MemoryIndex({"1.5.1": CT, "1.5.2": MR})
    with committing(spool, index, loop=loop) as ours, requester.asking(ours.port) as association:
        assert ask_on(association, (CT, "1.5.1"), (MR, "1.5.2"), transaction="1.2.99") == 0x0000
        report = requester.report()
        assert (report.transaction, report.event_type) == ("1.2.99", 1)
        assert (report.committed, report.failed) == (["1.5.1", "1.5.2"], {})
        assert report.calling_aet == "CT_1"  # its own association
        until(lambda: waiting(spool) == [])


def test_the_report_comes_on_an_association_of_ours_where_the_requester_hung_up(
    spool: Spool, requester: Requester
) -> None:
    with requester.listening() as remote, committing(spool, MemoryIndex({"1.5.1": CT}), remote) as ours:
        assert requester.ask(ours.port, (CT, "1.5.1")) == 0x0000
        report = requester.report()
        assert (report.event_type, report.committed, report.failed) == (1, ["1.5.1"], {})
        assert (report.calling_aet, report.called_aet) == ("BACKUPDR", "CT_1")
        assert report.our_roles == {PUSH_MODEL: (False, True)}
        until(lambda: waiting(spool) == [])


def test_we_call_back_by_the_ae_title_that_was_asked(spool: Spool, requester: Requester) -> None:
    """Field note 41: a modality takes the report only from the AE it asked."""
    with (
        requester.listening() as remote,
        committing(spool, MemoryIndex({"1.5.1": CT}), remote, aet="OLD_PACS") as ours,
    ):
        assert requester.ask(ours.port, (CT, "1.5.1"), called="OLD_PACS") == 0x0000
        assert requester.report().calling_aet == "OLD_PACS"


def test_we_call_back_by_tls_where_the_requester_has_it(
    spool: Spool, requester: Requester, tmp_path: Path
) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with requester.listening(tls=context) as remote:
        by_tls = remote.model_copy(update={"tls": Tls(ca_file=tmp_path / "ca.pem")})
        with committing(spool, MemoryIndex({"1.5.1": CT}), by_tls) as ours:
            assert requester.ask(ours.port, (CT, "1.5.1")) == 0x0000
            assert requester.report().committed == ["1.5.1"]


@pytest.mark.parametrize("roles", [None, (False, False)], ids=["knows no roles", "refuses the role"])
def test_a_requester_that_grants_us_no_role_is_told_all_the_same(
    spool: Spool, requester: Requester, roles: tuple[bool, bool] | None
) -> None:
    with (
        requester.listening(roles=roles) as remote,
        committing(spool, MemoryIndex({"1.5.1": CT}), remote) as ours,
    ):
        assert requester.ask(ours.port, (CT, "1.5.1")) == 0x0000
        assert requester.report().committed == ["1.5.1"]


def test_what_is_not_safe_is_told_with_its_reason(spool: Spool, requester: Requester) -> None:
    index = MemoryIndex({"1.5.1": CT, "1.5.2": MR}, damaged={"1.5.3"})
    with committing(spool, index) as ours, requester.asking(ours.port) as association:
        references = ((CT, "1.5.1"), (CT, "1.5.2"), (CT, "1.5.3"), (CT, "1.5.4"), (CT, "../1"))
        assert ask_on(association, *references) == 0x0000
        report = requester.report()
        assert (report.event_type, report.committed) == (2, ["1.5.1"])
        assert report.failed == {"1.5.2": 0x0119, "1.5.3": 0x0110, "1.5.4": 0x0112, "../1": 0x0112}


def test_an_instance_in_the_spool_is_waited_for(spool: Spool, requester: Requester) -> None:
    place = received(spool, "1.5.2")
    index = MemoryIndex({"1.5.1": CT})
    with requester.listening() as remote, committing(spool, index, remote) as ours:
        assert requester.ask(ours.port, (CT, "1.5.1"), (CT, "1.5.2")) == 0x0000
        with pytest.raises(AssertionError):
            requester.report(seconds=1)
        index.good["1.5.2"] = CT
        place()
        assert (requester.report().event_type, requester.report().committed) == (1, ["1.5.1", "1.5.2"])


def test_an_instance_that_came_once_more_is_not_committed_by_its_older_version(
    spool: Spool, requester: Requester
) -> None:
    place = received(spool, "1.5.1")
    index = MemoryIndex({"1.5.1": CT})
    with committing(spool, index) as ours, requester.asking(ours.port) as association:
        assert ask_on(association, (CT, "1.5.1")) == 0x0000
        with pytest.raises(AssertionError):
            requester.report(seconds=1)
        place()
        assert requester.report().committed == ["1.5.1"]


def test_an_instance_that_is_never_placed_is_told_as_not_committed(
    spool: Spool, requester: Requester
) -> None:
    received(spool, "1.5.2")
    with committing(spool, MemoryIndex({"1.5.1": CT}), wait_seconds=0.8) as ours:
        with requester.asking(ours.port) as association:
            assert ask_on(association, (CT, "1.5.1"), (CT, "1.5.2")) == 0x0000
            report = requester.report()
        assert (report.event_type, report.committed, report.failed) == (2, ["1.5.1"], {"1.5.2": 0x0110})


def test_an_instance_that_came_once_more_and_is_never_placed_is_told_as_not_committed(
    spool: Spool, requester: Requester
) -> None:
    received(spool, "1.5.1")
    with (
        committing(spool, MemoryIndex({"1.5.1": CT}), wait_seconds=0.5) as ours,
        requester.asking(ours.port) as association,
    ):
        assert ask_on(association, (CT, "1.5.1")) == 0x0000
        assert requester.report().failed == {"1.5.1": 0x0110}


def test_while_the_catalog_is_away_nothing_is_said_and_then_the_truth(
    spool: Spool, requester: Requester, caplog: pytest.LogCaptureFixture
) -> None:
    index = MemoryIndex({"1.5.1": CT}, is_away=True)
    with requester.listening() as remote, committing(spool, index, remote) as ours:
        assert requester.ask(ours.port, (CT, "1.5.1"), (CT, "1.5.2")) == 0x0000
        until(lambda: "The catalog database does not answer" in caplog.text)
        assert requester.reports == []
        index.is_away = False
        assert requester.report().failed == {"1.5.2": 0x0112}
    assert caplog.text.count("does not answer") == 1


def test_a_requester_that_is_away_is_told_when_it_is_back(
    spool: Spool, requester: Requester, caplog: pytest.LogCaptureFixture
) -> None:
    with requester.listening() as remote:
        pass
    with committing(spool, MemoryIndex({"1.5.1": CT}), remote) as ours:
        assert requester.ask(ours.port, (CT, "1.5.1")) == 0x0000
        until(lambda: "no connection to 127.0.0.1" in caplog.text)
        with requester.listening(remote.port):
            assert requester.report().committed == ["1.5.1"]
            until(lambda: waiting(spool) == [])


def test_a_requester_that_cannot_be_reached_does_not_hold_up_another(
    spool: Spool, requester: Requester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting_commitment, "_PEER", (3600, 3600))
    other = Requester("CT_2")
    with other.listening() as away:
        pass
    attempts: list[str] = []
    original = reporting_commitment.Reporter._report

    def count(self: Any, taken: Any, judgement: Any) -> None:
        attempts.append(taken.request.calling_aet)
        original(self, taken, judgement)

    monkeypatch.setattr(reporting_commitment.Reporter, "_report", count)
    with requester.listening() as remote, committing(spool, MemoryIndex({"1.5.1": CT}), remote, away) as ours:
        for number in range(5):
            assert other.ask(ours.port, (CT, "1.5.1"), transaction=f"1.3.{number}") == 0x0000
        assert requester.ask(ours.port, (CT, "1.5.1")) == 0x0000
        assert requester.report().committed == ["1.5.1"]
        assert attempts.count("CT_2") == 1


def test_a_requester_that_is_no_remote_server_is_named_and_told_once_it_is(
    spool: Spool, requester: Requester, caplog: pytest.LogCaptureFixture
) -> None:
    with requester.listening() as remote, committing(spool, MemoryIndex({"1.5.1": CT})) as ours:
        assert requester.ask(ours.port, (CT, "1.5.1")) == 0x0000
        until(lambda: "No remote server calls as 'CT_1'" in caplog.text)
        ours.remotes["CT_1"] = remote
        assert requester.report().committed == ["1.5.1"]


def test_a_report_that_was_not_taken_comes_again_and_never_after_it_was(
    spool: Spool, requester: Requester
) -> None:
    requester.statuses = [0x0110, 0x0213]
    with requester.listening() as remote, committing(spool, MemoryIndex({"1.5.1": CT}), remote) as ours:
        with requester.asking(ours.port) as association:
            assert ask_on(association, (CT, "1.5.1")) == 0x0000
            assert requester.report(1).calling_aet == "CT_1"
            assert requester.report(3).calling_aet == "BACKUPDR"
        until(lambda: waiting(spool) == [])
        with pytest.raises(AssertionError):
            requester.report(4, seconds=1)


def test_a_report_that_is_refused_does_not_hold_up_the_next_of_that_requester(
    spool: Spool, requester: Requester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting_commitment, "_PEER", (3600, 3600))
    requester.statuses = [0x0112]
    with requester.listening() as remote, committing(spool, MemoryIndex({"1.5.1": CT}), remote) as ours:
        assert requester.ask(ours.port, (CT, "1.5.1"), transaction="1.2.1") == 0x0000
        assert requester.report(1).transaction == "1.2.1"
        assert requester.ask(ours.port, (CT, "1.5.1"), transaction="1.2.2") == 0x0000
        assert requester.report(2).transaction == "1.2.2"
        until(lambda: len(waiting(spool)) == 1)


def test_a_request_that_cannot_be_read_does_not_hold_up_another(
    spool: Spool, requester: Requester, caplog: pytest.LogCaptureFixture
) -> None:
    spool.prepare()
    (spool.path / "commitment").mkdir()
    for name in ("0" * 40, "f" * 40):  # whichever is looked at first
        (spool.path / "commitment" / name / "0.jsonl").mkdir(parents=True)
    with requester.listening() as remote, committing(spool, MemoryIndex({"1.5.1": CT}), remote) as ours:
        assert requester.ask(ours.port, (CT, "1.5.1")) == 0x0000
        assert requester.report().committed == ["1.5.1"]
    assert "Is a directory" in caplog.text


def test_a_report_tried_for_a_day_is_given_up_and_kept(
    spool: Spool, requester: Requester, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reporting_commitment, "GIVE_UP_SECONDS", 1.0)
    with committing(spool, MemoryIndex({"1.5.1": CT})) as ours:
        assert requester.ask(ours.port, (CT, "1.5.1"), transaction="1.2.77") == 0x0000
        until(lambda: Commitments(spool).given_up() == 1)
    assert waiting(spool) == []
    assert "CT_1 was not told of storage commitment 1.2.77 (1 instances) within a day" in caplog.text


def test_several_requests_on_one_association_are_all_reported_on_it(
    spool: Spool, requester: Requester
) -> None:
    place = received(spool, "1.5.1")
    index = MemoryIndex({"1.5.1": CT, "1.5.2": CT})
    with committing(spool, index) as ours, requester.asking(ours.port) as association:
        for transaction in ("1.2.1", "1.2.2", "1.2.3"):
            instance = "1.5.1" if transaction == "1.2.1" else "1.5.2"
            assert ask_on(association, (CT, instance), transaction=transaction) == 0x0000
        requester.report(2)
        place()
        requester.report(3)
        assert {report.transaction for report in requester.reports} == {"1.2.1", "1.2.2", "1.2.3"}
        until(lambda: waiting(spool) == [])
        assert len(requester.reports) == 3


def test_the_same_request_asked_twice_is_reported_once(spool: Spool, requester: Requester) -> None:
    index = MemoryIndex({"1.5.1": CT}, is_away=True)
    with requester.listening() as remote, committing(spool, index, remote) as ours:
        assert requester.ask(ours.port, (CT, "1.5.1")) == 0x0000
        assert requester.ask(ours.port, (CT, "1.5.1")) == 0x0000
        until(lambda: len(waiting(spool)) == 1)
        index.is_away = False
        requester.report()
        until(lambda: waiting(spool) == [])
        assert len(requester.reports) == 1


def test_asked_again_after_its_report_it_is_reported_again(spool: Spool, requester: Requester) -> None:
    with committing(spool, MemoryIndex({"1.5.1": CT})) as ours, requester.asking(ours.port) as association:
        assert ask_on(association, (CT, "1.5.1")) == 0x0000
        requester.report(1)
        assert ask_on(association, (CT, "1.5.1")) == 0x0000
        assert requester.report(2) == requester.report(1)


def test_a_requester_that_goes_on_to_something_else_is_answered_at_once_and_told_elsewhere(
    spool: Spool, requester: Requester
) -> None:
    index = MemoryIndex({"1.5.1": CT}, is_away=True)
    with (
        requester.listening() as remote,
        committing(spool, index, remote) as ours,
        requester.asking(ours.port) as association,
    ):
        assert ask_on(association, (CT, "1.5.1")) == 0x0000
        assert association.send_c_echo().Status == 0x0000
        index.is_away = False
        assert requester.report().calling_aet == "BACKUPDR"
        assert association.send_c_echo().Status == 0x0000


def test_what_a_requester_asks_before_it_takes_a_report_is_answered_after_it(
    spool: Spool, requester: Requester
) -> None:
    echoes: list[int] = []
    with committing(spool, MemoryIndex({"1.5.1": CT})) as ours, requester.asking(ours.port) as association:

        def ask_first() -> None:
            echo = threading.Thread(target=lambda: echoes.append(association.send_c_echo().Status))
            echo.start()
            time.sleep(0.3)

        requester.before_taking = ask_first
        assert ask_on(association, (CT, "1.5.1")) == 0x0000
        until(lambda: echoes == [0x0000])
        assert waiting(spool) == []
        assert len(requester.reports) == 1


def test_a_server_that_drains_does_not_wait_for_what_is_not_placed(
    spool: Spool, requester: Requester
) -> None:
    received(spool, "1.5.1")
    with committing(spool, MemoryIndex()) as ours, requester.asking(ours.port) as association:
        assert ask_on(association, (CT, "1.5.1")) == 0x0000
        ours.stop.set()
        begun = time.monotonic()
        ours.receiver.drain(20)
        assert time.monotonic() - begun < 10
    assert len(waiting(spool)) == 1


def test_two_processes_that_report_tell_a_requester_once(spool: Spool, requester: Requester) -> None:
    index = MemoryIndex({f"1.5.{n}": CT for n in range(10)}, is_away=True)
    with (
        requester.listening() as remote,
        committing(spool, index, remote) as ours,
        committing(Spool(spool.path, reserve_bytes=0), index, remote),
    ):
        for number in range(10):
            requester.ask(ours.port, (CT, f"1.5.{number}"), transaction=f"1.2.{number}")
        index.is_away = False
        until(lambda: waiting(spool) == [])
        assert sorted(report.transaction for report in requester.reports) == [f"1.2.{n}" for n in range(10)]


def test_a_server_that_stops_leaves_what_waits_to_its_next_start(spool: Spool, requester: Requester) -> None:
    place = received(spool, "1.5.1")
    index = MemoryIndex({"1.5.1": CT})
    with committing(spool, index) as ours, requester.asking(ours.port) as association:
        assert ask_on(association, (CT, "1.5.1")) == 0x0000
    assert len(waiting(spool)) == 1
    place()
    with requester.listening() as remote, committing(spool, index, remote):
        assert requester.report().committed == ["1.5.1"]


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"])
def test_a_request_of_thousands_of_instances_is_reported_whole(spool: Spool, syntax: str) -> None:
    instances = [f"1.2.826.0.1.3680043.10.1081.4.1.20261125.{n}" for n in range(5_000)]
    index = MemoryIndex(dict.fromkeys(instances[:-1], CT))
    requester = Requester()
    requester._entity.requested_contexts[0].transfer_syntax = [syntax]
    with committing(spool, index) as ours, requester.asking(ours.port) as association:
        assert ask_on(association, *((CT, instance) for instance in instances)) == 0x0000
        report = requester.report(seconds=60)
        until(lambda: waiting(spool) == [])
        assert report.committed == instances[:-1]
        assert report.failed == {instances[-1]: 0x0112}


def _without(keyword: str) -> Dataset:
    information = action((CT, "1.5.1"))
    del information[keyword]
    return information


def _with(**values: object) -> Dataset:
    information = action((CT, "1.5.1"))
    for keyword, value in values.items():
        setattr(information, keyword, value)
    return information


def _half_a_reference() -> Dataset:
    information = action((CT, "1.5.1"))
    del information.ReferencedSOPSequence[0].ReferencedSOPClassUID
    return information


MALFORMED = {
    "no information": (None, 1, PUSH_MODEL_INSTANCE, 0x0115),
    "no transaction": (_without("TransactionUID"), 1, PUSH_MODEL_INSTANCE, 0x0115),
    "no references": (_without("ReferencedSOPSequence"), 1, PUSH_MODEL_INSTANCE, 0x0115),
    "empty sequence": (_with(ReferencedSOPSequence=[]), 1, PUSH_MODEL_INSTANCE, 0x0115),
    "half a reference": (_half_a_reference(), 1, PUSH_MODEL_INSTANCE, 0x0115),
    "another action": (action((CT, "1.5.1")), 2, PUSH_MODEL_INSTANCE, 0x0123),
    "another instance": (action((CT, "1.5.1")), 1, "1.2.3", 0x0112),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_request_is_refused_with_its_status_and_nothing_is_kept(
    spool: Spool, requester: Requester, name: str
) -> None:
    information, action_type, instance, expected = MALFORMED[name]
    with committing(spool, MemoryIndex({"1.5.1": CT})) as ours, requester.asking(ours.port) as association:
        status, _ = association.send_n_action(information, action_type, PUSH_MODEL, instance)
        assert status.Status == expected
        assert waiting(spool) == []
        assert association.send_c_echo().Status == 0x0000
    assert requester.reports == []


def test_what_is_no_n_action_is_refused_as_an_unknown_operation(spool: Spool, requester: Requester) -> None:
    with committing(spool, MemoryIndex()) as ours, requester.asking(ours.port) as association:
        status, _ = association.send_n_get([0x00080016], PUSH_MODEL, PUSH_MODEL_INSTANCE)
        assert status.Status == 0x0211


def test_below_the_reserve_no_request_is_taken(tmp_path: Path, requester: Requester) -> None:
    full = Spool(tmp_path / "spool", reserve_bytes=2**62)
    with committing(full, MemoryIndex({"1.5.1": CT})) as ours:
        assert requester.ask(ours.port, (CT, "1.5.1")) == 0x0213
    assert waiting(full) == []


def test_the_log_tells_what_was_asked_and_what_was_answered(
    spool: Spool, requester: Requester, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="vna")
    with committing(spool, MemoryIndex({"1.5.1": CT})) as ours, requester.asking(ours.port) as association:
        ask_on(association, (CT, "1.5.1"), (CT, "1.5.2"), transaction="1.2.9")
        requester.report()
        until(
            lambda: "CT_1 was told of storage commitment 1.2.9: 1 instances committed, 1 not" in caplog.text
        )
    assert "CT_1 asks for storage commitment of 2 instances, transaction 1.2.9" in caplog.text


def test_a_requester_that_never_answers_a_report_does_not_keep_its_association_busy(
    spool: Spool, requester: Requester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering_commitment, "SAME_ASSOCIATION_SECONDS", 0.5)
    entity = AE("CT_1")
    entity.add_requested_context(PUSH_MODEL)
    entity.add_requested_context("1.2.840.10008.1.1")
    with requester.listening() as remote, committing(spool, MemoryIndex({"1.5.1": CT}), remote) as ours:
        silent = entity.associate("127.0.0.1", ours.port, ae_title="BACKUPDR")
        silent._serve_request = lambda message, context_id: None
        assert ask_on(silent, (CT, "1.5.1")) == 0x0000
        assert requester.report().calling_aet == "BACKUPDR"
        assert silent.send_c_echo().Status == 0x0000
        silent.release()
