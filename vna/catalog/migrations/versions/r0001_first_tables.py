"""The first tables: the catalog of what is stored, and the ledger of runs."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create all tables."""
    _catalog()
    _holdings()
    _ledger()


def _text(name: str, *, key: bool = False) -> "sa.Column[Any]":
    return sa.Column(name, sa.String(), primary_key=key, nullable=False)


def _column(name: str, kind: Any) -> "sa.Column[Any]":
    return sa.Column(name, kind, nullable=False)


def _catalog() -> None:
    op.create_table(
        "study",
        _text("study_instance_uid", key=True),
        _column("attributes", sa.JSON),
        _text("told_at"),
        _text("told_by"),
    )
    op.create_table(
        "series",
        _text("study_instance_uid", key=True),
        _text("series_instance_uid", key=True),
        _column("attributes", sa.JSON),
        _text("told_at"),
        _text("told_by"),
    )
    op.create_table(
        "instance",
        _text("study_instance_uid", key=True),
        _text("sop_instance_uid", key=True),
        _text("series_instance_uid"),
        _text("sop_class_uid"),
        _column("attributes", sa.JSON),
        _text("told_at"),
        _text("told_by"),
    )
    op.create_index("ix_instance_sop_instance_uid", "instance", ["sop_instance_uid"])
    op.create_table(
        "version",
        _text("version_id", key=True),
        _text("study_instance_uid"),
        _text("sop_instance_uid"),
        _text("transfer_syntax_uid"),
        _text("dataset_sha256"),
        _column("dataset_length", sa.BigInteger),
        _text("stored_at"),
    )
    op.create_index("ix_version_instance", "version", ["study_instance_uid", "sop_instance_uid"])
    op.create_index("ix_version_sop", "version", ["sop_instance_uid"])


def _holdings() -> None:
    op.create_table(
        "copy",
        _text("unit", key=True),
        _text("path", key=True),
        _text("version_id"),
        _column("size", sa.BigInteger),
        _column("header_length", sa.Integer),
        _text("header_sha256"),
        _column("mtime_ns", sa.BigInteger),
        _text("status"),
        _text("replaced_by"),
        _text("told_at"),
    )
    op.create_index("ix_copy_version", "copy", ["version_id"])
    op.create_table(
        "receipt",
        _text("association", key=True),
        _text("version_id", key=True),
        _text("unit", key=True),
        _text("run", key=True),
        _text("study_instance_uid"),
        _text("sop_instance_uid"),
        _column("size", sa.BigInteger),
        _column("is_new_version", sa.Boolean),
        *(_text(name) for name in ("calling_aet", "called_aet", "peer_address")),
        *(_text(name) for name in ("listener", "server", "episode", "told_at")),
    )
    op.create_index("ix_receipt_run", "receipt", ["run", "study_instance_uid"])
    op.create_index("ix_receipt_version", "receipt", ["version_id"])
    op.create_table(
        "manifest",
        _text("unit", key=True),
        _text("path", key=True),
        _column("damage", sa.Text),
    )


def _ledger() -> None:
    op.create_table(
        "run",
        _text("run_id", key=True),
        _text("source"),
        _text("unit"),
        _column("request", sa.JSON),
        _text("host"),
        _column("started_at", sa.Float),
        sa.Column[Any]("ended_at", sa.Float),
        _text("state"),
        _column("sentence", sa.Text),
        _column("error", sa.Text),
    )
    op.create_table(
        "run_study",
        _text("run_id", key=True),
        _text("study_instance_uid", key=True),
        _column("attributes", sa.JSON),
        _text("sort_key"),
        _text("state"),
        *(_column(name, sa.Boolean) for name in ("recheck", "changed")),
        *(_column(name, sa.Integer) for name in ("attempts", "expected", "held")),
        *(_column(name, sa.Text) for name in ("note", "last_error")),
        _column("updated_at", sa.Float),
    )
    op.create_index("ix_run_study_state", "run_study", ["run_id", "state"])
    op.create_index("ix_run_study_study", "run_study", ["study_instance_uid"])
    op.create_table(
        "lease",
        _text("source", key=True),
        _text("study_instance_uid", key=True),
        _text("run_id"),
        _column("expires_at", sa.Float),
    )
    op.create_index("ix_lease_run_id", "lease", ["run_id"])
    op.create_table(
        "source_study",
        _text("source", key=True),
        _text("study_instance_uid", key=True),
        _column("fingerprint", sa.JSON),
        _column("completed_at", sa.Float),
        _column("pulled_whole_at", sa.Float),
    )
