"""The variance of a mean over training seeds and prompts.

With several seeds the design is crossed: every seed meets every prompt, so a number

    d[s, p] = mu + seed effect + prompt effect + noise

carries two kinds of chance. Claims are about new seeds and new prompts, so both count. A
percentile bootstrap over five seeds covers about 85 % where it says 95; the analysis of variance
of the crossed design with Student quantiles keeps 93 to 97 % (tests/theory/test_coverage.py).

Shapes: S seeds, P prompts.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from tandem.statistics.numerics import Floats, root, t_quantile

SMALLEST_P = 1e-12


class Spread(NamedTuple):
    """Squared standard error of a mean, and what its Student quantile needs."""

    variance: float
    df: float
    seed_share: float
    seed_df: float
    prompt_df: float

    def quantile(self, alpha: float) -> float:
        """Return the two-sided critical value at level alpha.

        The larger of Satterthwaite's and of the share-weighted (Cochran-Cox) one: the first is
        too sure when three seeds agree by luck, the second when there is no seed effect.
        """
        tail = alpha / 2
        mixed = 0.0
        if self.seed_share > 0:
            mixed += self.seed_share * t_quantile(tail, self.seed_df)
        if self.seed_share < 1:
            mixed += (1 - self.seed_share) * t_quantile(tail, self.prompt_df)
        return max(t_quantile(tail, self.df), mixed)

    def p_value(self, distance: float) -> float:
        """Return the level at which an interval of this spread just reaches `distance`."""
        if distance == 0:
            return 1.0
        if self.variance == 0:
            return 0.0
        t = abs(distance) / math.sqrt(self.variance)
        if self.quantile(SMALLEST_P) <= t:
            return SMALLEST_P
        return math.exp(
            root(lambda x: self.quantile(math.exp(x)) - t, math.log(SMALLEST_P), -1e-12)
        )


def spread_of(d: Floats) -> Spread:
    """Split the variance of the mean of d [S, P] into seeds, prompts and noise."""
    s, p = d.shape
    if s == 1 or p == 1:
        df = s * p - 1
        return Spread(float(d.var(ddof=1)) / (s * p), df, float(p == 1), df, df)
    mean, rows, columns = float(d.mean()), d.mean(axis=1), d.mean(axis=0)
    seed_square = p * float(rows.var(ddof=1))
    prompt_square = s * float(columns.var(ddof=1))
    noise = d - rows[:, None] - columns[None, :] + mean
    noise_df = (s - 1) * (p - 1)
    noise_square = float((noise**2).sum()) / noise_df
    if seed_square <= noise_square:
        return Spread(prompt_square / (s * p), p - 1, 0.0, s - 1, p - 1)
    total = seed_square + prompt_square - noise_square
    squares = (seed_square**2 / (s - 1), prompt_square**2 / (p - 1), noise_square**2 / noise_df)
    share = min(1.0, (seed_square - noise_square) / total)
    return Spread(total / (s * p), total**2 / sum(squares), share, s - 1, p - 1)
