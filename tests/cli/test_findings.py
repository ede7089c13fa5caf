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
from vna.settings import Settings
from vna.site import load_site


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
