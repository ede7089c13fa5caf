"""Sending what is kept, as a C-MOVE of others or forwarding does: ours beside DCMTK's storescu and pynetdicom."""

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pydicom
from pynetdicom import AE, _config

from benchmarks.measuring import Comparison, Work, by_turns
from benchmarks.peers import free_port, program, run, serving
from benchmarks.studies import CT, SMALL, Size, files_of
from vna.dimse.index import HeldFile, HeldInstance
from vna.dimse.node import OurNode
from vna.dimse.sending import sending
from vna.part10 import header_length
from vna.site import RemoteServer

LARGE = Size("large", studies=1, instances=1, bytes=256 * 2**20)
REFERENCE = "storescu"
COMPARED = (
    "{amount} instances of {size} sent over one association to DCMTK's storescp --ignore, which keeps nothing, so that "
    "no disk is measured. Ours takes the digest of each file before it sends it; the others send what they read. Ours "
    "and pynetdicom are running already, storescu starts."
)
_PDU = 131072


def compare(rounds: int) -> Iterator[Comparison]:
    """One comparison for each size."""
    with tempfile.TemporaryDirectory(prefix="bench-sending-") as text:
        folder = Path(text)
        for size in (CT, SMALL, LARGE):
            files = files_of(size.write(folder / size.name))
            held = [_held(path) for path in files]
            with _storescp(folder / f"{size.name}.log") as port:
                ways: dict[str, Work] = {
                    REFERENCE: lambda port=port, files=files: _storescu(port, files),
                    "ours": lambda port=port, held=held: _ours(port, held),
                }
                if size is CT:  # it waits 40 ms for each small one, and holds a large one in memory
                    ways["pynetdicom"] = lambda port=port, files=files: _library(port, files)
                seconds = by_turns(ways, rounds)
            yield Comparison(
                f"send {size.name}",
                COMPARED.format(amount=size.amount, size=size.text),
                size.amount,
                "instances",
                seconds,
                REFERENCE,
            )


@contextmanager
def _storescp(log: Path) -> Iterator[int]:
    port = free_port()
    command = [program("storescp"), "--fork", "--bit-preserving", "--ignore", "-pdu", str(_PDU)]
    with serving([*command, "-aet", "PEER", str(port)], port, log):
        yield port


def _held(path: Path) -> HeldInstance:
    """What the catalog knows of a stored file."""
    with path.open("rb") as file:
        start = file.read(4096)
        file.seek(header_length(start))
        dataset = hashlib.file_digest(file, "sha256").hexdigest()
    header = start[: header_length(start)]
    facts = pydicom.dcmread(path, stop_before_pixels=True)
    copy = HeldFile(path, path.stat().st_size, len(header), hashlib.sha256(header).hexdigest(), dataset)
    return HeldInstance(
        str(facts.StudyInstanceUID),
        str(facts.SeriesInstanceUID),
        str(facts.SOPInstanceUID),
        str(facts.SOPClassUID),
        str(facts.file_meta.TransferSyntaxUID),
        (copy,),
    )


def _ours(port: int, held: Sequence[HeldInstance]) -> None:
    remote = RemoteServer(name="storescp", aet="PEER", host="127.0.0.1", port=port)
    with sending(remote, OurNode("BENCH")) as destination:
        for _, outcome in destination.store_each(held):
            if outcome.status != 0:
                raise RuntimeError(outcome.sentence or f"status {outcome.status}")


def _storescu(port: int, files: Sequence[Path]) -> None:
    options = ["-aec", "PEER", "-R", "--max-send-pdu", str(_PDU)]
    run("storescu", *options, "127.0.0.1", str(port), *map(str, files))


def _library(port: int, files: Sequence[Path]) -> None:
    """An empty status now and then is the library's; then the rest goes over another association."""
    _config.STORE_SEND_CHUNKED_DATASET = True
    entity = AE("BENCH")
    facts = pydicom.dcmread(files[0], stop_before_pixels=True)
    entity.add_requested_context(facts.SOPClassUID, facts.file_meta.TransferSyntaxUID)
    left = list(files)
    for _ in range(5):
        association = entity.associate("127.0.0.1", port, ae_title="PEER", max_pdu=_PDU)
        while left and association.send_c_store(left[0]).get("Status") == 0:
            left.pop(0)
        association.release()
        if not left:
            return
    raise RuntimeError("pynetdicom was not told success")
