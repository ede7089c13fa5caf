"""A day of a hospital in minutes, on a small disk that fills up twice."""

from tests.chain.day import Day
from tests.prove.disk import small_disk
from tests.prove.proof import Site

HOUR_SECONDS = 10.0
DISK = "900m"


def a_day_passes(site: Site, seed: int) -> str:
    """Mixed load, renewed certificates, changed settings, a full disk: nothing lost, no leak."""
    with small_disk(site.folder / "disk", DISK) as disk:
        return Day(site.folder, disk, HOUR_SECONDS, seed).live()
