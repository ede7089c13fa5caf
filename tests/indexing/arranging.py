"""A home with a spool that received something, ready to be indexed."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from tests.storage.received_files import STUDY, content
from vna.settings import Settings
from vna.spool import Spool


def settings_of(home: Path, **of: object) -> Settings:
    return Settings(home=home, reserve_bytes=0, **of)  # type: ignore[arg-type]


def spool_of(settings: Settings) -> Spool:
    return Spool(settings.spool_path, settings.reserve_bytes)


def receive(settings: Settings, *files: Mapping[str, object], calling_aet: str = "SENDER") -> str:
    """Receive files in one association as the DICOM server does; returns its ULID."""
    with spool_of(settings).open_association(
        calling_aet=calling_aet, called_aet="BACKUPDR", peer_address="127.0.0.1", listener="scp"
    ) as association:
        for of in files:
            data, _ = content(**of)  # type: ignore[arg-type]
            store(association, of, data[144 + int.from_bytes(data[140:144], "little") :])
        return association.record.ulid


def store(association, of: Mapping[str, object], dataset: bytes) -> None:
    sop = str(of.get("command_sop") or of.get("sop") or f"{STUDY}.1.1")
    syntax = str(of.get("transfer_syntax", ExplicitVRLittleEndian))
    writer = association.begin(CTImageStorage, sop, syntax, association.record.calling_aet)
    writer.write(dataset)
    writer.commit()


def study(number: int, instances: int) -> list[dict[str, object]]:
    """The instances of an invented study, to be received."""
    uid = f"1.2.826.0.1.3680043.10.{number}"
    return [
        {"study": uid, "series": f"{uid}.1", "sop": f"{uid}.1.{n}", "InstanceNumber": str(n)}
        for n in range(1, instances + 1)
    ]


def run_python(settings: Settings, code: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run code in a process of its own, with these settings as `settings`."""
    head = (
        "from vna.settings import Settings\nfrom pathlib import Path\n"
        f"settings = Settings(home=Path({str(settings.home)!r}), reserve_bytes=0,"
        f" catalog_url={settings.catalog_url!r})\n"
    )
    return subprocess.run(
        [sys.executable, "-c", head + code],
        env={**os.environ, **environment},
        capture_output=True,
        timeout=120,
        check=False,
    )
