"""Another implementation as the client of the simulated PACS: pynetdicom asks, fetches and is sent to."""

import contextlib
import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydicom.dataset import Dataset
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import (
    PatientRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from vna.simulated_pacs import GeneratedStudy, SimulatedPacs


@dataclass
class Retrieved:
    """What a retrieve ended with; `files` maps SOP Instance UID to the digest of what came."""

    statuses: list[int] = field(default_factory=list)
    counts: list[tuple[int | None, ...]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    arrivals: int = 0
    broke_off: bool = False

    @property
    def status(self) -> int | None:
        return self.statuses[-1] if self.statuses else None

    def keep(self, event: evt.Event) -> int:
        self.arrivals += 1
        digest = hashlib.sha256(event.request.DataSet.getvalue()).hexdigest()
        self.files[event.request.AffectedSOPInstanceUID] = digest
        return 0x0000


@dataclass
class Client:
    """pynetdicom against one simulated PACS."""

    pacs: SimulatedPacs
    syntaxes: tuple[tuple[str, str], ...] = ()

    @contextlib.contextmanager
    def association(self, *contexts: str, called: str = "", **options: object) -> Iterator[Association]:
        ae = AE("TESTER")
        ae.acse_timeout = ae.network_timeout = 10
        ae.dimse_timeout = options.pop("dimse_timeout", 10)
        wanted = [
            *map(build_context, contexts),
            *(build_context(*pair) for pair in options.pop("storage", ())),
        ]
        association = ae.associate(
            "127.0.0.1", self.pacs.port, wanted, ae_title=called or self.pacs.aet, **options
        )
        try:
            yield association
        finally:
            if association.is_established:
                association.release()

    def echo(self) -> int | None:
        with self.association(Verification) as association:
            return getattr(association.send_c_echo(), "Status", None)

    def ask(self, level: str, *, patient_root: bool = False, **keys: str) -> tuple[list[Dataset], Dataset]:
        """All answers, and the final response."""
        model = (
            PatientRootQueryRetrieveInformationModelFind
            if patient_root
            else StudyRootQueryRetrieveInformationModelFind
        )
        with self.association(model) as association:
            answers = list(association.send_c_find(identifier(level, **keys), model))
        return [found for status, found in answers if found is not None], answers[-1][0]

    def find(self, level: str, *, patient_root: bool = False, **keys: str) -> list[Dataset]:
        found, final = self.ask(level, patient_root=patient_root, **keys)
        assert final.Status == 0x0000
        return found

    def get(self, level: str = "STUDY", **keys: str) -> Retrieved:
        result = Retrieved()
        roles = [build_role(sop_class, scp_role=True) for sop_class, _ in self.syntaxes]
        with self.association(
            StudyRootQueryRetrieveInformationModelGet,
            storage=self.syntaxes,
            ext_neg=roles,
            evt_handlers=[(evt.EVT_C_STORE, result.keep)],
        ) as association:
            responses = association.send_c_get(
                identifier(level, **keys), StudyRootQueryRetrieveInformationModelGet
            )
            self._read(result, responses)
            result.broke_off = was_aborted(association, result)
        return result

    def move(self, destination: "Destination", level: str = "STUDY", **keys: str) -> Retrieved:
        result = destination.result = Retrieved()
        with self.association(StudyRootQueryRetrieveInformationModelMove) as association:
            responses = association.send_c_move(
                identifier(level, **keys), destination.aet, StudyRootQueryRetrieveInformationModelMove
            )
            self._read(result, responses)
            result.broke_off = was_aborted(association, result)
        return result

    @staticmethod
    def _read(result: Retrieved, responses: Iterator[tuple[Dataset, Dataset | None]]) -> None:
        for status, found in responses:
            if "Status" in status:
                result.statuses.append(status.Status)
                result.counts.append(
                    tuple(
                        status.get(f"NumberOf{what}Suboperations")
                        for what in ("Remaining", "Completed", "Failed", "Warning")
                    )
                )
            if found is not None:
                uids = found.get("FailedSOPInstanceUIDList") or []
                result.failed += [uids] if isinstance(uids, str) else uids


def was_aborted(association: Association, result: Retrieved) -> bool:
    """Whether the peer aborted instead of a final response; pynetdicom notices in a thread of its own."""
    until = time.monotonic() + 2
    while result.status in {0xFF00, None} and not association.is_aborted and time.monotonic() < until:
        time.sleep(0.01)
    return association.is_aborted


def identifier(level: str, **keys: str) -> Dataset:
    dataset = Dataset()
    dataset.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(dataset, keyword, value.split("\\") if keyword.endswith("UID") and "\\" in value else value)
    return dataset


@dataclass
class Destination:
    """A storage SCP of pynetdicom that C-MOVE sends to."""

    aet: str
    port: int
    result: Retrieved = field(default_factory=Retrieved)


@dataclass
class World:
    """Studies in a folder, a simulated PACS over them, and a client."""

    folder: Path
    studies: list[GeneratedStudy]
    pacs: SimulatedPacs
    client: Client

    def digests(self, *studies: GeneratedStudy) -> dict[str, str]:
        return {i.sop_instance_uid: i.dataset_sha256 for study in studies for i in study.instances}
