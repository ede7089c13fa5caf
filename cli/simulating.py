"""What `backupdr simulate-pacs` does: a PACS for rehearsals, until told to stop."""

from collections.abc import Sequence
from pathlib import Path

from cli.console import say
from cli.stopping import until_told
from vna.errors import SettingsError
from vna.settings import check_aet, load_settings


def simulate(
    data: Path | None,
    aet: str,
    port: int,
    faults: Sequence[str],
    destinations: Sequence[str],
    *,
    list_faults: bool,
) -> int:
    """Serve the folder until told to stop; with `list_faults` only say what can be asked for."""
    from vna.simulated_pacs import FAULTS, SimulatedPacs, parse_faults

    if list_faults:
        for fault in FAULTS.values():
            say(f"{fault.usage}: {fault.description}")
        return 0
    if data is None:
        raise SettingsError("A folder of DICOM files is needed (--data).")
    if not data.is_dir():
        raise SettingsError(f"{data} is not a folder (--data).")
    settings = load_settings()
    known = {settings.scp_aet: ("127.0.0.1", settings.scp_port), **dict(map(_destination, destinations))}
    wanted = parse_faults(faults)
    with until_told() as stop, SimulatedPacs(data, _aet(aet), port, wanted, known) as pacs:
        studies, instances = pacs.holdings()
        say(
            f"The simulated PACS {aet} listens on port {pacs.port}, over {data} with {studies} studies and "
            f"{instances} instances. Ctrl-C ends it."
        )
        while not stop.wait(0.5):
            pass
    return 0


def _aet(text: str) -> str:
    try:
        return check_aet(text)
    except ValueError as error:
        raise SettingsError(f"--aet {text}: {error}.") from error


def _destination(text: str) -> tuple[str, tuple[str, int]]:
    aet, sign, address = text.partition("=")
    host, colon, port = address.rpartition(":")
    if not (sign and colon and host and port.isdecimal()):
        raise SettingsError(f"--destination {text}: write it as AET=HOST:PORT.")
    return _aet(aet), (host, int(port))
