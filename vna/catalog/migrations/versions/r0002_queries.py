"""Columns and indexes that C-FIND queries are narrowed by, filled from the attributes that are there."""

import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any, cast

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_PAGE = 1000
_LONGEST = 200


# -- the forms of values as they were at this revision: `vna.catalog.matching` may change, what it made may not


def _text(text: str) -> str:
    return text.strip(" ")[:_LONGEST]


def _plain_name(text: str) -> str:
    folded = unicodedata.normalize("NFC", text.casefold())
    groups = ["^".join(part.strip(" ") for part in group.split("^")) for group in folded.split("=")]
    return "=".join(group.rstrip("^") for group in groups).rstrip("=")


def _name(text: str) -> str:
    return _plain_name(text)[:_LONGEST]


def _first_group(text: str) -> str:
    return _plain_name(text).partition("=")[0][:_LONGEST]


def _further_groups(text: str) -> str:
    _, dash, further = _plain_name(text).partition("=")
    return f"{dash}{further}"[:_LONGEST]


def _digits(count: int) -> Callable[[str], str]:
    def form(text: str) -> str:
        found = re.sub(r"[^0-9]+", "", text)[:count]
        return found.ljust(count, "0") if found else ""

    return form


_date, _time = _digits(8), _digits(12)

FORMS: Mapping[str, Mapping[str, tuple[str, Callable[[str], str]]]] = {
    "study": {
        "patient_id": ("PatientID", _text),
        "patient_name": ("PatientName", _first_group),
        "further_names": ("PatientName", _further_groups),
        "patient_birth_date": ("PatientBirthDate", _date),
        "study_date": ("StudyDate", _date),
        "study_time": ("StudyTime", _time),
        "accession_number": ("AccessionNumber", _text),
        "referring_physician_name": ("ReferringPhysicianName", _name),
    },
    "series": {"modality": ("Modality", _text)},
}
"""Table to its columns, each with the attribute and the form of it."""
_KEYS = {"study": ("study_instance_uid",), "series": ("study_instance_uid", "series_instance_uid")}


# -- the migration


def upgrade() -> None:
    """Add them; a catalog of 50,000 studies takes some seconds."""
    for table, columns in FORMS.items():
        for column in columns:
            _add(table, column)
        fill(table)
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


def fill(table: str) -> None:
    """Write the columns of the rows in which they are not what the attributes say."""
    keys, forms = _KEYS[table], FORMS[table]
    connection = op.get_bind()
    known: list[Any] = [sa.column(name) for name in (*keys, *forms)]
    names = sa.table(table, *known, cast(Any, sa.column("attributes", sa.JSON)))
    key = sa.tuple_(*(names.c[name] for name in keys))
    update = (
        sa.update(names)
        .where(*(names.c[name] == sa.bindparam(f"of_{name}") for name in keys))
        .values({column: sa.bindparam(f"new_{column}") for column in forms})
    )
    last: tuple[str, ...] = tuple("" for _ in keys)
    while True:
        page = connection.execute(
            sa.select(*(names.c[name] for name in (*keys, *forms)), names.c.attributes)
            .where(key > last)
            .order_by(*(names.c[name] for name in keys))
            .limit(_PAGE)
        ).all()
        if not page:
            return
        rows: list[dict[str, Any]] = []
        for row in page:
            attributes: Mapping[str, str] = row[-1] or {}
            right = {name: form(attributes.get(keyword, "")) for name, (keyword, form) in forms.items()}
            if tuple(right.values()) != tuple(row[len(keys) : -1]):
                found = {f"of_{name}": value for name, value in zip(keys, row, strict=False)}
                rows.append(found | {f"new_{name}": value for name, value in right.items()})
        if rows:
            connection.execute(update, rows)
        last = tuple(page[-1][: len(keys)])
