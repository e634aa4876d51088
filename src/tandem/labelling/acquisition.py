"""What to ask next: the items on which several rewards differ, and how good they are so far.

Each member of a small ensemble gives P(an answer is better) = sigmoid(difference of its rewards).
An item's priority is the standard deviation of that over the members: where it is large, a vote
tells them apart; where they all say .5, it may be a true tie. Accuracy is on held-out prompts
alone, which are drawn uniformly and never trained on.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from tandem.labelling.judgements import Unit
from tandem.labelling.schema import item
from tandem.statistics.rates import wilson

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Priority:
    """How much an item is worth asking, and why."""

    value: float
    why: str


def rate_item(scores: Sequence[Sequence[float]]) -> Priority:
    """Return the priority of an item from the members' scores [members, answers].

    A ranking takes the pair on which the members differ most.
    """
    r = np.asarray(scores, np.float64)
    best = Priority(-1.0, "")
    for i, j in itertools.combinations(range(r.shape[1]), 2):
        p = 1 / (1 + np.exp(-(r[:, i] - r[:, j])))
        spread = float(p.std())
        if spread > best.value:
            said = ", ".join(f"{x:.2f}" for x in p)
            best = Priority(
                spread,
                f"{len(p)} rewards say P(answer {i + 1} beats {j + 1}) = {said}: spread "
                f"{spread:.3f}",
            )
    return best


def save_priorities(connection: sa.Connection, rated: Mapping[int, Priority]) -> None:
    """Keep the priorities of items that are still open."""
    for number, priority in rated.items():
        connection.execute(
            sa.update(item)
            .where(item.c.id == number, item.c.open)
            .values(priority=priority.value, why=priority.why)
        )


def pool_accuracy(
    scores: Mapping[int, Sequence[float]], said: Mapping[Unit, float]
) -> dict[str, Any]:
    """Return how often the mean reward agrees with held-out labels, with Wilson's interval.

    Of two equal scores it agrees half.

    Args:
        scores: item -> mean score of each answer.
        said: unit -> P(its first answer is better) by people; one half is left out.
    """
    right = [
        0.5 + 0.5 * float(np.sign(scores[u[0]][u[1]] - scores[u[0]][u[2]]) * np.sign(p - 0.5))
        for u, p in said.items()
        if p != 0.5 and u[0] in scores
    ]
    if not right:
        return {"accuracy": None, "low": None, "high": None, "n": 0}
    found = wilson(sum(right), len(right))
    return {"accuracy": found.mean, "low": found.low, "high": found.high, "n": len(right)}
