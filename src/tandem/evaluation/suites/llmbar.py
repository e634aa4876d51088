"""LLMBar: which of two outputs follows the instruction (Zeng et al. 2024, arXiv:2310.07641).

419 pairs whose better output is beyond dispute. In the natural ones both are ordinary; in the
adversarial ones the worse output looks better: longer, more polished, about something else. They
are reported apart, and never as one number alone. A comparing judge is asked in both orders; a
judge that only follows the position is right in half.

A verdict that cannot be read is right in none and in all: its bounds are the interval's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from tandem.data.record import Group
from tandem.errors import DataError
from tandem.evaluation.suites import SuiteResult
from tandem.evaluation.suites.answers import scored_by_length
from tandem.evaluation.tables import CellValue, Table
from tandem.statistics import bounded_win_rate
from tandem.statistics.numerics import Floats

NATURAL = "natural"


def score_labels(asked: Sequence[Group], judged: Sequence[Group]) -> SuiteResult:
    """Score a judge.

    Args:
        asked: the pairs with their gold preference, `subset` in the prompt's meta where there
            are several.
        judged: the same pairs with the judge's own preference, or its scores.
    """
    credit = label_credits(asked, judged)
    ruler = label_credits(asked, [scored_by_length(replace(g, preferences=())) for g in asked])
    names = [_part(group) for group in asked]
    rows: list[tuple[CellValue, ...]] = []
    parts = list(dict.fromkeys(names))
    for name in (*parts, *["all"] * (len(parts) > 1)):
        of = [k for k, found in enumerate(names) if name in ("all", found)]
        mine = credit[of]
        rows.append((name, len(of), bounded_win_rate(mine), bounded_win_rate(ruler[of]),
                     int(np.isnan(mine).sum())))  # fmt: skip
    columns = ("part", "pairs", "judge right", "longer output right", "unreadable")
    table = Table(columns, tuple(rows), "LLMBar; 95 % intervals over pairs, chance .5")
    return SuiteResult(str(table), {"parts": table.as_dicts()})


def label_credits(asked: Iterable[Group], judged: Iterable[Group]) -> Floats:
    """Return [P] how far a judge agrees with the gold label; nan where it gave none.

    Raises:
        DataError: a pair has no gold label.
    """
    credits: list[float] = []
    for gold, said in zip(asked, judged, strict=True):
        if not gold.preferences:
            raise DataError(
                f"pair `{gold.id}` has no label",
                "the suite knows which output is better",
                "give LLMBar's file: rows with `input`, `output_1`, `output_2`, `label`",
            )
        vote = gold.preferences[0]
        p = _said(said, vote.i, vote.j)
        credits.append(p if vote.p > 0.5 else 1 - p)
    return np.array(credits)


def _said(group: Group, i: int, j: int) -> float:
    """P(completion i is better), as hard as a verdict; nan where nothing was said."""
    if group.preferences:
        vote = group.preferences[0]
        p = vote.p if (vote.i, vote.j) == (i, j) else 1 - vote.p
        return 0.5 + 0.5 * float(np.sign(p - 0.5))
    if group.scores is None:
        return float("nan")
    return 0.5 + 0.5 * float(np.sign(group.scores[i] - group.scores[j]))


def _part(group: Group) -> str:
    named = str(group.prompt.meta.get("subset", group.prompt.meta.get("source", ""))).lower()
    return "all pairs" if not named else NATURAL if NATURAL in named else f"adversarial {named}"
