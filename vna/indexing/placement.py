"""Placing the files of one study from one folder of the spool: unit, manifest, catalog, in this order."""

import datetime
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from vna.catalog import Catalog
from vna.checkpoints import checkpoint
from vna.identity import InstanceIdentity, version_id
from vna.spool import AssociationRecord, ReceivedFile
from vna.storage import (
    Event,
    NewFile,
    PlacedFile,
    Received,
    StorageUnit,
    Stored,
    Superseded,
    study_folder_of,
)


@dataclass(frozen=True, slots=True)
class IdentifiedFile:
    """A received file whose data set was read."""

    received: ReceivedFile
    identity: InstanceIdentity

    @property
    def version_id(self) -> str:
        of = self.identity
        return version_id(
            of.study_instance_uid,
            of.sop_instance_uid,
            of.transfer_syntax_uid,
            self.received.dataset_sha256,
        )

    def as_new(self) -> NewFile:
        """For a storage unit."""
        return NewFile(self.received.path, self.identity, self.received.dataset_sha256, self.received.size)


@dataclass(frozen=True, slots=True)
class WantedStudy:
    """Received files of one study, and the runs that want them on a unit (an empty name: nobody asked)."""

    files: Sequence[IdentifiedFile]
    runs: Collection[str]

    @property
    def study_instance_uid(self) -> str:
        return self.files[0].identity.study_instance_uid


def place_on_unit(
    unit: StorageUnit, catalog: Catalog, studies: Sequence[WantedStudy], association: AssociationRecord
) -> None:
    """Place files of some studies on a unit; what was done before a kill is not done again.

    On return every file is stored, read back, told by a manifest of its study and catalogued. The studies share
    the waiting: for the disk, and for one transaction. Raises what `StorageUnit.put` raises, and
    `CatalogUnavailable`; then any of them may be placed, and all may be tried again.
    """
    for study in studies:
        replay_study(unit, catalog, study_folder_of(study.study_instance_uid))
    todo = _not_done(unit, catalog, studies, association)
    if not todo:
        return
    placed = unit.put([file.as_new() for study in todo for file in study.files])
    known = catalog.versions_of(
        {(study.study_instance_uid, file.identity.sop_instance_uid) for study in todo for file in study.files}
    )
    told = catalog.told_at({study.study_instance_uid for study in todo})
    batches: list[tuple[str, list[Event]]] = []
    places = iter(placed)
    for study in todo:
        uid = study.study_instance_uid
        of_study = [(file.version_id, next(places)) for file in study.files]
        events = _events(_after(told.get(uid, "")), of_study, study.runs, association, known)
        batches.append((study_folder_of(uid), events))
    manifests = unit.write_manifests(batches)
    checkpoint("place.manifest_synced")
    catalog.record_many(
        unit.name, [(path, events, "") for path, (_, events) in zip(manifests, batches, strict=True)]
    )
    checkpoint("place.catalogued")


def _not_done(
    unit: StorageUnit, catalog: Catalog, studies: Sequence[WantedStudy], association: AssociationRecord
) -> list[WantedStudy]:
    versions = [file.version_id for study in studies for file in study.files]
    done = catalog.runs_that_received(association.ulid, unit.name, versions)
    left = [
        WantedStudy(
            [file for file in study.files if not set(study.runs) <= set(done.get(file.version_id, ()))],
            study.runs,
        )
        for study in studies
    ]
    return [study for study in left if study.files]


def replay_study(unit: StorageUnit, catalog: Catalog, study_folder: str) -> int:
    """Record the manifests of a study that the catalog does not have: their writer was killed before, or the
    database is an older one. Returns how many.

    `study_folder` = `vna.storage.study_folder_of(study_instance_uid)`. Where there is nothing new this costs one
    listing of a folder and one question to the catalog. Raises `UnitUnavailable`, `CatalogUnavailable`.
    """
    there = unit.manifests(study_folder)
    if not there:
        return 0
    unknown = set(there) - catalog.manifests_of(unit.name, study_folder)
    for path in sorted(unknown):
        manifest = unit.read_manifest(path)
        catalog.record(unit.name, path, manifest.events, manifest.damage_text)
    return len(unknown)


def _after(told: str) -> str:
    """Now, but never before what was told of the study already: a clock that was set back must not make an
    older content the current one.
    """
    now = datetime.datetime.now(datetime.UTC)
    if told:
        earliest = datetime.datetime.fromisoformat(told) + datetime.timedelta(microseconds=1)
        now = max(now, earliest)
    return now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _events(
    at: str,
    placed: Sequence[tuple[str, PlacedFile]],
    runs: Collection[str],
    association: AssociationRecord,
    known: Mapping[tuple[str, str], set[str]],
) -> list[Event]:
    events: list[Event] = []
    versions: dict[str, set[str]] = {}
    for version, place in placed:
        of = place.file.identity
        before = known.get((of.study_instance_uid, of.sop_instance_uid), ())
        held = versions.setdefault(of.sop_instance_uid, set(before))
        is_new = bool(held) and version not in held
        held.add(version)
        events.append(_stored(at, version, place))
        events += [_received(at, version, place, run, association, is_new=is_new) for run in sorted(runs)]
        events += [
            Superseded(
                at=at,
                path=damaged.path,
                version_id=version,
                by=place.path,
                status="differing_checksum",
                size=damaged.found.size if damaged.found else 0,
                mtime_ns=damaged.found.mtime_ns if damaged.found else 0,
                header_length=damaged.found.header_length if damaged.found else 0,
                header_sha256=damaged.found.header_sha256 if damaged.found else "",
            )
            for damaged in place.damaged
        ]
    return events


def _stored(at: str, version: str, place: PlacedFile) -> Stored:
    of, found = place.file.identity, place.digests
    return Stored(
        at=at,
        path=place.path,
        version_id=version,
        study_instance_uid=of.study_instance_uid,
        series_instance_uid=of.series_instance_uid,
        sop_instance_uid=of.sop_instance_uid,
        sop_class_uid=of.sop_class_uid,
        transfer_syntax_uid=of.transfer_syntax_uid,
        dataset_sha256=found.dataset_sha256,
        header_sha256=found.header_sha256,
        header_length=found.header_length,
        size=found.size,
        mtime_ns=found.mtime_ns,
        attributes=dict(of.attributes),
    )


def _received(
    at: str, version: str, place: PlacedFile, run: str, association: AssociationRecord, *, is_new: bool
) -> Received:
    return Received(
        at=at,
        version_id=version,
        study_instance_uid=place.file.identity.study_instance_uid,
        sop_instance_uid=place.file.identity.sop_instance_uid,
        run=run,
        association=association.ulid,
        calling_aet=association.calling_aet,
        called_aet=association.called_aet,
        peer_address=association.peer_address,
        listener=association.listener,
        server=association.server,
        episode=association.episode,
        size=place.file.size,
        is_new_version=is_new,
    )
