"""50,000 images while database and storage are away."""

from tests.chain.burst import burst
from tests.prove.proof import Site

IMAGES = 50_000


def a_burst_is_a_backlog(site: Site) -> str:
    """Acknowledged, kept in flat memory, shown as waiting, and placed once both are back."""
    return str(burst(site.folder / "home", IMAGES))
