"""Columns and indexes that C-FIND queries are narrowed by, filled from the attributes that are there."""

from typing import Any, cast

import sqlalchemy as sa
from alembic import op

from vna.catalog.matching import search_columns

revision = "0002"
down_revision = "0001"

_STUDY = (
    "patient_id",
    "patient_name",
    "further_names",
    "patient_birth_date",
    "study_date",
    "study_time",
    "accession_number",
    "referring_physician_name",
)
_PAGE = 1000


def upgrade() -> None:
    """Add them; a catalog of 50,000 studies takes some seconds."""
    for column in _STUDY:
        _add("study", column)
    _add("series", "modality")
    _fill("study", ("study_instance_uid",), _STUDY)
    _fill("series", ("study_instance_uid", "series_instance_uid"), ("modality",))
    for name, column in (
        ("ix_study_patient_id", "patient_id"),
        ("ix_study_patient_name", "patient_name"),
        ("ix_study_further_names", "further_names"),
        ("ix_study_birth_date", "patient_birth_date"),
        ("ix_study_date", "study_date"),
        ("ix_study_accession_number", "accession_number"),
    ):
        op.create_index(name, "study", [column, "study_instance_uid"])
    op.create_index("ix_series_uid", "series", ["series_instance_uid"])
    op.create_index("ix_series_modality", "series", ["modality", "study_instance_uid"])


def _add(table: str, column: str) -> None:
    kind = sa.String().with_variant(sa.String(collation="C"), "postgresql")
    op.add_column(table, sa.Column(column, kind, nullable=False, server_default=""))


def _fill(table: str, keys: tuple[str, ...], columns: tuple[str, ...]) -> None:
    connection = op.get_bind()
    known: list[Any] = [sa.column(name) for name in (*keys, *columns)]
    names = sa.table(table, *known, cast(Any, sa.column("attributes", sa.JSON)))
    key = sa.tuple_(*(names.c[name] for name in keys))
    update = (
        sa.update(names)
        .where(*(names.c[name] == sa.bindparam(f"of_{name}") for name in keys))
        .values({column: sa.bindparam(f"new_{column}") for column in columns})
    )
    last: tuple[str, ...] = tuple("" for _ in keys)
    while True:
        page = connection.execute(
            sa.select(*(names.c[name] for name in keys), names.c.attributes)
            .where(key > last)
            .order_by(*(names.c[name] for name in keys))
            .limit(_PAGE)
        ).all()
        if not page:
            return
        rows: list[dict[str, Any]] = []
        for row in page:
            found = search_columns(table, row[-1] or {})
            rows.append(
                {f"of_{name}": value for name, value in zip(keys, row, strict=False)}
                | {f"new_{column}": found[column] for column in columns}
            )
        connection.execute(update, rows)
        last = tuple(page[-1][: len(keys)])
