"""Tables of the run ledger; they share the catalog's database and migrations.

The ledger is memory of work, not of images: a catalog rebuilt from storage units starts with an empty one.
No text has a limit: what sources answer may be longer than the standard allows, and SQLite would take it.
"""

from typing import Any

from sqlalchemy import JSON, Column, Float, Index, Text
from sqlmodel import Field, SQLModel


class Run(SQLModel, table=True):
    """One run of a backup task. `ended_at` stays empty for a run that was killed."""

    __tablename__ = "run"  # pyright: ignore[reportAssignmentType]

    run_id: str = Field(primary_key=True)
    source: str
    unit: str
    request: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    host: str
    started_at: float = Field(sa_column=Column(Float, nullable=False))
    ended_at: float | None = Field(default=None, sa_column=Column(Float))
    state: str = Field(default="running")
    sentence: str = Field(default="", sa_column=Column(Text, nullable=False))
    error: str = Field(default="", sa_column=Column(Text, nullable=False))


class RunStudy(SQLModel, table=True):
    """One study of one run: found → planned → moving → verifying → complete | incomplete | failed | excluded."""

    __tablename__ = "run_study"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (
        Index("ix_run_study_state", "run_id", "state"),
        Index("ix_run_study_study", "study_instance_uid"),
    )

    run_id: str = Field(primary_key=True)
    study_instance_uid: str = Field(primary_key=True)
    attributes: dict[str, str] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    sort_key: str = Field(default="")
    state: str = Field(default="found")
    recheck: bool = Field(default=False)
    changed: bool = Field(default=False)
    attempts: int = Field(default=0)
    expected: int = Field(default=0)
    held: int = Field(default=0)
    note: str = Field(default="", sa_column=Column(Text, nullable=False))
    last_error: str = Field(default="", sa_column=Column(Text, nullable=False))
    updated_at: float = Field(default=0.0, sa_column=Column(Float, nullable=False))


class Lease(SQLModel, table=True):
    """Who may pull a study from a source just now; `expires_at` in seconds of the database's own clock."""

    __tablename__ = "lease"  # pyright: ignore[reportAssignmentType]

    source: str = Field(primary_key=True)
    study_instance_uid: str = Field(primary_key=True)
    run_id: str = Field(index=True)
    expires_at: float = Field(sa_column=Column(Float, nullable=False))


class SourceStudy(SQLModel, table=True):
    """What a source answered about a study when we last proved it complete."""

    __tablename__ = "source_study"  # pyright: ignore[reportAssignmentType]

    source: str = Field(primary_key=True)
    study_instance_uid: str = Field(primary_key=True)
    fingerprint: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    completed_at: float = Field(sa_column=Column(Float, nullable=False))
    pulled_whole_at: float = Field(sa_column=Column(Float, nullable=False))
