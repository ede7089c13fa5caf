"""A department's queue comes at once while database and storage are away (field note 38); `make prove` sends 50,000."""

import sys
from pathlib import Path

import pytest

from tests.chain.burst import burst

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")


def test_a_burst_while_database_and_storage_are_away_is_a_backlog_and_drains(tmp_path: Path) -> None:
    told = burst(tmp_path / "home", 3000)
    print(told)
    assert told.images == 3000
