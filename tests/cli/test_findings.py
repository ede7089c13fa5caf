"""What `backupdr check` says of a spool."""

import datetime
import errno
import os
import time
from pathlib import Path

import pytest
from ulid import ULID

from cli.findings import Finding, look
from tests.indexing.arranging import receive, settings_of, spool_of, study
from vna.platform import free_bytes
from vna.settings import Settings
from vna.site import load_site
from vna.spool import CommitmentRequest, Commitments


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_of(tmp_path, scp_bind="127.0.0.1")


def told(settings: Settings, word: str) -> list[Finding]:
    return [finding for finding in look(settings, load_site(settings)) if word in finding.sentence]


def test_how_much_waits_in_the_spool_and_since_when_is_told(settings: Settings) -> None:
    assert not told(settings, "received file")
    receive(settings, *study(1, 3))
    (finding,) = told(settings, "received file")
    assert not finding.wrong, "it is on its way"
    assert "3 received files wait" in finding.sentence
    yesterday = datetime.datetime.now().astimezone() - datetime.timedelta(days=1)
    (folder,) = spool_of(settings).folders()
    folder.rename(folder.with_name(str(ULID.from_datetime(yesterday))))
    receive(settings, *study(2, 1))
    (finding,) = told(settings, "received file")
    assert finding.wrong
    assert "4 received files wait" in finding.sentence
    assert f"{yesterday:%Y-%m-%d %H:%M}" in finding.sentence


def test_a_folder_of_the_spool_that_cannot_be_read_is_wrong(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    receive(settings, *study(1, 1))
    time.sleep(0.002)
    receive(settings, *study(2, 1))
    bad = next(spool_of(settings).folders())
    listdir = os.listdir

    def refuse(path: Path) -> list[str]:
        if Path(path) == bad:
            raise OSError(errno.EIO, "Input/output error")
        return listdir(path)

    monkeypatch.setattr(os, "listdir", refuse)
    (finding,) = told(settings, bad.name)
    assert finding.wrong
    assert "Input/output error" in finding.sentence
    assert told(settings, "1 received file waits")


def test_too_little_room_says_what_is_missing_and_what_follows(settings: Settings) -> None:
    site = load_site(settings)

    def told(reserve: int) -> list[Finding]:
        changed = settings.model_copy(update={"reserve_bytes": reserve})
        return [finding for finding in look(changed, site) if "GiB" in finding.sentence]

    assert all(not finding.wrong for finding in told(0))
    spool, unit = told(2**60)
    assert (spool.wrong, unit.wrong) == (True, True)
    must = f"{2**60 / 2**30:.2f} GiB must stay free"
    assert must in unit.sentence
    assert must in spool.sentence
    assert "the DICOM server refuses everything that is sent to it" in spool.sentence
    free, _ = free_bytes(settings.spool_path)
    spool, unit = told(free * 3 // 4)
    assert (spool.wrong, unit.wrong) == (True, False)
    assert "no pull begins below" in spool.sentence
    assert "twice the reserve of" in spool.sentence
    assert "still taken" in spool.sentence


def test_who_asked_for_storage_commitment_and_was_not_told_is_counted(settings: Settings) -> None:
    assert not told(settings, "storage commitment")
    commitments = Commitments(spool_of(settings))
    for transaction in ("1.2.1", "1.2.2"):
        request = CommitmentRequest(transaction, "CT_1", "BACKUPDR", time.time(), (("1.2", "1.3"),))
        taken = commitments.add(request)
        assert taken is not None
        taken.release()
    (finding,) = told(settings, "storage commitment")
    assert (finding.wrong, finding.sentence) == (False, "2 requests for storage commitment not reported yet.")
    again = commitments.take(taken.key)
    assert again is not None
    with again:
        again.give_up()
    waiting, given_up = told(settings, "storage commitment")
    assert waiting.sentence == "1 request for storage commitment not reported yet."
    assert given_up.wrong
    assert "1 request for storage commitment given up" in given_up.sentence
    assert str(commitments.given_up_path) in given_up.sentence
