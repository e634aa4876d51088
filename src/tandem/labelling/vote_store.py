"""Votes are events: a vote, an edit, an undo and a skip are each appended, nothing is changed.

The 7-point row is kept as it was pressed (1: the answer shown first is much better ... 7: the
second), together with the order that was shown. `strength` turns it into the item's own frame:
3 where the item's first answer is much better, 0 a tie, -3 the second.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import sqlalchemy as sa

from tandem.errors import DataError
from tandem.labelling.assignment import (
    Project,
    Ticket,
    find_ticket,
    find_tip,
    has_room,
    load_project,
    renew_lease,
)
from tandem.labelling.database import new_id
from tandem.labelling.people import Person
from tandem.labelling.schema import event, item, lease, rubric

Kind = Literal["vote", "skip", "undo", "late", "adjudication"]
SEVEN_POINT, RANKING, ADJUDICATION = "seven-point", "ranking", "adjudication"
CHOICES = {
    1: "A is much better",
    2: "A is clearly better",
    3: "A is slightly better",
    4: "tie",
    5: "B is slightly better",
    6: "B is clearly better",
    7: "B is much better",
}
SKIP_REASONS = {
    "unclear": "I do not understand the question",
    "expertise": "I lack the knowledge for it",
    "harmful": "It is upsetting or harmful",
    "broken": "It is shown wrongly",
    "other": "Another reason",
}
SIDES = {"a": 1, "same": 0, "b": -1}
"""What may be said of a criterion -> its sign where the answer shown first is the item's first."""
DEVICES = ("desktop", "phone", "unknown")
LONGEST_TEXT = 20_000


@dataclass(frozen=True)
class Judgement:
    """What somebody says about one question.

    Attributes:
        key: chosen by the page; the same key sent twice is one event.
        choice: 1..7, or None in a ranking.
        ranks: shown place -> rank (1 the best, equal ranks allowed, None unranked).
        criteria: name -> `a`, `same` or `b`, as the answers were shown; what is left out was not
            judged.
        seconds: how long it was looked at, as the page measured it.
    """

    key: str
    choice: int | None = None
    both_bad: bool = False
    ranks: tuple[int | None, ...] | None = None
    criteria: Mapping[str, str] = field(default_factory=dict[str, str])
    reason: str = ""
    rationale: str = ""
    better_answer: str = ""
    seconds: float | None = None
    device: str = "unknown"


@dataclass(frozen=True)
class Recorded:
    """What became of it: the event's number, its kind, and whether it was there already."""

    id: int
    kind: Kind
    repeated: bool = False


class NotYours(Exception):
    """The ticket is somebody else's, or there is none of that name."""


def record_vote(
    connection: sa.Connection, who: Person, token: str, said: Judgement, project: Project
) -> Recorded:
    """Append a vote, or the edit of one.

    Raises:
        NotYours: the ticket is not this person's.
        DataError: the judgement says nothing, or something that the question does not ask.
    """
    ticket = _ticket(connection, who, token)
    if (before := _find_key(connection, who, said.key)) is not None:
        return before
    values = _checked(said, ticket, project)
    return _append(connection, who, ticket, "vote", said, values)


def record_skip(connection: sa.Connection, who: Person, token: str, said: Judgement) -> Recorded:
    """Append a skip, with its reason.

    Raises:
        NotYours: the ticket is not this person's.
        DataError: no reason, or an unknown one.
    """
    ticket = _ticket(connection, who, token)
    if (before := _find_key(connection, who, said.key)) is not None:
        return before
    if said.reason not in SKIP_REASONS:
        raise DataError(
            f"a skip with the reason {said.reason!r}",
            "why people skip tells which questions to mend",
            f"choose one of {', '.join(SKIP_REASONS)}",
        )
    return _append(connection, who, ticket, "skip", said, {"reason": said.reason})


def record_undo(
    connection: sa.Connection, who: Person, key: str, project: Project
) -> Ticket | None:
    """Take back the last vote or skip of somebody; return its ticket, or None if there is none."""
    if (before := _find_key(connection, who, key)) is not None:
        where = event.c.id == before.id
        number = connection.execute(sa.select(event.c.item_id).where(where)).scalar_one()
        return _own_ticket(connection, who, number)
    last = last_counted(connection, who.id)
    if last is None:
        return None
    ticket = _own_ticket(connection, who, last["item_id"])
    if ticket is None:  # adjudications have no ticket
        return None
    said = Judgement(key, device=last["device"])
    _append(connection, who, ticket, "undo", said, {"choice": None})
    # a vote gives back a place that it held; a skip held none, and others may have taken it
    now = time.time()
    is_free = last["kind"] == "vote" or has_room(connection, ticket.item_id, who.id, now)
    reopened = sa.update(lease).where(lease.c.token == ticket.token)
    connection.execute(reopened.values(closed_at=None, expires_at=now))
    if is_free:
        renew_lease(connection, ticket.token, project)
    return find_ticket(connection, ticket.token, who)


