"""Peak memory of our server and of the flow for a small and a huge instance."""

import contextlib
from pathlib import Path

from tests.chain.arranging import Place, indexer_of, peak_memory
from vna.simulated_pacs import write_studies

MIB = 2**20


def peaks(
    folder: Path, api_url: str, by: str, sizes: tuple[int, ...], *, same_processes: bool = False
) -> list[dict[str, int]]:
    """For each size in bytes: process → the most memory it had, one instance of that size backed up by C-MOVE or C-GET.

    `same_processes`: they live on from size to size, so what the first needed for its start counts for all.
    """
    found: list[dict[str, int]] = []
    place = Place(folder / "home", api_url)
    with contextlib.ExitStack() as leaving:
        for number, size in enumerate(sizes):
            if number == 0 or not same_processes:
                leaving.close()
                scp = leaving.enter_context(place.scp())
                flow = leaving.enter_context(place.flow())
            source = folder / f"source-{number}"
            name = f"size-{number}"
            write_studies(source, 1, instances=1, seed=900 + number, size_bytes=size, modalities=["CT"])
            place.unit(name)
            with place.pacs(source) as pacs:
                place.know(name, pacs.port, by=by)
                outcome = flow.retrieve(name, unit=name)
            assert outcome["state"] == "completed", outcome
            assert outcome["bytes"] >= size * 0.95
            processes = {"server": scp.pid, "flow": flow.process.pid, "indexer": indexer_of(scp) or 0}
            found.append({name: peak_memory(pid) for name, pid in processes.items()})
            for path in source.rglob("*.dcm"):
                path.unlink()
    return found


def growth(found: list[dict[str, int]]) -> dict[str, float]:
    """How much more each process had for the last size than for the first, in MiB."""
    return {name: (found[-1][name] - found[0][name]) / MIB for name in found[0]}
