"""A trained reward's accuracy month by month, and how far each is from the first."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

import numpy as np

from tandem.data.record import Group
from tandem.errors import DataError
from tandem.evaluation.tables import CellValue, Table
from tandem.evaluation.taste_shift import Z, parse_time
from tandem.statistics import Estimate, rate_by_prompt


def accuracy_by_month(judged: Iterable[Group], column: str) -> Table:
    """Lay out how often a reward is right in each month, and the difference to the first month.

    Args:
        judged: groups with preferences, and the reward's scores.
        column: where their dates are, in `Prompt.meta`.

    Raises:
        DataError: no comparison has a date.
    """
    rows = sorted(_rows(judged, column))
    if not rows:
        raise DataError(
            f"no decided comparison has a date in the column `{column}`",
            "months are cut by dates: ISO 8601, as 2026-11-29, or seconds since 1970",
            "name the column that holds them",
        )
    cells: list[tuple[CellValue, ...]] = []
    first: Estimate | None = None
    for month, inside in itertools.groupby(rows, key=lambda row: row[0]):
        told = list(inside)
        found = rate_by_prompt([right for *_, right in told], [prompt for _, prompt, _ in told])
        first = first or found
        gap = None if found is first else _difference(found, first)
        cells.append((month, len(told), found, gap))
    columns = ("month", "comparisons", "right", "less the first month")
    return Table(columns, tuple(cells), f"the reward by `{column}`")


def _rows(judged: Iterable[Group], column: str) -> Iterable[tuple[str, str, float]]:
    for group in judged:
        time = parse_time(group.prompt.meta.get(column))
        for vote in group.preferences:
            if time is not None and vote.p != 0.5 and group.scores is not None:
                gap = float(group.scores[vote.winner] - group.scores[vote.loser])
                yield f"{time:%Y-%m}", group.prompt.text, 0.5 * (1 + float(np.sign(gap)))


def _difference(a: Estimate, b: Estimate) -> Estimate:
    se = math.hypot(a.se, b.se)
    gap = a.mean - b.mean
    how = "two independent samples of prompts"
    return Estimate(gap, gap - Z * se, gap + Z * se, min(a.n, b.n), float("nan"), how, se)
