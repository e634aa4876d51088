"""What suites of answers share: outcomes of a judge, by category, also at equal length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tandem.data.record import Group
from tandem.evaluation.tables import CellValue, Table
from tandem.statistics import bounded_win_rate, length_controlled
from tandem.statistics.numerics import Floats


def outcome_table(
    title: str, credit: Floats, answers: Sequence[Group], against: Sequence[Group], part: str
) -> Table:
    """Lay out a policy's win rate, plain and at equal length.

    Length is counted in characters, as AlpacaEval does; an answer that is cut at the longest
    length allowed is shorter than it would be.

    Args:
        title: of the table.
        credit: [P] 1 won, 0 lost, .5 tied, or between; nan unreadable.
        answers: the policy's, one a prompt.
        against: the opponent's, in the same order.
        part: the field of the prompt's meta by which parts are shown, or "".
    """
    gap = np.array([_length(a) - _length(b) for a, b in zip(answers, against, strict=True)])
    unended = [
        np.array([not all(c.stopped for c in g.completions) for g in answered])
        for answered in (answers, against)
    ]
    names = [str(g.prompt.meta.get(part, "")) if part else "" for g in answers]
    rows: list[tuple[CellValue, ...]] = []
    for name in ("", *sorted({n for n in names if n})):
        of = [k for k, found in enumerate(names) if not name or found == name]
        mine, longer = credit[of], gap[of]
        read = ~np.isnan(mine)
        lc = length_controlled(mine[read], longer[read]) if read.sum() > 1 else None
        rows.append((name or "all", len(of), bounded_win_rate(mine), lc,
                     int((~read).sum()), float(longer.mean()),
                     *(int(cut[of].sum()) for cut in unended)))  # fmt: skip
    columns = (
        "part", "prompts", "win rate", "at equal length", "unreadable", "longer by", "cut",
        "opponent's cut",
    )  # fmt: skip
    return Table(columns, tuple(rows), title)


def scored_by_length(group: Group) -> Group:
    """Return the group with each answer's length in characters for its score: the ruler."""
    lengths = np.array([float(len(c.text)) for c in group.completions])
    return replace(group, scores=lengths)


def _length(group: Group) -> float:
    return float(np.mean([len(c.text) for c in group.completions]))