def last_counted(connection: sa.Connection, person_id: int) -> dict[str, Any] | None:
    """Return the last vote or skip of a person that was not replaced."""
    later = event.alias("later")
    row = connection.execute(
        sa.select(event)
        .where(
            event.c.person_id == person_id,
            event.c.kind.in_(("vote", "skip", "late")),
            ~sa.exists().where(later.c.supersedes == event.c.id),
        )
        .order_by(event.c.id.desc())
        .limit(1)
    ).first()
    return None if row is None else dict(row._mapping)


def current_events() -> sa.Select[Any]:
    """Select the events that no later one replaces: what counts now."""
    later = event.alias("later")
    return sa.select(event).where(
        ~sa.exists().where(later.c.supersedes == event.c.id),
        event.c.kind.in_(("vote", "skip", "late", "adjudication")),
    )


def vote_strength(choice: int, order: Sequence[int]) -> int:
    """Return a press on the 7-point row in the item's frame: 3 .. -3, positive for answer 0."""
    shown = 4 - choice
    return shown if order[0] == 0 else -shown


def criteria_by_answer(given: Mapping[str, str] | None, order: Sequence[int]) -> dict[str, int]:
    """Return criteria in the item's frame: 1 where its first answer is better, 0 the same, -1."""
    turn = 1 if order[0] == 0 else -1
    return {name: turn * SIDES[side] for name, side in (given or {}).items()}


def ranks_by_answer(ranks: Sequence[int | None], order: Sequence[int]) -> list[int | None]:
    """Return ranks by place in the item instead of by shown place."""
    out: list[int | None] = [None] * len(order)
    for place, rank in zip(order, ranks, strict=True):
        out[place] = rank
    return out


def current_rubric(connection: sa.Connection) -> tuple[int, str]:
    """Return the newest version of the rubric and its text; version 0 is none."""
    row = connection.execute(
        sa.select(rubric.c.version, rubric.c.text).order_by(rubric.c.version.desc()).limit(1)
    ).first()
    return (0, "") if row is None else (row[0], row[1])


def add_rubric(connection: sa.Connection, text: str) -> int:
    """Keep a new version of the rubric, and return its number."""
    version = current_rubric(connection)[0] + 1
    connection.execute(
        sa.insert(rubric).values(version=version, text=text[:LONGEST_TEXT], made_at=time.time())
    )
    return version


def _ticket(connection: sa.Connection, who: Person, token: str) -> Ticket:
    ticket = find_ticket(connection, token, who)
    if ticket is None:
        raise NotYours(token)
    return ticket


def _own_ticket(connection: sa.Connection, who: Person, item_id: int) -> Ticket | None:
    token = connection.execute(
        sa.select(lease.c.token).where(lease.c.person_id == who.id, lease.c.item_id == item_id)
    ).scalar()
    return None if token is None else find_ticket(connection, token, who)


def _find_key(connection: sa.Connection, who: Person, key: str) -> Recorded | None:
    row = connection.execute(
        sa.select(event.c.id, event.c.kind, event.c.person_id).where(event.c.key == key)
    ).first()
    if row is None:
        return None
    if row[2] != who.id:
        raise NotYours(key)
    return Recorded(row[0], row[1], repeated=True)


def _checked(said: Judgement, ticket: Ticket, project: Project) -> dict[str, Any]:
    if ticket.item["kind"] == "ranking":
        values = {"ranks": _checked_ranks(said.ranks, len(ticket.order))}
    else:
        choice = 4 if said.choice is None and said.both_bad else said.choice
        if choice not in CHOICES:
            raise DataError(
                "nothing is chosen",
                "a vote says which answer is better, or that it is a tie",
                "choose one of the seven, both bad, or skip the question",
            )
        values = {"choice": choice, "criteria": _checked_criteria(said.criteria, project)}
    if project.rationale == "required" and not said.rationale.strip():
        raise DataError(
            "no reason is given",
            "this project asks for a reason with every vote",
            "write one sentence, then save again",
        )
    return {**values, "both_bad": said.both_bad}


def _checked_criteria(given: Mapping[str, str], project: Project) -> dict[str, str] | None:
    for name, side in given.items():
        if name not in project.criteria or side not in SIDES:
            raise DataError(
                f"the criterion {name[:60]!r} is answered {side[:20]!r}",
                "this project asks for "
                + (", ".join(project.criteria) or "no criterion")
                + f"; an answer is one of {', '.join(SIDES)}",
                "reload the page, and choose again",
            )
    return dict(given) or None


