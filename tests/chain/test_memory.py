"""Memory does not grow with the size of an object (`make prove` does the same with 1 GB)."""

import sys
from pathlib import Path

import pytest

from tests.chain.measuring import MIB, growth, peaks

pytestmark = [
    pytest.mark.prefect,
    pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc"),
]


@pytest.mark.parametrize("by", ["move", "get"])
def test_a_huge_instance_needs_no_more_memory_than_a_small_one(
    prefect_api: str, tmp_path: Path, by: str
) -> None:
    found = peaks(tmp_path, prefect_api, by, (MIB // 2, 160 * MIB), same_processes=True)
    grown = growth(found)
    assert all(mib < 30 for mib in grown.values()), grown
