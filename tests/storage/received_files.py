"""Files as the spool holds them: header and data set in Part 10 form, named by the digest of the data set."""

import hashlib
import io
from pathlib import Path

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from vna.identity import InstanceIdentity, safe_name
from vna.storage import NewFile

STUDY = "1.2.826.0.1.3680043.10.1"


def content(
    *,
    study: str = STUDY,
    series: str = f"{STUDY}.1",
    sop: str = f"{STUDY}.1.1",
    transfer_syntax: str = ExplicitVRLittleEndian,
    calling_aet: str = "SENDER",
    pixels: bytes = b"\x01\x02" * 32,
    command_sop: str | None = None,
    **attributes: object,
) -> tuple[bytes, str]:
    """The bytes of a file and the SHA-256 of its data set."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(CTImageStorage)
    meta.MediaStorageSOPInstanceUID = UID(command_sop or sop)
    meta.TransferSyntaxUID = UID(transfer_syntax)
    meta.SourceApplicationEntityTitle = calling_aet
    dataset = Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID = CTImageStorage
    for keyword, value in {
        "SOPInstanceUID": sop,
        "StudyInstanceUID": study,
        "SeriesInstanceUID": series,
        "PatientID": "P1",
        "PatientName": "Invented^Person",
        "StudyDate": "20240131",
        "Modality": "CT",
        **attributes,
    }.items():
        if value is not None:
            setattr(dataset, keyword, value)
    if pixels:
        dataset.BitsAllocated = 16
        dataset.add_new(0x7FE00010, "OW", pixels)
    file = io.BytesIO()
    dcmwrite(file, dataset, enforce_file_format=True)
    data = file.getvalue()
    start = 144 + int.from_bytes(data[140:144], "little")
    return data, hashlib.sha256(data[start:]).hexdigest()


def write_received(folder: Path, **of: object) -> Path:
    """Write one file under the name the spool would give it."""
    data, digest = content(**of)  # type: ignore[arg-type]
    sop = str(of.get("command_sop") or of.get("sop") or f"{STUDY}.1.1")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{safe_name(sop)}.{digest}.dcm"
    path.write_bytes(data)
    return path


def new_file(folder: Path, **of: object) -> NewFile:
    """A received file as the indexer hands it to a storage unit."""
    path = write_received(folder, **of)
    identity = InstanceIdentity(
        study_instance_uid=str(of.get("study", STUDY)),
        series_instance_uid=str(of.get("series", f"{STUDY}.1")),
        sop_instance_uid=str(of.get("sop", f"{STUDY}.1.1")),
        sop_class_uid=CTImageStorage,
        transfer_syntax_uid=str(of.get("transfer_syntax", ExplicitVRLittleEndian)),
        attributes={"PatientID": "P1"},
    )
    return NewFile(path, identity, path.name.split(".")[-2], path.stat().st_size)
