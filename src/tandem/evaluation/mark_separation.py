"""How well a score tells good answers from bad ones, where single answers were marked.

    AUC = P(score of a good answer > score of a bad one) + P(equal) / 2

one good and one bad answer drawn at random, of any two prompts (Mann and Whitney 1947). It needs
no pairs, so it is the exam of data with thumbs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tandem.data.record import Group
from tandem.statistics import auroc
from tandem.statistics.numerics import Floats

ENOUGH = 30
"""Good and bad answers below which no verdict is given."""


@dataclass(frozen=True)
class MarkSeparation:
    """Scores of marked answers.

    Attributes:
        good: answers marked good.
        bad: answers marked bad.
        good_score: mean score of the good ones; nan without any.
        bad_score: mean score of the bad ones; nan without any.
        auc: share of (good, bad) that the score orders rightly; nan without both.
    """

    good: int
    bad: int
    good_score: float
    bad_score: float
    auc: float

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers for JSON; None for what could not be measured."""
        return {k: None if v != v else v for k, v in asdict(self).items()}

    def __str__(self) -> str:
        rows = (self.good, "good", self.good_score), (self.bad, "bad", self.bad_score)
        lines = [
            f"{n} answers marked {mark}" + (f", mean score {mean:+.4f}" if n else "")
            for n, mark, mean in rows
        ]
        if np.isnan(self.auc):
            return "\n".join([*lines, "no order can be measured: one of the marks is missing"])
        lines.append(f"a good answer scores above a bad one in {self.auc:.1%} (0.5 is chance)")
        if min(self.good, self.bad) < ENOUGH:
            lines.append(f"no verdict below {ENOUGH} answers of each mark")
        return "\n".join(lines)


def separate_marks(scores: Floats, good: Floats) -> MarkSeparation:
    """Measure how scores order marked answers.

    Args:
        scores: [N] a score each.
        good: [N] 1 where the answer was marked good, 0 where bad.
    """
    high, low = scores[good == 1], scores[good == 0]
    marked = (good == 1) | (good == 0)
    auc = auroc(scores[marked], good[marked] == 1)
    means = [float(part.mean()) if len(part) else float("nan") for part in (high, low)]
    return MarkSeparation(len(high), len(low), means[0], means[1], auc)


def marks_of(groups: Iterable[Group]) -> Floats:
    """Return [N] the marks of groups of single answers, 1 good and 0 bad."""
    return np.array([x for g in groups if g.scores is not None for x in g.scores], np.float64)
