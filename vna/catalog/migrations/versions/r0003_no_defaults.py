"""A process of an older version that goes on writing is refused, instead of recording what no query finds.

The columns of revision 0002 had a default: who did not know them wrote rows in which they were empty. Those are
filled; without the default such a row is refused, and what it stands for waits in the spool.
"""

from alembic import op

from vna.catalog.migrations.versions.r0002_queries import FORMS, fill

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Take the defaults away, then fill what was left empty; SQLite copies the two tables for the first."""
    for table, columns in FORMS.items():
        with op.batch_alter_table(table) as batch:  # first: from here on nobody else writes until all is done
            for column in columns:
                batch.alter_column(column, server_default=None)
        fill(table)
