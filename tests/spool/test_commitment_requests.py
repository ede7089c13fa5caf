"""Requests for storage commitment in the spool: durable, answered once, never lost, never in two hands."""

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vna.errors import CommitmentBacklog, DiskFull, SpoolUnusable
from vna.spool import CommitmentRequest, Commitments, Spool, commitments

CT = "1.2.840.10008.5.1.4.1.1.2"


def asked(transaction: str = "1.2.3", at: float = 1000.0, references: int = 2) -> CommitmentRequest:
    return CommitmentRequest(
        "1" + transaction, "CT_1", "BACKUPDR", at, tuple((CT, f"1.2.{n}") for n in range(references))
    )


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    made = Spool(tmp_path / "spool", reserve_bytes=0)
    made.prepare()
    return made


def files(spool: Spool) -> list[str]:
    folder = spool.path / "commitment"
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_what_was_asked_is_read_again_by_another_process_as_it_was(spool: Spool) -> None:
    request = CommitmentRequest("1.2.3", "CT 1", "PACS", 1234.5, ((CT, "1.2"), ("not a UID \udcff", "1.3")))
    with Commitments(spool).add(request) as taken:
        assert taken.request == request
    elsewhere = Commitments(Spool(spool.path, reserve_bytes=0))
    (key,) = elsewhere.waiting()
    with elsewhere.take(key) as taken:
        assert taken.request == request


def test_a_request_in_somebodys_hands_is_not_given_to_another(spool: Spool) -> None:
    here, there = Commitments(spool), Commitments(spool)
    taken = here.add(asked())
    assert there.take(taken.key) is None
    taken.release()
    with there.take(taken.key) as again:
        assert again.key == taken.key


def test_an_acknowledged_request_leaves_nothing_behind(spool: Spool) -> None:
    here = Commitments(spool)
    with here.add(asked()) as taken:
        taken.acknowledged()
    assert here.waiting() == []
    assert here.take(taken.key) is None
    assert list((spool.path / "commitment").iterdir()) == []


def test_what_was_not_acknowledged_stays(spool: Spool) -> None:
    here = Commitments(spool)
    with here.add(asked()) as taken:
        pass
    assert here.waiting() == [taken.key]


def test_the_same_asked_again_while_it_waits_is_one_request(spool: Spool) -> None:
    here = Commitments(spool)
    here.add(asked(at=1000.0)).release()
    again = asked(at=2000.0)
    again = CommitmentRequest(
        **{name: getattr(again, name) for name in again.__slots__} | {"references": again.references[::-1]}
    )
    with here.add(again) as taken:
        assert taken.first_asked == 1000.0
        assert len(files(spool)) == 2  # it and its lock, however often it is asked
        taken.acknowledged()
    assert here.waiting() == []


def test_the_same_asked_again_while_it_is_being_reported_is_reported_once_more(spool: Spool) -> None:
    here = Commitments(spool)
    first = here.add(asked(at=1000.0))
    assert here.add(asked(at=2000.0)) is None
    first.acknowledged()
    first.release()
    with here.take(first.key) as taken:
        assert (taken.request.requested_at, taken.first_asked) == (2000.0, 2000.0)
        taken.acknowledged()
    assert here.waiting() == []


def test_another_requester_another_transaction_or_other_instances_are_another_request(spool: Spool) -> None:
    here = Commitments(spool)
    for request in (
        asked(),
        asked("1.2.4"),
        asked(references=3),
        CommitmentRequest("11.2.3", "CT_2", "BACKUPDR", 1000.0, asked().references),
    ):
        here.add(request).release()
    assert len(here.waiting()) == 4


def test_a_request_given_up_is_kept_apart_and_not_taken_again(spool: Spool) -> None:
    here = Commitments(spool)
    with here.add(asked()) as taken:
        taken.give_up()
    assert (here.waiting(), here.given_up()) == ([], 1)
    here.sweep()
    assert here.given_up() == 1


