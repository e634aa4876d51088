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
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tandem.statistics.numerics import Floats, chi_squared_quantile, find_root, t_quantile, t_tails

ALPHA = 0.05
SMALLEST_P = 1e-12


@dataclass(frozen=True, slots=True)
class Crossed:
    """Mean squares of a crossed design.

    Their expectations are noise + P seed, noise + S prompt, and noise, each a variance, so the
    variance of the grand mean is (seed_square + prompt_square - noise_square) / (S P). When no
    seed effect shows (seed_square <= noise_square) it is prompt_square / (S P).
    """

    seeds: int
    prompts: int
    seed_square: float
    prompt_square: float
    noise_square: float

    @property
    def variance(self) -> float:
        """Variance of the grand mean."""
        return self._total / (self.seeds * self.prompts)

    def quantile(self, alpha: float = ALPHA) -> float:
        """Return the two-sided critical value at level alpha, in standard errors.

        The larger of Satterthwaite's and of the share-weighted (Cochran-Cox) one: the first is
        too sure when three seeds agree by luck, the second when there is no seed effect.
        """
        mixed, share = 0.0, self._seed_share
        if share > 0:
            mixed += share * t_quantile(alpha / 2, self._seed_df)
        if share < 1:
            mixed += (1 - share) * t_quantile(alpha / 2, self._prompt_df)
        return max(t_quantile(alpha / 2, self._df), mixed)

    def p_value(self, distance: float) -> float:
        """Return the two-sided p-value of a mean this far from the truth supposed.

        It is below .05 exactly when the 95 % interval leaves the supposed truth out. Below .05
        it is at least the generalised p-value (`_cautious`): in a family of comparisons the far
        tail decides, and there a seed variance found small by luck would be believed too much.
        """
        if distance == 0:
            return 1.0
        if self.variance == 0:
            return 0.0
        t = abs(distance) / math.sqrt(self.variance)
        low, high = math.log(SMALLEST_P), -SMALLEST_P
        if self.quantile(math.exp(high)) >= t:
            return 1.0
        if self.quantile(SMALLEST_P) <= t:
            plain = SMALLEST_P
        else:
            plain = math.exp(find_root(lambda x: self.quantile(math.exp(x)) - t, low, high))
        if plain >= ALPHA or min(self.seeds, self.prompts) == 1:
            return plain
        return max(plain, min(self._cautious(distance), math.nextafter(ALPHA, 0)))

    def _cautious(self, distance: float) -> float:
        """Return the generalised p-value of Weerahandi, averaged over what seeds may be like.

        The seed variance is not known but has a distribution given its mean square: it is
        (seed_df seed_square / W - noise_square) / P with W chi-squared of seed_df.
        """
        weight, chi_squared = _nodes(self._seed_df)
        by_seed = self._seed_df * self.seed_square / chi_squared - self.noise_square
        variance = (np.maximum(by_seed, 0) + self.prompt_square) / (self.seeds * self.prompts)
        return float(2 * weight @ t_tails(abs(distance) / np.sqrt(variance), self._prompt_df))

    @property
    def _total(self) -> float:
        extra = max(0.0, self.seed_square - self.noise_square)
        return self.prompt_square + extra

    @property
    def _seed_share(self) -> float:
        extra = max(0.0, self.seed_square - self.noise_square)
        return min(1.0, extra / self._total) if extra else 0.0

    @property
    def _seed_df(self) -> int:
        return max(1, self.seeds - 1)

    @property
    def _prompt_df(self) -> int:
        return max(1, self.prompts - 1)

    @property
    def _df(self) -> float:
        if self.seed_square <= self.noise_square:
            return self._prompt_df
        squares = (
            self.seed_square**2 / self._seed_df,
            self.prompt_square**2 / self._prompt_df,
            self.noise_square**2 / (self._seed_df * self._prompt_df),
        )
        return self._total**2 / sum(squares)


def crossed_squares(d: Floats) -> Crossed:
    """Return the mean squares of d [S, P]; with one seed or one prompt there is one square."""
    s, p = d.shape
    if s == 1:
        return Crossed(1, p, 0.0, float(d.var(ddof=1)), 0.0)
    if p == 1:
        return Crossed(s, 1, float(d.var(ddof=1)), 0.0, 0.0)
    rows, columns = d.mean(axis=1), d.mean(axis=0)
    noise = d - rows[:, None] - columns[None, :] + d.mean()
    return Crossed(
        seeds=s,
        prompts=p,
        seed_square=p * float(rows.var(ddof=1)),
        prompt_square=s * float(columns.var(ddof=1)),
        noise_square=float((noise**2).sum()) / ((s - 1) * (p - 1)),
    )


@lru_cache(maxsize=32)
def _nodes(df: int) -> tuple[Floats, Floats]:
    """Return weights and values that average a function over a chi-squared variable."""
    place, weight = np.polynomial.legendre.leggauss(256)
    return weight / 2, chi_squared_quantile((place + 1) / 2, df)
