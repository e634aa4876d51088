"""A trained reward's accuracy month by month, and how far each is from the first."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np

from tandem.data.chat.transcripts import prompt_key
from tandem.data.record import Group
from tandem.errors import DataError
from tandem.evaluation.tables import CellValue, Table
from tandem.evaluation.taste_shift import difference_of_samples, parse_time
from tandem.operators.columns import scores_of
from tandem.statistics import Estimate, rate_by_prompt


def accuracy_by_month(judged: Iterable[Group], column: str) -> Table:
    """Lay out how often a reward is right in each month, and the difference to the first month.

    Args:
        judged: groups with preferences, and the reward's scores.
        column: where their dates are, in `Prompt.meta`.

    Raises:
        DataError: no comparison has a date, or a score is missing or not finite.
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
        how = "two independent samples of prompts"
        gap = None if found is first else difference_of_samples(found, first, how)
        cells.append((month, len(told), found, gap))
    columns = ("month", "comparisons", "right", "less the first month")
    return Table(columns, tuple(cells), f"the reward by `{column}`")


def _rows(judged: Iterable[Group], column: str) -> Iterable[tuple[str, str, float]]:
    for group in judged:
        time = parse_time(group.prompt.meta.get(column))
        decided = [vote for vote in group.preferences if vote.p != 0.5]
        if time is None or not decided:
            continue
        scores, prompt = scores_of(group, "accuracy by month"), prompt_key(group.prompt)
        for vote in decided:
            gap = float(scores[vote.winner] - scores[vote.loser])
            yield f"{time:%Y-%m}", prompt, 0.5 * (1 + float(np.sign(gap)))
