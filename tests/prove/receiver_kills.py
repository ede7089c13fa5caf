"""The DICOM server and its indexer, killed again and again while two modalities send."""

import random

from tests.chain.receiving import Endurance, boundaries
from tests.prove.proof import Site


def receiver_survives(site: Site, kills: int, chance: random.Random) -> str:
    """Half at boundaries of the contract, half at any moment, both by chance."""
    endurance = Endurance(site.folder / "home")
    endurance.begin()
    try:
        for _ in range(kills):
            if chance.random() < 0.5:
                boundary = chance.choice(boundaries())
                endurance.kill_at(boundary, chance.randrange(1, 4 if boundary.startswith("place.") else 40))
            else:
                victim = chance.choice(("server", "indexer"))
                endurance.kill_after(chance.randrange(1, 60), chance.uniform(0, 0.4), victim)
        images = endurance.end()
    finally:
        endurance.close()
    return (
        f"{kills} kills while {images} images came: 0 acknowledged lost, 0 false ones told, nothing left over"
    )
