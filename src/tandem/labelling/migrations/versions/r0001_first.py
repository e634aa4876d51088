"""Items, people, leases and events: the first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

setting = sa.Table(
    "setting",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("value", sa.JSON, nullable=False),
)

rubric = sa.Table(
    "rubric",
    metadata,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("made_at", sa.Double, nullable=False),
)

item = sa.Table(
    "item",
    metadata,
    sa.Column("id", BIG_ID, primary_key=True, autoincrement=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("group_id", sa.Text, nullable=False),
    sa.Column("members", sa.JSON, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("question", sa.JSON, nullable=False),
    sa.Column("authors", sa.JSON, nullable=False),
    sa.Column("meta", sa.JSON, nullable=False),
    sa.Column("split", sa.String(16), nullable=False),
    sa.Column("gold", sa.JSON(none_as_null=True)),
    sa.Column("wanted", sa.Integer, nullable=False),
    sa.Column("votes", sa.Integer, nullable=False, default=0),
    sa.Column("skips", sa.Integer, nullable=False, default=0),
    sa.Column("open", sa.Boolean, nullable=False, default=True),
    sa.Column("draw", sa.Double, nullable=False),
    sa.Index("ix_item_open_draw", "open", "draw"),
    sa.Index("ix_item_group_id", "group_id"),
)

person = sa.Table(
    "person",
    metadata,
    sa.Column("id", BIG_ID, primary_key=True, autoincrement=True),
    sa.Column("pseudonym", sa.String(32), nullable=False, unique=True),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("active", sa.Boolean, nullable=False, default=True),
    sa.Column("made_at", sa.Double, nullable=False),
)

account = sa.Table(
    "account",
    metadata,
    sa.Column("person_id", sa.ForeignKey("person.id"), primary_key=True, autoincrement=False),
    sa.Column("name", sa.String(200), nullable=False, unique=True),
    sa.Column("password", sa.Text),
)

invite = sa.Table(
    "invite",
    metadata,
    sa.Column("token", sa.String(64), primary_key=True),
    sa.Column("person_id", sa.ForeignKey("person.id"), nullable=False, index=True),
    sa.Column("expires_at", sa.Double, nullable=False),
    sa.Column("used_at", sa.Double),
)

session = sa.Table(
    "session",
    metadata,
    sa.Column("token", sa.String(64), primary_key=True),
    sa.Column("person_id", sa.ForeignKey("person.id"), nullable=False, index=True),
    sa.Column("made_at", sa.Double, nullable=False),
    sa.Column("seen_at", sa.Double, nullable=False),
    sa.Column("expires_at", sa.Double, nullable=False),
)

lease = sa.Table(
    "lease",
    metadata,
    sa.Column("token", sa.String(32), primary_key=True),
    sa.Column("item_id", sa.ForeignKey("item.id"), nullable=False),
    sa.Column("person_id", sa.ForeignKey("person.id"), nullable=False),
    sa.Column("order", sa.JSON, nullable=False),
    sa.Column("source", sa.String(16), nullable=False),
    sa.Column("handed_at", sa.Double, nullable=False),
    sa.Column("expires_at", sa.Double, nullable=False),
    sa.Column("closed_at", sa.Double),
    sa.Index("uq_lease_person_id_item_id", "person_id", "item_id", unique=True),
    sa.Index("ix_lease_closed_at_expires_at", "closed_at", "expires_at"),
)

event = sa.Table(
    "event",
    metadata,
    sa.Column("id", BIG_ID, primary_key=True, autoincrement=True),
    sa.Column("key", sa.String(64), nullable=False, unique=True),
    sa.Column("person_id", sa.ForeignKey("person.id"), nullable=False),
    sa.Column("item_id", sa.ForeignKey("item.id"), nullable=False, index=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("supersedes", sa.ForeignKey("event.id"), unique=True),
    sa.Column("protocol", sa.String(32), nullable=False),
    sa.Column("order", sa.JSON, nullable=False),
    sa.Column("choice", sa.Integer),
    sa.Column("both_bad", sa.Boolean, nullable=False, default=False),
    sa.Column("ranks", sa.JSON(none_as_null=True)),
    sa.Column("reason", sa.Text),
    sa.Column("rationale", sa.Text),
    sa.Column("seconds", sa.Double),
    sa.Column("rubric", sa.Integer, nullable=False),
    sa.Column("device", sa.String(32), nullable=False),
    sa.Column("source", sa.String(16), nullable=False),
    sa.Column("made_at", sa.Double, nullable=False),
    sa.Index(
        "uq_event_first",
        "person_id",
        "item_id",
        "protocol",
        unique=True,
        sqlite_where=sa.text("supersedes IS NULL"),
        postgresql_where=sa.text("supersedes IS NULL"),
    ),
    sa.Index("ix_event_person_id_item_id", "person_id", "item_id"),
)

REFUSE_CHANGE: dict[str, tuple[str, ...]] = {
    "sqlite": (
        "CREATE TRIGGER event_no_update BEFORE UPDATE ON event "
        "BEGIN SELECT RAISE(ABORT, 'events are append-only'); END",
        "CREATE TRIGGER event_no_delete BEFORE DELETE ON event "
        "BEGIN SELECT RAISE(ABORT, 'events are append-only'); END",
    ),
    "postgresql": (
        "CREATE FUNCTION refuse_event_change() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'events are append-only'; END $$",
        "CREATE TRIGGER event_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON event "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_event_change()",
    ),
}


def upgrade() -> None:
    """Make the tables, and refuse changes of events."""
    connection = op.get_bind()
    metadata.create_all(connection)
    for statement in REFUSE_CHANGE[connection.dialect.name]:
        connection.execute(sa.text(statement))
