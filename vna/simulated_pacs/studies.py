"""Generated studies, for rehearsals, the demo and tests: invented people, several modalities, character sets
and transfer syntaxes, the same for the same seed.

They are written as bytes, not through a data set each, so that thousands take seconds. Pixels are noise.
"""
# pyright: reportUnknownMemberType=false

import datetime
import hashlib
import math
import random
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydicom.charset import convert_encodings
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.valuerep import PersonName

from vna.simulated_pacs.changing import changed_copy
from vna.simulated_pacs.elements import (
    DEFLATED,
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    Encoding,
    element_header,
    file_header,
    write_elements,
)

RLE = "1.2.840.10008.1.2.5"
TRANSFER_SYNTAXES = (EXPLICIT_LITTLE, IMPLICIT_LITTLE, RLE, EXPLICIT_BIG, DEFLATED)
"""What `write_studies` can write; studies take them in turn."""

_SOP_CLASSES: Mapping[str, str] = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "CR": "1.2.840.10008.5.1.4.1.1.1",
    "DX": "1.2.840.10008.5.1.4.1.1.1.1",
    "MG": "1.2.840.10008.5.1.4.1.1.1.2",
    "NM": "1.2.840.10008.5.1.4.1.1.20",
    "US": "1.2.840.10008.5.1.4.1.1.6.1",
    "PT": "1.2.840.10008.5.1.4.1.1.128",
    "OT": "1.2.840.10008.5.1.4.1.1.7",
    "SR": "1.2.840.10008.5.1.4.1.1.88.11",
}
MODALITIES = ("CT", "MR", "CR", "US", "PT", "SR")
"""What studies are of unless said; any of the table above can be asked for."""

_MULTI_FRAME = "1.2.840.10008.5.1.4.1.1.7.3"  # Multi-frame Grayscale Word Secondary Capture
_LARGEST_FRAME = 512
_LARGEST_PIXELS = 0xFFFFFFFE  # a value's length has 32 bits

