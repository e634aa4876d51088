"""The tables. Votes are events that are only ever appended; what counts now is derived.

Every judgement of a person on an item is a chain: the first event has no predecessor, and each
later one (edit, undo, vote after an undo) names the event it replaces. Two unique indexes make
the chain linear, so a vote cannot be counted twice whatever is sent twice. Triggers that the
migrations make refuse to change or delete an event.

Names of people are in `account` alone. Deleting a person deletes the account and the sessions,
and gives the person another random pseudonym; the events stay.

Times are seconds since 1970, in UTC.
"""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
"""SQLite numbers rows by itself only where the column's type is INTEGER."""

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
    sa.Column("members", sa.JSON, nullable=False),  # places of the answers in their group
    sa.Column("kind", sa.String(16), nullable=False),  # pair or ranking
    sa.Column("question", sa.JSON, nullable=False),  # text or messages, and answers
    sa.Column("authors", sa.JSON, nullable=False),  # never sent to annotators
    sa.Column("meta", sa.JSON, nullable=False),
    sa.Column("split", sa.String(16), nullable=False),  # train or held_out
    sa.Column("gold", sa.JSON(none_as_null=True)),  # {"strength": 2, "by": "adjudication"}, or null
    sa.Column("wanted", sa.Integer, nullable=False),  # overlap target
    sa.Column("votes", sa.Integer, nullable=False, default=0),
    sa.Column("skips", sa.Integer, nullable=False, default=0),
    sa.Column("open", sa.Boolean, nullable=False, default=True),
    sa.Column("draw", sa.Double, nullable=False),  # a seeded random order
    sa.Column("priority", sa.Double, nullable=False, default=0.0),  # larger is asked earlier
    sa.Column("why", sa.Text),  # the reason of that priority, for the lead
    sa.Index("ix_item_open_draw", "open", "draw"),
    sa.Index("ix_item_open_split_priority", "open", "split", "priority"),
    sa.Index("ix_item_group_id", "group_id"),
)

person = sa.Table(
    "person",
    metadata,
    sa.Column("id", BIG_ID, primary_key=True, autoincrement=True),
    sa.Column("pseudonym", sa.String(32), nullable=False, unique=True),
    sa.Column("role", sa.String(16), nullable=False),  # annotator or lead
    sa.Column("active", sa.Boolean, nullable=False, default=True),
    sa.Column("made_at", sa.Double, nullable=False),
)

account = sa.Table(
    "account",
    metadata,
    sa.Column("person_id", sa.ForeignKey("person.id"), primary_key=True, autoincrement=False),
    sa.Column("name", sa.String(200), nullable=False, unique=True),
    sa.Column("password", sa.Text),  # an argon2 hash, or null: by invitation only
)

invite = sa.Table(
    "invite",
    metadata,
    sa.Column("token", sa.String(64), primary_key=True),  # a hash of it
    sa.Column("person_id", sa.ForeignKey("person.id"), nullable=False, index=True),
    sa.Column("expires_at", sa.Double, nullable=False),
    sa.Column("used_at", sa.Double),
)

session = sa.Table(
    "session",
    metadata,
    sa.Column("token", sa.String(64), primary_key=True),  # a hash of it
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
    sa.Column("order", sa.JSON, nullable=False),  # shown place -> place in the item
    sa.Column("source", sa.String(16), nullable=False),  # uniform, active or gold
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
    sa.Column("key", sa.String(64), nullable=False, unique=True),  # sent twice, kept once
    sa.Column("person_id", sa.ForeignKey("person.id"), nullable=False),
    sa.Column("item_id", sa.ForeignKey("item.id"), nullable=False, index=True),
    sa.Column("kind", sa.String(16), nullable=False),  # vote, skip, undo, late, adjudication
    sa.Column("supersedes", sa.ForeignKey("event.id"), unique=True),
    sa.Column("protocol", sa.String(32), nullable=False),
    sa.Column("order", sa.JSON, nullable=False),
    sa.Column("choice", sa.Integer),  # 1..7 as it was pressed: 1 the first shown much better
    sa.Column("both_bad", sa.Boolean, nullable=False, default=False),
    sa.Column(
        "ranks", sa.JSON(none_as_null=True)
    ),  # shown place -> rank, 1 the best, null unranked
    sa.Column("criteria", sa.JSON(none_as_null=True)),  # name -> a, same or b, as it was shown
    sa.Column("reason", sa.Text),  # of a skip
    sa.Column("rationale", sa.Text),
    sa.Column("better_answer", sa.Text),
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

refit = sa.Table(
    "refit",
    metadata,
    sa.Column("id", BIG_ID, primary_key=True, autoincrement=True),
    sa.Column("votes", sa.Integer, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),  # running, done or failed
    sa.Column(
        "result", sa.JSON(none_as_null=True)
    ),  # held-out accuracy with its interval, or the error
    sa.Column("began_at", sa.Double, nullable=False),
    sa.Column("ended_at", sa.Double),
)

TABLES = (setting, rubric, item, person, account, invite, session, lease, event, refit)
"""In the order in which rows can be inserted."""
