"""A process of the server whose door broke ends with an error, so that another is started in its place."""

import threading
from pathlib import Path

import pytest

from dicom_scp.receiving import ReceivingProcess
from tests.dicom_scp.arranging_server import settings_in, until
from vna.dimse.status import read_statuses


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # the end, as told here
def test_a_process_that_lets_nobody_in_any_more_ends_with_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []

    def end(code: int) -> None:
        ended.append(code)
        raise SystemExit

    monkeypatch.setattr("dicom_scp.receiving.os._exit", end)
    monkeypatch.setattr("dicom_scp.receiving.EVERY_SECONDS", 0.1)
    monkeypatch.setattr("vna.dimse.listening._PAUSE_SECONDS", 0.01)
    settings = settings_in(tmp_path)
    before = threading.active_count()
    process = ReceivingProcess(settings)
    process.start()
    try:
        until(lambda: read_statuses(settings))
        assert ended == []
        door = process.receiver._door
        assert door is not None
        door._selector.close()
        door._ring()
        until(lambda: ended == [1])
        assert read_statuses(settings) == []
    finally:
        process.drain(1)
    until(lambda: threading.active_count() <= before)