def _checked_ranks(ranks: Sequence[int | None] | None, n: int) -> list[int | None]:
    given = [r for r in ranks or () if r is not None]
    if ranks is None or len(ranks) != n or len(given) < 2 or any(not 1 <= r <= n for r in given):
        raise DataError(
            "fewer than two answers are ranked",
            f"a ranking puts two or more of the {n} answers in order; others may stay blank",
            "give ranks from 1, the best; equal ranks are a tie",
        )
    return list(ranks)


def _append(
    connection: sa.Connection,
    who: Person,
    ticket: Ticket,
    kind: Kind,
    said: Judgement,
    values: Mapping[str, Any],
) -> Recorded:
    now = time.time()
    tip = ticket.tip
    if kind in ("vote", "skip") and not _keeps_its_place(connection, ticket, now):
        kind = "late"
    made = connection.execute(
        sa.insert(event).values(
            key=said.key,
            person_id=who.id,
            item_id=ticket.item_id,
            kind=kind,
            supersedes=None if tip is None else tip["id"],
            protocol=RANKING if ticket.item["kind"] == "ranking" else SEVEN_POINT,
            order=list(ticket.order),
            rationale=_text(said.rationale),
            better_answer=_text(said.better_answer),
            seconds=_seconds(said.seconds, now - ticket.handed_at),
            rubric=current_rubric(connection)[0],
            device=said.device if said.device in DEVICES else "unknown",
            source=ticket.source,
            made_at=now,
            **values,
        )
    )
    _count(connection, ticket.item_id, None if tip is None else tip["kind"], kind)
    closed = sa.update(lease).where(lease.c.token == ticket.token)
    connection.execute(closed.values(closed_at=now))
    return Recorded(new_id(made), kind)


def _keeps_its_place(connection: sa.Connection, ticket: Ticket, now: float) -> bool:
    """Whether a vote on it may count: it counts already, its lease lives, or there is room."""
    if ticket.source == "gold":
        return True
    if ticket.tip is not None and ticket.tip["kind"] == "vote":
        return True
    if ticket.closed_at is None and ticket.expires_at > now:
        return True
    return has_room(connection, ticket.item_id, ticket.person_id, now)


def _count(connection: sa.Connection, item_id: int, before: str | None, after: Kind) -> None:
    """Keep the item's counters in step with its events, in the same transaction."""
    votes = (after == "vote") - (before == "vote")
    skips = (after == "skip") - (before == "skip")
    project = load_project(connection) or Project()
    new_votes, new_skips = item.c.votes + votes, item.c.skips + skips
    connection.execute(
        sa.update(item)
        .where(item.c.id == item_id)
        .values(
            votes=new_votes,
            skips=new_skips,
            open=sa.and_(
                item.c.gold.is_(None), new_votes < item.c.wanted, new_skips < project.most_skips
            ),
        )
    )


def _text(said: str) -> str | None:
    kept = said.replace("\0", "").strip()[:LONGEST_TEXT]
    return kept or None


def _seconds(measured: float | None, most: float) -> float:
    if measured is None or not math.isfinite(measured) or not 0 <= measured <= most + 5:
        return most
    return measured


def adjudicate_question(
    connection: sa.Connection, who: Person, item_id: int, said: Judgement, order: Sequence[int]
) -> Recorded:
    """Append a lead's decision on a disagreement; the item becomes gold.

    Raises:
        DataError: nothing is chosen.
    """
    if (before := _find_key(connection, who, said.key)) is not None:
        return before
    if said.choice not in CHOICES:
        raise DataError("nothing is chosen", "a decision is one of the seven", "choose one")
    tip = find_tip(connection, who.id, item_id, decision=True)
    made = connection.execute(
        sa.insert(event).values(
            key=said.key,
            person_id=who.id,
            item_id=item_id,
            kind="adjudication",
            supersedes=None if tip is None else tip["id"],
            protocol=ADJUDICATION,
            order=list(order),
            choice=said.choice,
            both_bad=said.both_bad,
            rationale=_text(said.rationale),
            rubric=current_rubric(connection)[0],
            device=said.device if said.device in DEVICES else "unknown",
            source="adjudication",
            made_at=time.time(),
        )
    )
    gold = {"strength": vote_strength(said.choice, order), "by": "adjudication"}
    connection.execute(sa.update(item).where(item.c.id == item_id).values(gold=gold, open=False))
    return Recorded(new_id(made), "adjudication")
