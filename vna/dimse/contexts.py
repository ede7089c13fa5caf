"""Which presentation contexts a C-GET proposes: the classes a study has, one context a transfer syntax.

A source that stores compressed and will not transcode sends only where the stored syntax was accepted for
the class, and a context has one accepted syntax: so each syntax gets a context of its own (field note 16).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydicom.uid import (
    HEVCM10P51,
    HEVCMP51,
    HTJ2K,
    JPEG2000,
    MPEG2MPHL,
    MPEG2MPML,
    MPEG4HP41,
    MPEG4HP41BD,
    MPEG4HP42STEREO,
    MPEG4HP422D,
    MPEG4HP423D,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import (
    AllStoragePresentationContexts,
    PresentationContext,
    build_context,
    build_role,
)

from vna.identity import FoundInstance, is_valid_uid

STUDY_ROOT_GET = UID("1.2.840.10008.5.1.4.1.2.2.3")

MOST_STORAGE_CONTEXTS = 127
"""An association has at most 128 presentation contexts (PS3.8 9.3.2.2), and one is for C-GET itself."""

UNCOMPRESSED = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
)
STILL = (
    JPEGLosslessSV1,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    JPEGBaseline8Bit,
    JPEG2000,
    JPEGLossless,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    HTJ2K,
)
VIDEO = (
    MPEG2MPML,
    MPEG2MPHL,
    MPEG4HP41,
    MPEG4HP41BD,
    MPEG4HP422D,
    MPEG4HP423D,
    MPEG4HP42STEREO,
    HEVCMP51,
    HEVCM10P51,
)

_PIXELS = ("Image", "Segmentation", "Dose", "Parametric Map", "Photography", "Raw Data", "Volume")
_MOVING = (
    "Video",
    "Multi-frame",
    "Ultrasound",
    "Endoscop",
    "Microscop",
    "Photograph",
    "X-Ray Angio",
    "X-Ray Radiofl",
)
_COMMON_FIRST = (
    "CT Image",
    "MR Image",
    "Computed Radiography",
    "Digital X-Ray Image Storage - For Presentation",
    "Ultrasound",
    "Secondary Capture Image Storage",
    "Basic Text SR",
    "Grayscale Softcopy",
    "Key Object",
    "Positron Emission",
    "Nuclear Medicine Image Storage",
    "Enhanced CT",
    "Enhanced MR Image",
    "Digital Mammography X-Ray Image Storage - For Presentation",
    "X-Ray",
    "RT ",
)


@dataclass(frozen=True, slots=True)
class ContextGroup:
    """What one association proposes for C-GET: `contexts` with C-GET first, `roles` that make us the storage SCP
    (PS3.7 D.3.3.4), and the SOP classes they stand for.
    """

    contexts: tuple[PresentationContext, ...]
    roles: tuple[SCP_SCU_RoleSelectionNegotiation, ...]
    sop_classes: tuple[str, ...]


def retrieve_groups(
    instances: Sequence[FoundInstance],
    whole: Sequence[FoundInstance],
    study_attributes: Mapping[str, str],
) -> list[ContextGroup]:
    """The associations a C-GET needs, the likeliest first; each has at most 128 contexts.

    The classes come from the instances wanted (else from the whole study), else from SOPClassesInStudy, else all
    of the standard's storage classes are proposed.
    """
    listed = instances or whole
    classes = {i.sop_class_uid: None for i in listed if i.sop_class_uid and is_valid_uid(i.sop_class_uid)}
    complete = bool(listed) and all(i.sop_class_uid for i in listed)
    if not complete:
        in_study = study_attributes.get("SOPClassesInStudy", "").split("\\")
        told = {uid.strip(): None for uid in in_study if is_valid_uid(uid.strip())}
        classes |= told or dict.fromkeys(_standard_classes())
    stored = [i.transfer_syntax_uid for i in listed if i.transfer_syntax_uid]
    return _grouped({uid: _syntaxes(uid, stored) for uid in classes})


def compressed_groups(accepted: Mapping[str, Sequence[str]]) -> list[ContextGroup]:
    """The same once more without the uncompressed syntaxes; `accepted` = SOP class to the syntaxes agreed before.

    dcmqrscp sends on the first context of a class, whatever the file is in, and fails where it cannot convert.
    """
    compressed = {
        sop_class: [uid for uid in syntaxes if uid not in UNCOMPRESSED]
        for sop_class, syntaxes in accepted.items()
    }
    return _grouped({uid: some for uid, some in compressed.items() if 0 < len(some) < len(accepted[uid])})


def _standard_classes() -> list[str]:
    def rank(uid: UID) -> int:
        return next(
            (n for n, start in enumerate(_COMMON_FIRST) if uid.name.startswith(start)), len(_COMMON_FIRST)
        )

    classes = [UID(str(context.abstract_syntax)) for context in AllStoragePresentationContexts]
    return [str(uid) for uid in sorted(classes, key=rank)]


def _syntaxes(sop_class_uid: str, stored: Iterable[str]) -> list[str]:
    """The syntaxes to propose for a class, those the source says it stores first; all for classes we do not know."""
    name = UID(sop_class_uid).name
    known = name != sop_class_uid
    proposed: list[str] = [uid for uid in stored if is_valid_uid(uid)]
    proposed += UNCOMPRESSED
    if not known or any(word in name for word in _PIXELS):
        proposed += STILL
    if not known or any(word in name for word in _MOVING):
        proposed += VIDEO
    return list(dict.fromkeys(str(uid) for uid in proposed))


def _grouped(syntaxes: Mapping[str, list[str]]) -> list[ContextGroup]:
    """As few associations as hold the classes; the contexts of one class stay together."""
    groups: list[list[tuple[str, str]]] = [[]]
    for sop_class, wanted in syntaxes.items():
        pairs = [(sop_class, syntax) for syntax in wanted[:MOST_STORAGE_CONTEXTS]]
        if len(groups[-1]) + len(pairs) > MOST_STORAGE_CONTEXTS:
            groups.append([])
        groups[-1].extend(pairs)
    return [_group(pairs) for pairs in groups if pairs]


def _group(pairs: Sequence[tuple[str, str]]) -> ContextGroup:
    retrieve = build_context(STUDY_ROOT_GET, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    classes = tuple(dict.fromkeys(sop_class for sop_class, _ in pairs))
    return ContextGroup(
        contexts=(retrieve, *(build_context(sop_class, syntax) for sop_class, syntax in pairs)),
        roles=tuple(build_role(sop_class, scp_role=True) for sop_class in classes),
        sop_classes=classes,
    )
