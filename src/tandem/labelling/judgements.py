"""What counts now, as rows: every current vote with its item, in the item's own frame.

A comparison is one person's word on two answers of an item. A 7-point vote is one, a ranking of
K answers is one for every two that it ranks.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from tandem.labelling import vote_store
from tandem.labelling.schema import item, person

Unit = tuple[int, int, int]
"""An item and two places of answers in it, the smaller first."""


@dataclass(frozen=True)
class Vote:
    """One current vote.

    Attributes:
        event: the row of `event`.
        item: the row of `item`.
        pseudonym: under which the person is exported.
    """

    event: dict[str, Any]
    item: dict[str, Any]
    pseudonym: str

    @property
    def strength(self) -> int | None:
        """3 .. -3, positive where the item's first answer is better; None for a ranking."""
        choice = self.event["choice"]
        return None if choice is None else vote_store.vote_strength(choice, self.event["order"])

    def comparisons(self) -> Iterable[Comparison]:
        """Yield what the vote says about every two answers."""
        order = self.event["order"]
        shown = {place: k for k, place in enumerate(order)}
        if self.event["ranks"] is None:
            if self.strength is not None:
                yield Comparison(
                    (self.item["id"], 0, 1), self.pseudonym, self.strength, shown[0] < shown[1]
                )
            return
        ranks = vote_store.ranks_by_answer(self.event["ranks"], order)
        for i, j in itertools.combinations(range(len(order)), 2):
            a, b = ranks[i], ranks[j]
            if a is not None and b is not None:
                sign = (a < b) - (a > b)
                yield Comparison((self.item["id"], i, j), self.pseudonym, sign, shown[i] < shown[j])


@dataclass(frozen=True)
class Comparison:
    """One person on two answers.

    Attributes:
        strength: positive where the first of the unit is better, 0 a tie.
        first_shown_first: whether the first of the unit stood before the other on the page.
    """

    unit: Unit
    by: str
    strength: int
    first_shown_first: bool

    @property
    def picked_left(self) -> bool:
        """Whether the answer that stood first was preferred."""
        return (self.strength > 0) == self.first_shown_first


def load_votes(connection: sa.Connection, kinds: tuple[str, ...] = ("vote",)) -> list[Vote]:
    """Return the current events of these kinds, oldest first."""
    current = vote_store.current_events().subquery()
    rows = connection.execute(
        sa.select(
            *(c.label(f"event_{c.name}") for c in current.c),
            *(c.label(f"item_{c.name}") for c in item.c),
            person.c.pseudonym,
        )
        .join(item, item.c.id == current.c.item_id)
        .join(person, person.c.id == current.c.person_id)
        .where(current.c.kind.in_(kinds))
        .order_by(current.c.id)
    )
    return [_vote(dict(row._mapping)) for row in rows]


def _vote(row: dict[str, Any]) -> Vote:
    def part(prefix: str) -> dict[str, Any]:
        return {k.removeprefix(prefix): v for k, v in row.items() if k.startswith(prefix)}

    return Vote(part("event_"), part("item_"), row["pseudonym"])


def load_gold(connection: sa.Connection) -> dict[int, int]:
    """Return the known strength of each gold item, by its number."""
    rows = connection.execute(
        sa.select(item.c.id, item.c.gold).where(item.c.gold.is_not(sa.null()))
    )
    return {number: int(gold["strength"]) for number, gold in rows}
