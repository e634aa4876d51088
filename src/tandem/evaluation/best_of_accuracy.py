"""How often a reward puts what was chosen above all that was rejected: RewardBench 2's question.

One chosen answer among k is right where its score is above every rejected one's; where it shares
the highest score with others, it counts as one share of them. Chance is 1/k. Where several are
chosen (ties), all of them must be above all that were rejected.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tandem.data.chat.transcripts import prompt_key
from tandem.data.record import Group
from tandem.evaluation.tables import Table
from tandem.operators.columns import scores_of
from tandem.statistics import Estimate, rate_by_prompt
from tandem.statistics.numerics import Floats


def is_best_of(group: Group) -> bool:
    """True where every answer is either chosen above, or rejected below, all of the other side."""
    won, lost = {p.winner for p in group.preferences}, {p.loser for p in group.preferences}
    full = len(group.preferences) == len(won) * len(lost)
    return len(group) > 2 and not won & lost and len(won | lost) == len(group) and full


def best_of_credit(group: Group) -> float:
    """Return 1 where the chosen are above the rejected, a share where one ties with others.

    Raises:
        DataError: an answer has no score, or one that is not finite.
    """
    good, bad = scores_by_side(group)
    if len(good) > 1:
        return float(good.min() > bad.max())
    if good[0] < bad.max():
        return 0.0
    return 1 / (1 + int((bad == good[0]).sum()))


def scores_by_side(group: Group) -> tuple[Floats, Floats]:
    """Return the scores of the answers that were chosen, and of the others.

    Raises:
        DataError: an answer has no score, or one that is not finite.
    """
    won = sorted({p.winner for p in group.preferences})
    scores = scores_of(group, "best of k")
    return scores[won], np.delete(scores, won)


def accuracy_by_prompt(credit: npt.ArrayLike, groups: Sequence[Group]) -> Estimate:
    """Estimate the mean credit; groups of one prompt vary together, and no chance is tested."""
    found = rate_by_prompt(credit, [prompt_key(g.prompt) for g in groups])
    return replace(found, p_value=float("nan"), null=float("nan"))


def best_of_table(scored: Iterable[Group]) -> Table | None:
    """Return accuracy by subset (`prompt.meta["subset"]`), or None without such groups.

    Args:
        scored: groups with `scores` and preferences; others than best-of-k are passed over.

    Raises:
        DataError: a score is missing or not finite.
    """
    parts: dict[tuple[str, str], list[Group]] = {}
    for group in filter(is_best_of, scored):
        won = len({p.winner for p in group.preferences})
        kind = f"best of {len(group)}" if won == 1 else "all chosen above all rejected"
        parts.setdefault((str(group.prompt.meta.get("subset", "-")), kind), []).append(group)
    rows: list[tuple[Any, ...]] = [
        (
            *key,
            len(part),
            accuracy_by_prompt([best_of_credit(g) for g in part], part),
            float(np.mean([_chance(g) for g in part])),
        )
        for key, part in sorted(parts.items())
    ]
    columns = ("subset", "right where", "prompts", "accuracy", "chance")
    return Table(columns, tuple(rows), "chosen above rejected, by prompt") if rows else None


def _chance(group: Group) -> float:
    won = len({p.winner for p in group.preferences})
    return float(np.prod([(won - i) / (len(group) - i) for i in range(won)]))
