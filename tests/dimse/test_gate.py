"""Limits per source."""

import threading
import time

from vna.dimse import SourceGate
from vna.site import RemoteServer


def remote(name: str, associations: int, pause: float = 0.0) -> RemoteServer:
    return RemoteServer(
        name=name, aet="PEER", host="127.0.0.1", port=104, associations=associations, pause_seconds=pause
    )


def most_at_once(gates: list[SourceGate]) -> int:
    inside, most, counting = 0, 0, threading.Lock()

    def work(gate: SourceGate) -> None:
        nonlocal inside, most
        with gate:
            with counting:
                inside += 1
                most = max(most, inside)
            time.sleep(0.02)
            with counting:
                inside -= 1

    threads = [threading.Thread(target=work, args=(gate,)) for gate in gates]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return most


def test_no_more_associations_than_the_source_allows() -> None:
    gate = SourceGate(remote("one", 2))
    assert most_at_once([gate] * 8) == 2


def test_two_runs_against_one_source_share_its_limit() -> None:
    assert most_at_once([SourceGate(remote("two", 2)) for _ in range(8)]) == 2


def test_the_pause_lies_between_the_end_of_a_request_and_the_next() -> None:
    gate = SourceGate(remote("three", 1, pause=0.1))
    begun = time.monotonic()
    for _ in range(3):
        with gate:
            pass
    assert 0.2 <= time.monotonic() - begun < 0.6


def test_a_request_that_failed_frees_its_place() -> None:
    gate = SourceGate(remote("four", 1))
    for _ in range(2):
        try:
            with gate:
                raise ValueError
        except ValueError:
            pass
    assert most_at_once([gate]) == 1
