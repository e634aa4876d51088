"""How a language model compared: what the position decided, and what the letters left over.

Position bias grows as the labeller shrinks: the same position won in both orders in 18 % of the
pairs of the largest model of Lee et al. 2023 (arXiv:2309.00267), in 56 % of the smallest's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.errors import DataError
from tandem.judges.llm import AI_KEY
from tandem.runs.events import Events
from tandem.statistics import Estimate, by_prompt, rate_by_prompt


@dataclass(frozen=True)
class PositionBias:
    """How a language model compared.

    Attributes:
        pairs: compared pairs of different texts.
        same_position: share of readings where the same position won in both orders; None where
            one order was asked.
        first_position: share of readings, order by order, where the first position won.
        rest: mean mass on anything but the letters.
        sure: mean of |2p - 1|: 0 knows nothing, 1 is certain.
    """

    pairs: int
    same_position: Estimate | None
    first_position: Estimate
    rest: Estimate
    sure: float

    def __str__(self) -> str:
        lines = [f"{self.pairs} pairs compared; the first position won {self.first_position}"]
        if self.same_position is not None:
            lines.append(f"the same position won in both orders: {self.same_position}")
        lines.append(f"mass on other words {self.rest}; mean |2p - 1| {self.sure:.3f}")
        return "\n".join(lines)


def measure_position_bias(groups: Iterable[Group]) -> PositionBias:
    """Measure how far the order of two answers decided a `Labeller`'s preferences.

    Raises:
        DataError: no labelled pair.
    """
    same, first, rest, sure = _Column(), _Column(), _Column(), []
    for group in groups:
        sure += [abs(2 * p.p - 1) for p in group.preferences]
        for pair in group.prompt.meta.get(AI_KEY, {}).get("pairs", []):
            rest.add(group.id, [pair["rest"]])
            for row in pair["odds"]:
                first.add(group.id, [(1 + float(np.sign(d))) / 2 for d in row])
                same.add(group.id, [float(row[0] * row[1] > 0)] if len(row) == 2 else [])
    if not rest.values:
        raise DataError(
            "no pair was compared by a language model",
            "the readings are kept by `Labeller` in the prompts' meta",
            "judge groups with a `Labeller` first",
        )
    return PositionBias(
        pairs=len(rest.values),
        same_position=rate_by_prompt(same.values, same.owners) if same.values else None,
        first_position=rate_by_prompt(first.values, first.owners),
        rest=by_prompt(rest.values, rest.owners),
        sure=float(np.mean(sure)),
    )


class _Column:
    """Numbers, and the prompt that each belongs to."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.owners: list[str] = []

    def add(self, owner: str, values: list[float]) -> None:
        self.values += values
        self.owners += [owner] * len(values)


def position_bias(groups: Groups, *, events: Events) -> dict[str, Any]:
    """Stage: measure a labeller's position bias; returns `text` and the numbers for JSON."""
    found = measure_position_bias(groups)
    events.log("labelling", text=str(found))
    same = found.same_position
    return {
        "text": str(found),
        "pairs": found.pairs,
        "same_position": None if same is None else same.mean,
        "first_position": found.first_position.mean,
        "rest": found.rest.mean,
        "sure": found.sure,
    }
