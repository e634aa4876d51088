"""What people say of single criteria, beside which answer is better."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the column; events that are there said nothing of criteria."""
    op.add_column("event", sa.Column("criteria", sa.JSON(none_as_null=True)))