_PEOPLE = (  # the last two are the standard's own examples (PS3.5 annexes H and J)
    ("", "Exempel^Ada"),
    ("ISO_IR 100", "Mustermann-Höß^Jörg"),
    ("ISO_IR 192", "Przykład^Łucja"),
    ("ISO_IR 144", "Примеров^Пётр"),
    ("ISO_IR 126", "Παράδειγμα^Ελένη"),
    ("", "O'Sample^Finn^^Dr"),
    ("\\ISO 2022 IR 87", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    ("GB18030", "Wang^XiaoDong=王^小东"),
)
_INSTITUTIONS = ("Sankt Beispiel", "Specimen General", "Clinique Modele")
_PHYSICIANS = ("Doctor^Invented", "Physician^Sample", "Medic^Imaginary")
_PARTS = ("HEAD", "CHEST", "ABDOMEN", "KNEE", "SPINE")


@dataclass(frozen=True, slots=True)
class GeneratedInstance:
    """One file; `dataset_sha256` is of its data set's bytes, without header."""

    sop_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    dataset_sha256: str
    path: Path


@dataclass(frozen=True, slots=True)
class GeneratedStudy:
    """What a study was made with; `study_date` is empty for one without."""

    study_instance_uid: str
    patient_id: str
    patient_name: str
    study_date: str
    study_time: str
    accession_number: str
    modalities: tuple[str, ...]
    instances: tuple[GeneratedInstance, ...]


@dataclass(frozen=True, slots=True)
class _Image:
    rows: int
    columns: int
    frames: int


def write_studies(
    folder: Path,
    count: int,
    *,
    instances: int = 2,
    series: int = 1,
    seed: int = 1,
    size_bytes: int = 2048,
    dates: Sequence[str] | None = None,
    times: Sequence[str] | None = None,
    modalities: Sequence[str] = MODALITIES,
    transfer_syntaxes: Sequence[str] = TRANSFER_SYNTAXES,
) -> list[GeneratedStudy]:
    """Write `count` studies of `series` series of `instances` instances each into `folder` (made if absent).

    `size_bytes` is about the size of the pixel data of each instance, at most 4 GiB; above 512 KiB they are
    multi-frame objects, written frame by frame. `dates` and `times` (DA and TM, "" for none) are taken in turn;
    without, they are spread over seven years. The same arguments give the same bytes.
    """
    if not 0 < size_bytes <= _LARGEST_PIXELS:
        raise ValueError("size_bytes must be between 1 and 4 GiB")
    # invented studies: repeatable, nothing to be kept secret
    chance = random.Random(seed)  # noqa: S311
    writer = _Writer(chance, size_bytes)
    folder.mkdir(parents=True, exist_ok=True)
    return [
        writer.study(
            folder / f"study-{seed}-{number:05d}",
            _facts(number, seed, chance, dates, times),
            [modalities[(number + index) % len(modalities)] for index in range(series)],
            instances,
            transfer_syntaxes[number % len(transfer_syntaxes)],
        )
        for number in range(count)
    ]


def add_instances(study: GeneratedStudy, count: int = 1) -> GeneratedStudy:
    """Let a study grow by `count` instances beside its last one; returns the grown study."""
    grown = list(study.instances)
    for _ in range(count):
        last = grown[-1]
        uid = _uid(study.study_instance_uid, "grown", len(grown))
        path = last.path.with_name(f"grown-{len(grown):05d}.dcm")
        changed_copy(last.path, path, {"SOPInstanceUID": uid, "InstanceNumber": str(len(grown) + 1)})
        grown.append(replace(last, sop_instance_uid=uid, path=path, dataset_sha256=dataset_sha256(path)))
    return replace(study, instances=tuple(grown))


def change_instance(instance: GeneratedInstance, **changes: str) -> GeneratedInstance:
    """Give an instance other attribute values under the same UIDs, as a correction at the PACS does."""
    changed_copy(instance.path, instance.path.with_suffix(".changed"), changes)
    instance.path.with_suffix(".changed").replace(instance.path)
    return replace(instance, dataset_sha256=dataset_sha256(instance.path))


def dataset_sha256(path: Path) -> str:
    """The digest of a file's data set, without preamble and File Meta Information."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        start = file.read(144)
        if start[128:140] != b"DICM\2\0\0\0UL\4\0":
            raise ValueError(f"{path} has no File Meta Information with a group length")
        file.seek(144 + struct.unpack("<I", start[140:144])[0])
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _facts(
    number: int,
    seed: int,
    chance: random.Random,
    dates: Sequence[str] | None,
    times: Sequence[str] | None,
) -> dict[str, str]:
    """The attributes of one study; every third patient has two."""
    patient = number * 2 // 3
    charset, name = _PEOPLE[patient % len(_PEOPLE)]
    day = datetime.date(2019, 1, 1) + datetime.timedelta(days=chance.randrange(7 * 365))
    second = chance.randrange(86400)
    time = f"{second // 3600:02d}{second // 60 % 60:02d}{second % 60:02d}" + ("", ".5", ".25")[number % 3]
    return {
        "SpecificCharacterSet": charset,
        "StudyDate": dates[number % len(dates)] if dates else f"{day:%Y%m%d}",
        "StudyTime": times[number % len(times)] if times else time,
        "AccessionNumber": f"A{seed}-{number:06d}",
        "InstitutionName": _INSTITUTIONS[patient % len(_INSTITUTIONS)],
        "ReferringPhysicianName": _PHYSICIANS[number % len(_PHYSICIANS)],
        "StudyDescription": f"Invented {_PARTS[number % len(_PARTS)].lower()}",
        "BodyPartExamined": _PARTS[number % len(_PARTS)],
        "PatientName": name,
        "PatientID": f"INVENTED-{seed}-{patient:05d}",
        "PatientBirthDate": f"{1930 + patient % 80}{patient % 12 + 1:02d}{patient % 28 + 1:02d}",
        "PatientSex": "FMO"[patient % 3],
        "StudyInstanceUID": _uid(seed, number),
        "StudyID": f"{number:05d}",
    }


class _Writer:
    """Writes the files of one `write_studies` call; the noise of a frame is made once and shifted."""

    def __init__(self, chance: random.Random, size_bytes: int) -> None:
        frame = min(math.isqrt(max(size_bytes // 2, 1)) or 1, _LARGEST_FRAME)
        self._image = _Image(frame, frame, max(1, size_bytes // (frame * frame * 2)))
        self._noise = chance.randbytes(frame * frame * 2 + 2048)
        self._rle = _rle_frame(self._noise[: frame * frame * 2])
        self._written = 0

    def study(
        self,
        folder: Path,
        facts: dict[str, str],
        modalities: Sequence[str],
        instances: int,
        transfer_syntax_uid: str,
    ) -> GeneratedStudy:
        folder.mkdir(parents=True, exist_ok=True)
        written: list[GeneratedInstance] = []
        for series, modality in enumerate(modalities, 1):
            series_facts = {
                **facts,
                "Modality": modality,
                "SeriesInstanceUID": _uid(facts["StudyInstanceUID"], series),
                "SeriesNumber": str(series),
                "SeriesDescription": f"Invented {modality}",
            }
            for _ in range(instances):
                number = len(written) + 1
                path = folder / f"{series:03d}-{number:05d}.dcm"
                written.append(self._instance(path, series_facts, number, transfer_syntax_uid))
        return GeneratedStudy(
            facts["StudyInstanceUID"],
            facts["PatientID"],
            facts["PatientName"],
            facts["StudyDate"],
            facts["StudyTime"],
            facts["AccessionNumber"],
            tuple(modalities),
            tuple(written),
        )

    def _instance(
        self, path: Path, facts: dict[str, str], number: int, transfer_syntax_uid: str
    ) -> GeneratedInstance:
        has_pixels = facts["Modality"] != "SR"
        if transfer_syntax_uid == RLE and not has_pixels:
            transfer_syntax_uid = EXPLICIT_LITTLE
        sop_class_uid = _SOP_CLASSES[facts["Modality"]]
        if has_pixels and self._image.frames > 1:
            sop_class_uid = _MULTI_FRAME
        uid = _uid(facts["StudyInstanceUID"], facts["SeriesInstanceUID"], number)
        encoding = Encoding.of(transfer_syntax_uid)
        texts = {**facts, "SOPClassUID": sop_class_uid, "SOPInstanceUID": uid, "InstanceNumber": str(number)}
        digest = hashlib.sha256()
        with path.open("wb") as file:
            file.write(_meta(sop_class_uid, uid, transfer_syntax_uid))
            for chunk in _deflated(
                self._dataset(texts, encoding, transfer_syntax_uid, has_pixels), transfer_syntax_uid
            ):
                digest.update(chunk)
                file.write(chunk)
        return GeneratedInstance(
            uid, facts["SeriesInstanceUID"], sop_class_uid, transfer_syntax_uid, digest.hexdigest(), path
        )

    def _dataset(
        self, texts: dict[str, str], encoding: Encoding, transfer_syntax_uid: str, has_pixels: bool
    ) -> Iterator[bytes]:
        if not has_pixels:
            texts = {**texts, "CompletionFlag": "COMPLETE", "VerificationFlag": "UNVERIFIED"}
            yield write_elements(sorted(_text_elements(texts)), encoding)
            return
        image = self._image
        numbers = {
            "SamplesPerPixel": 1,
            "Rows": image.rows,
            "Columns": image.columns,
            "BitsAllocated": 16,
            "BitsStored": 16,
            "HighBit": 15,
            "PixelRepresentation": 0,
        }
        texts = {**texts, "PhotometricInterpretation": "MONOCHROME2"}
        if image.frames > 1:
            texts["NumberOfFrames"] = str(image.frames)
        elements = [*_text_elements(texts), *_number_elements(numbers, encoding)]
        yield write_elements(sorted(elements), encoding)
        yield from self._pixel_data(encoding, compressed=transfer_syntax_uid == RLE)

    def _pixel_data(self, encoding: Encoding, *, compressed: bool) -> Iterator[bytes]:
        frame_size = self._image.rows * self._image.columns * 2
        if compressed:  # PS3.5 A.4: an empty offset table, one fragment a frame
            yield element_header(0x7FE00010, "OB", 0xFFFFFFFF, encoding) + b"\xfe\xff\x00\xe0\0\0\0\0"
            for _ in range(self._image.frames):
                yield b"\xfe\xff\x00\xe0" + struct.pack("<I", len(self._rle)) + self._rle
            yield b"\xfe\xff\xdd\xe0\0\0\0\0"
            return
        yield element_header(0x7FE00010, "OW", frame_size * self._image.frames, encoding)
        for _ in range(self._image.frames):
            self._written += 2
            start = self._written % 2048
            yield self._noise[start : start + frame_size]


def _uid(*parts: object) -> str:
    """A UID under 2.25 (PS3.5 B.2), the same for the same parts."""
    digest = hashlib.sha256("|".join(map(str, parts)).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def _meta(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    return file_header(
        {
            0x00020002: ("UI", sop_class_uid.encode()),
            0x00020003: ("UI", sop_instance_uid.encode()),
            0x00020010: ("UI", transfer_syntax_uid.encode()),
            0x00020012: ("UI", b"2.25.314159265358979323846"),
        }
    )


def _text_elements(texts: Mapping[str, str]) -> Iterator[tuple[int, str, bytes]]:
    encodings = convert_encodings(texts["SpecificCharacterSet"].split("\\"))
    for keyword, text in texts.items():
        if keyword == "SpecificCharacterSet" and not text:
            continue
        tag = tag_for_keyword(keyword)
        if tag is None:
            raise ValueError(f"{keyword} is no keyword")
        vr = dictionary_VR(tag)
        yield tag, vr, _name(text, encodings) if vr == "PN" else text.encode("ascii")


def _name(text: str, encodings: Sequence[str]) -> bytes:
    name = PersonName(text)
    return name.encode(encodings) if name else b""


def _number_elements(numbers: Mapping[str, int], encoding: Encoding) -> Iterator[tuple[int, str, bytes]]:
    for keyword, number in numbers.items():
        tag = tag_for_keyword(keyword)
        if tag is not None:
            yield tag, "US", struct.pack(encoding.order + "H", number)


def _deflated(chunks: Iterator[bytes], transfer_syntax_uid: str) -> Iterator[bytes]:
    if transfer_syntax_uid != DEFLATED:
        yield from chunks
        return
    compressor, size = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS), 0
    for chunk in chunks:
        packed = compressor.compress(chunk)
        size += len(packed)
        yield packed
    rest = compressor.flush()
    yield rest + b"\0" * ((size + len(rest)) % 2)


def _rle_frame(frame: bytes) -> bytes:
    """One 16-bit frame as RLE (PS3.5 annex G): a segment for the high and one for the low bytes, all literal."""
    segments = [
        b"".join(
            bytes((len(run) - 1,)) + run for at in range(0, len(half), 128) for run in (half[at : at + 128],)
        )
        for half in (frame[1::2], frame[0::2])
    ]
    padded = [segment + b"\0" * (len(segment) % 2) for segment in segments]
    offsets = [64, 64 + len(padded[0])]
    return struct.pack("<16I", 2, *offsets, *[0] * 13) + b"".join(padded)
