"""The indexer beside a server that receives as fast as four senders send: the backlog does not get away from it."""

import subprocess
import time
from pathlib import Path

from benchmarks.peers import LONGEST_SECONDS, QUICK, Missing, program
from benchmarks.studies import Size, files_of
from tests.chain.arranging import eventually
from tests.chain.receiving import Server
from tests.prove.proof import Impossible, Site

SENDERS = 4
SIZES = (
    Size("ct", studies=16, instances=100, bytes=512 * 1024),
    Size("small", studies=40, instances=150, bytes=10 * 1024),
)


def the_indexer_keeps_up(site: Site) -> str:
    """Raise if, once the senders have ended, placing the rest takes longer than the sending did.

    On two processors the senders, the server and the indexer share, so this is the hard case.
    """
    return "; ".join(_one(site.folder / size.name, size) for size in SIZES)


def _one(folder: Path, size: Size) -> str:
    files = files_of(size.write(folder / "source"))
    server = Server(folder / "home")
    with server.running():
        server.indexer()
        time.sleep(2)  # it has looked once
        began = time.monotonic()
        _send(server.port, files)
        received = time.monotonic() - began
        left = server.spool.waiting().files
        assert eventually(lambda: server.spool.waiting().files == 0, LONGEST_SECONDS), "not all was placed"
        placed = time.monotonic() - began
        assert len(server.stored()) == len(files)
    told = (
        f"{size.name}: received at {len(files) / received:.0f}/s while {(len(files) - left) / received:.0f}/s were "
        f"placed, {left} of {len(files)} waited at the end, all placed {placed - received:.1f} s later"
    )
    assert placed < 2 * received + 2, told
    return told


def _send(port: int, files: list[Path]) -> None:
    try:
        command = [program("storescu"), "-aec", "BACKUPDR", "-R", "127.0.0.1", str(port)]
    except Missing as missing:
        raise Impossible(f"{missing} is not installed") from missing
    senders = [
        subprocess.Popen([*command, *map(str, files[number::SENDERS])], env=QUICK, stdout=subprocess.DEVNULL)
        for number in range(SENDERS)
    ]
    codes = [sender.wait(LONGEST_SECONDS) for sender in senders]
    assert codes == [0] * SENDERS, codes