def test_what_was_given_up_a_month_ago_is_swept(spool: Spool) -> None:
    here = Commitments(spool)
    with here.add(asked()) as taken:
        taken.give_up()
    (path,) = (spool.path / "commitment" / "given-up").iterdir()
    old = path.stat().st_mtime - commitments.KEEP_GIVEN_UP_SECONDS - 1
    os.utime(path, (old, old))
    here.sweep()
    assert here.given_up() == 0


@pytest.mark.parametrize("content", [b"", b"[]", b'{"transaction_uid": "1.2"}', b"\xff", b"short"])
def test_a_damaged_request_is_given_up_and_told(
    spool: Spool, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    here = Commitments(spool)
    here.add(asked()).release()
    (key,) = here.waiting()
    (path,) = (spool.path / "commitment" / key).glob("*.jsonl")
    if content == b"short":
        content = b"".join(path.read_bytes().splitlines(keepends=True)[:-1])
    path.write_bytes(content)
    assert here.take(key) is None
    assert (here.waiting(), here.given_up()) == ([], 1)
    assert f"{path} is damaged" in caplog.text


def test_no_request_is_kept_below_the_reserve(tmp_path: Path) -> None:
    full = Spool(tmp_path, reserve_bytes=2**62)
    with pytest.raises(DiskFull):
        Commitments(full).add(asked())
    assert Commitments(full).waiting() == []


def test_a_requester_without_end_is_refused_at_last(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commitments, "MOST_WAITING", 2)
    here = Commitments(spool)
    here.add(asked("1.1")).release()
    here.add(asked("1.2")).release()
    with pytest.raises(CommitmentBacklog, match="2 requests for storage commitment wait"):
        here.add(asked("1.3"))
    here.add(asked("1.2")).release()


def test_a_folder_that_cannot_be_used_is_named(spool: Spool) -> None:
    (spool.path / "commitment").write_bytes(b"")
    with pytest.raises(SpoolUnusable, match="commitment"):
        Commitments(spool).add(asked())
    with pytest.raises(SpoolUnusable, match="commitment"):
        Commitments(spool).waiting()


def test_threads_that_ask_and_report_the_same_at_once_lose_no_request(spool: Spool) -> None:
    """Each request is in one of the hands that report it, or waits: the last one asked is always reported."""
    reported: list[float] = []
    asking_is_over = threading.Event()

    def ask(start: int) -> None:
        here = Commitments(spool)
        for number in range(start, start + 40):
            if (taken := here.add(asked(at=float(number)))) is not None:
                taken.release()

    def report() -> None:
        here = Commitments(spool)
        until = time.monotonic() + 60
        while time.monotonic() < until and (not asking_is_over.is_set() or here.waiting()):
            for key in here.waiting():
                if (taken := here.take(key)) is not None:
                    with taken:
                        taken.acknowledged()
                        reported.append(time.monotonic())

    with ThreadPoolExecutor(4) as pool:
        reporters = [pool.submit(report) for _ in range(2)]
        for asking in [pool.submit(ask, start) for start in (0, 1000)]:
            asking.result()
        last_asked = time.monotonic()
        if (last := Commitments(spool).add(asked(at=9999.0))) is not None:
            last.release()
        asking_is_over.set()
        for reporting in reporters:
            reporting.result()
    assert files(spool) == []
    assert max(reported) > last_asked


def test_a_request_is_whole_on_disk_when_its_process_is_killed_right_after(spool: Spool) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from vna.spool import CommitmentRequest, Commitments, Spool\n"
        "request = CommitmentRequest('1.2.3', 'CT_1', 'BACKUPDR', 1.0, (('1.2', '1.3'),))\n"
        "Commitments(Spool(Path(sys.argv[1]), reserve_bytes=0)).add(request)\n"
    )
    environment = {**os.environ, "BACKUPDR_KILL_AT": "commitment.requested"}
    ended = subprocess.run([sys.executable, "-c", program, str(spool.path)], env=environment)
    assert ended.returncode != 0
    here = Commitments(spool)
    (key,) = here.waiting()
    with here.take(key) as taken:
        assert taken.request == CommitmentRequest("1.2.3", "CT_1", "BACKUPDR", 1.0, (("1.2", "1.3"),))
        taken.acknowledged()
    assert files(spool) == []
