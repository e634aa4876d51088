"""Refits of the reward, the order that they give, and better answers that people write."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add what model-in-the-loop labelling keeps; nothing that is there changes."""
    op.add_column("item", sa.Column("priority", sa.Double, nullable=False, server_default="0"))
    op.add_column("item", sa.Column("why", sa.Text))
    op.create_index("ix_item_open_split_priority", "item", ["open", "split", "priority"])
    op.add_column("event", sa.Column("better_answer", sa.Text))
    op.create_table(
        "refit",
        sa.Column("id", BIG_ID, primary_key=True, autoincrement=True),
        sa.Column("votes", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("result", sa.JSON(none_as_null=True)),
        sa.Column("began_at", sa.Double, nullable=False),
        sa.Column("ended_at", sa.Double),
    )
