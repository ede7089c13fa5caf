"""How alembic runs our migrations: on the connection it is given, in the transaction that is open there."""

from alembic import context
from sqlmodel import SQLModel

from vna.catalog import tables as catalog_tables
from vna.jobs import tables as ledger_tables

TABLES = (catalog_tables, ledger_tables)
"""Both fill the metadata."""

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=SQLModel.metadata,
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
