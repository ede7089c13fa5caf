"""kill -9 of the DICOM server and its indexer while two modalities send: nothing acknowledged is lost, nothing false is
in the catalog, and it cleans up after itself. One home is killed again and again; `make prove` does it 200 times.
"""

import os
import random
import sys
from collections.abc import Iterator

import pytest

from tests.chain.receiving import Endurance, boundaries

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kill -9, and /proc to find whom")

SEED = int(os.environ.get("BACKUPDR_TEST_SEED") or random.SystemRandom().randrange(10**6))
_CHANCE = random.Random(SEED)
MOMENTS = [
    (_CHANCE.randrange(1, 40), round(_CHANCE.uniform(0, 0.3), 3), _CHANCE.choice(("server", "indexer")))
    for _ in range(5)
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endurance]:
    endurance = Endurance(tmp_path_factory.mktemp("kills") / "home")
    endurance.begin()
    yield endurance
    endurance.close()


@pytest.mark.parametrize("boundary", boundaries())
def test_killed_at_a_boundary_of_the_contract_all_that_was_acknowledged_is_there(
    site: Endurance, boundary: str
) -> None:
    site.kill_at(boundary, nth=3)


@pytest.mark.parametrize(("images", "seconds", "victim"), MOMENTS)
def test_killed_at_a_random_moment_all_that_was_acknowledged_is_there(
    site: Endurance, images: int, seconds: float, victim: str
) -> None:
    print(f"seed {SEED} (BACKUPDR_TEST_SEED={SEED} for the same again)")
    site.kill_after(images, seconds, victim)


def test_after_all_kills_everything_is_placed_once_and_nothing_is_left_over(site: Endurance) -> None:
    assert site.end() > 50
    assert site.kills >= len(MOMENTS)
