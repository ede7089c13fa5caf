"""Tables of the catalog: what the manifests of all units say, in a form that can be asked.

Every row has a natural key and is merged by rules that do not depend on order (the later `told_at` wins, the
earlier `stored_at` stays), so that several indexers, a replay and a rebuild all end with the same rows.
`told_at` is ISO 8601 in UTC with microseconds: it sorts as text. No text has a limit: what a stranger sent may be
longer than the standard allows, and the two kinds of database must not differ in what they take.
"""

from typing import Any

from sqlalchemy import JSON, BigInteger, Column, Index, String, Text
from sqlmodel import Field, SQLModel


def _json() -> Any:
    return Field(default_factory=dict, sa_column=Column(JSON, nullable=False))


def _bytes() -> Any:
    return Field(sa_column=Column(BigInteger, nullable=False))


def _search() -> Any:
    """A text that queries are narrowed by, in the order of its code points in both databases."""
    kind = String().with_variant(String(collation="C"), "postgresql")
    return Field(
        default="", sa_column=Column(kind, nullable=False)
    )  # no default in the database: revision 0003


class Study(SQLModel, table=True):
    """A study with the patient's and study's attributes of the version that was told last.

    The columns after `told_by` are made of `attributes`, in the forms of `vna.catalog.matching`: a query finds its
    candidates by them, and looks at the attributes for what matches.
    """

    __tablename__ = "study"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (
        Index("ix_study_patient_id", "patient_id", "study_instance_uid"),
        Index("ix_study_patient_name", "patient_name", "study_instance_uid"),
        Index("ix_study_further_names", "further_names", "study_instance_uid"),
        Index("ix_study_birth_date", "patient_birth_date", "study_instance_uid"),
        Index("ix_study_date", "study_date", "study_instance_uid"),
        Index("ix_study_accession_number", "accession_number", "study_instance_uid"),
    )

    study_instance_uid: str = Field(primary_key=True)
    attributes: dict[str, str] = _json()
    told_at: str
    told_by: str
    patient_id: str = _search()
    patient_name: str = _search()
    further_names: str = _search()
    patient_birth_date: str = _search()
    study_date: str = _search()
    study_time: str = _search()
    accession_number: str = _search()
    referring_physician_name: str = _search()


class Series(SQLModel, table=True):
    """A series of a study, likewise."""

    __tablename__ = "series"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (
        Index("ix_series_uid", "series_instance_uid"),
        Index("ix_series_modality", "modality", "study_instance_uid"),
    )

    study_instance_uid: str = Field(primary_key=True)
    series_instance_uid: str = Field(primary_key=True)
    attributes: dict[str, str] = _json()
    told_at: str
    told_by: str
    modality: str = _search()


class Instance(SQLModel, table=True):
    """An instance; `told_by` is its current version. Older versions stay in `version`."""

    __tablename__ = "instance"  # pyright: ignore[reportAssignmentType]

    study_instance_uid: str = Field(primary_key=True)
    sop_instance_uid: str = Field(primary_key=True, index=True)
    series_instance_uid: str
    sop_class_uid: str
    attributes: dict[str, str] = _json()
    told_at: str
    told_by: str


class Version(SQLModel, table=True):
    """One content of an instance: SOP Instance UID + transfer syntax + digest of the data set (DESIGN §4)."""

    __tablename__ = "version"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (
        Index("ix_version_instance", "study_instance_uid", "sop_instance_uid"),
        Index("ix_version_sop", "sop_instance_uid"),
    )

    version_id: str = Field(primary_key=True)
    study_instance_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    dataset_sha256: str
    dataset_length: int = _bytes()
    stored_at: str


class Copy(SQLModel, table=True):
    """A file of a version on a storage unit, as it was when its digests were last checked.

    `status`: ok, missing, differing_size, differing_checksum. `replaced_by` = the good copy that stands for a
    damaged one; the damaged file is kept and no more asked for.
    """

    __tablename__ = "copy"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (Index("ix_copy_version", "version_id"),)

    unit: str = Field(primary_key=True)
    path: str = Field(primary_key=True)
    version_id: str
    size: int = _bytes()
    header_length: int
    header_sha256: str
    mtime_ns: int = _bytes()
    status: str
    replaced_by: str = ""
    told_at: str


class Receipt(SQLModel, table=True):
    """A version received in an association and placed on a unit for a run (empty: nobody asked for it)."""

    __tablename__ = "receipt"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (
        Index("ix_receipt_run", "run", "study_instance_uid"),
        Index("ix_receipt_version", "version_id"),
    )

    association: str = Field(primary_key=True)
    version_id: str = Field(primary_key=True)
    unit: str = Field(primary_key=True)
    run: str = Field(primary_key=True)
    study_instance_uid: str
    sop_instance_uid: str
    size: int = _bytes()
    is_new_version: bool
    calling_aet: str
    called_aet: str
    peer_address: str
    listener: str
    server: str
    episode: str
    told_at: str


class CataloguedManifest(SQLModel, table=True):
    """A manifest whose events are in the catalog."""

    __tablename__ = "manifest"  # pyright: ignore[reportAssignmentType]

    unit: str = Field(primary_key=True)
    path: str = Field(primary_key=True)
    damage: str = Field(default="", sa_column=Column(Text, nullable=False))
