"""Memory of the server and the flow, flat between 0.5 MB and 1 GB."""

from tests.chain.measuring import MIB, growth, peaks
from tests.prove.proof import Site

ALLOWED_MIB = 30.0


def memory_is_flat(site: Site, by: str) -> str:
    """Raise if any process needs over 30 MiB more (or less) for 1 GB than for 0.5 MB."""
    found = peaks(site.folder, site.api_url, by, (500_000, 1_000_000_000))
    grown = growth(found)
    told = ", ".join(f"{name} {found[-1][name] / MIB:.0f} MiB ({grown[name]:+.1f})" for name in grown)
    assert all(abs(grown[name]) <= ALLOWED_MIB for name in grown), told
    return f"peak memory with 1 GB by C-{by.upper()}, and against 0.5 MB: {told}"
