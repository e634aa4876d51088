"""How often a reward puts what was chosen above all that was rejected: RewardBench 2's question.

One chosen answer among k is right where its score is above every rejected one's; where it shares
the highest score with others, it counts as one share of them. Chance is 1/k. Where several are
chosen (ties), all of them must be above all that were rejected.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from tandem.data.record import Group
from tandem.evaluation.tables import Table
from tandem.statistics import wilson


def is_best_of(group: Group) -> bool:
    """True where every answer is either chosen above, or rejected below, all of the other side."""
    won, lost = {p.winner for p in group.preferences}, {p.loser for p in group.preferences}
    full = len(group.preferences) == len(won) * len(lost)
    return len(group) > 2 and not won & lost and len(won | lost) == len(group) and full


def best_of_credit(group: Group) -> float:
    """Return 1 where the chosen are above the rejected, a share where one ties with others."""
    assert group.scores is not None
    won = sorted({p.winner for p in group.preferences})
    scores = np.asarray(group.scores, np.float64)
    good, bad = scores[won], np.delete(scores, won)
    if len(won) > 1:
        return float(good.min() > bad.max())
    if good[0] < bad.max():
        return 0.0
    return 1 / (1 + int((bad == good[0]).sum()))


def best_of_table(scored: Iterable[Group]) -> Table | None:
    """Return accuracy by subset (`prompt.meta["subset"]`), or None without such groups.

    Args:
        scored: groups with `scores` and preferences; others than best-of-k are passed over.
    """
    credits: dict[tuple[str, str], list[float]] = {}
    chance: dict[tuple[str, str], list[float]] = {}
    for group in filter(is_best_of, scored):
        won = len({p.winner for p in group.preferences})
        kind = f"best of {len(group)}" if won == 1 else "all chosen above all rejected"
        key = (str(group.prompt.meta.get("subset", "-")), kind)
        credits.setdefault(key, []).append(best_of_credit(group))
        ways = np.prod([(won - i) / (len(group) - i) for i in range(won)])
        chance.setdefault(key, []).append(float(ways))
    rows: list[tuple[Any, ...]] = [
        (subset, kind, len(found), wilson(sum(found), len(found)), float(np.mean(chance[key])))
        for key, found in sorted(credits.items())
        for subset, kind in [key]
    ]
    columns = ("subset", "right where", "prompts", "accuracy", "chance")
    return Table(columns, tuple(rows), "chosen above rejected, by prompt") if rows else None
