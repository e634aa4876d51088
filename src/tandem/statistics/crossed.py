"""The variance of a mean over training seeds and prompts, and the test that goes with it.

With several seeds the design is crossed: every seed meets every prompt, so a number

    d[s, p] = mu + seed effect + prompt effect + noise

carries two kinds of chance. Claims are about new seeds and new prompts, so both count. The
analysis of variance of the crossed design says how much of each there is. What it is used for
covers what it says for seed effects that are about normal (docs/results/coverage.md); one seed
that falls out of line is no such effect, see `deviant_seeds`.

Every statistic that pools seeds and prompts goes through here: a mean with its numbers, a fit
with its influence values, which say how much each number moves the fit.

Shapes: S seeds, P prompts; leading dimensions are experiments of their own, done at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from tandem.statistics.numerics import (
    Floats,
    Numbers,
    chi_squared_quantile,
    f_quantile,
    find_root,
    t_quantile,
    t_tails,
)

ALPHA = 0.05
UNLIKELY = 0.01
"""Prompts that differ less than noise alone would let them, this rarely, do so by luck."""
ROUNDING = 1e-12
"""Squares this small beside the largest number are rounding, no spread."""
LOG_ALPHA = float(np.log(ALPHA))
WIDEST, HALVINGS = 1e6, 40
"""Where the search for critical values of many experiments ends, in standard errors."""

Number = Any
"""A float, or an array of them: one an experiment."""


@dataclass(frozen=True, slots=True)
class Crossed:
    """Mean squares of a crossed design.

    Their expectations are noise + P seed, noise + S prompt, and noise, each a variance, so the
    variance of the grand mean is (seed_square + prompt_square - noise_square) / (S P). When no
    seed effect shows (seed_square <= noise_square) it is prompt_square / (S P).

    Attributes:
        seeds: S.
        prompts: P.
        seed_square: P times the variance of the seeds' means.
        prompt_square: S times the variance of the prompts' means; where it is smaller than noise
            alone would make it, the two are pooled.
        noise_square: variance of what is left.
        prompt_df: degrees of freedom of `prompt_square`.
    """

    seeds: int
    prompts: int
    seed_square: Number
    prompt_square: Number
    noise_square: Number
    prompt_df: Number

    @property
    def variance(self) -> Number:
        """Variance of the grand mean; 0 where all numbers are equal."""
        return self._total / (self.seeds * self.prompts)

    @property
    def df(self) -> Number:
        """Satterthwaite's degrees of freedom of the variance."""
        if self.seeds == 1:
            return self.prompt_df
        extra, seed_df = self._extra, self.seeds - 1
        squares = (
            self.seed_square**2 / seed_df
            + self.prompt_square**2 / self.prompt_df
            + self.noise_square**2 / (seed_df * max(1, self.prompts - 1))
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            mixed = np.maximum(1.0, self._total**2 / squares)
        return np.asarray(np.where(extra > 0, mixed, self.prompt_df), np.float64)

    def p_value(self, distance: Number) -> Number:
        """Return the two-sided p-value of a mean this far from the truth supposed.

        Satterthwaite's p-value believes a seed variance that few seeds found small by luck. The
        generalised one of Weerahandi averages over what the seed variance may be, and is too
        careful with three seeds or more. The p-value is their geometric mean: with two seeds the
        generalised one alone, and ever less of it with more seeds.

        Below .05 it is at least the generalised one: in a family of comparisons the far tail
        decides. It is below .05 exactly when the 95 % interval leaves the supposed truth out.
        Where there is no spread it is nan.
        """
        p = self._p_value(np.abs(np.asarray(distance, np.float64)))
        return float(p) if np.ndim(p) == 0 else p

    @property
    def half_width(self) -> Number:
        """Half the length of the 95 % interval; nan where there is no spread."""
        se = np.sqrt(np.asarray(self.variance, np.float64))
        if se.ndim == 0:
            return float(se) * self._critical(float(se)) if se > 0 else float("nan")
        low, high = np.zeros(se.shape), np.full(se.shape, np.log(WIDEST))
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            inside = self._log_p(se * np.exp(middle)) > LOG_ALPHA
            low, high = np.where(inside, middle, low), np.where(inside, high, middle)
        return se * np.exp((low + high) / 2)

    def _critical(self, se: float) -> float:
        """Return the half width in standard errors."""
        if self.seeds == 1:
            return t_quantile(ALPHA / 2, float(self.prompt_df))

        def above(log_t: float) -> float:
            return float(self._log_p(np.float64(se * np.exp(log_t)))) - LOG_ALPHA

        high = 1.5
        while above(high) > 0:
            high += 1.5
        return float(np.exp(find_root(above, high - 1.5, high)))

    def _p_value(self, distance: Numbers) -> Floats:
        p = np.exp(self._log_p(distance))
        if self.seeds == 1:
            return p
        careful = np.where(self.variance > 0, self._generalised(distance), np.nan)
        below = np.maximum(p, np.minimum(careful, np.nextafter(ALPHA, 0)))
        return np.where(p < ALPHA, below, p)

    def _log_p(self, distance: Numbers) -> Floats:
        """Blend the two p-values."""
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.where(self.variance > 0, distance / np.sqrt(self.variance), np.nan)
            plain = np.log(2 * t_tails(t, self.df))
            if self.seeds == 1:
                return plain
            careful = np.log(self._generalised(distance))
            weight = caution(self.seeds, self.prompts)
            return careful if weight == 1 else (1 - weight) * plain + weight * careful

    def _generalised(self, distance: Numbers) -> Floats:
        """Average the p-value over what the seed variance may be, given its mean square.

        It is (seed_df seed_square / W - noise_square) / P with W chi-squared of seed_df.
        """
        weight, chi_squared = _nodes(self.seeds - 1)
        squares = (self.seed_square, self.noise_square, self.prompt_square, self.prompt_df)
        seed, noise, prompt, df = (np.asarray(x, np.float64)[..., None] for x in squares)
        by_seed = np.maximum((self.seeds - 1) * seed / chi_squared - noise, 0)
        deviation = np.sqrt((by_seed + prompt) / (self.seeds * self.prompts))
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.asarray(distance)[..., None] / deviation
        return 2 * (t_tails(t, df) @ weight)

    @property
    def _extra(self) -> Number:
        return np.maximum(0.0, self.seed_square - self.noise_square)

    @property
    def _total(self) -> Number:
        return self.prompt_square + self._extra


def crossed_squares(d: npt.ArrayLike, *, share: bool = False) -> Crossed:
    """Return the mean squares of d [..., S, P], of two prompts or more.

    Args:
        d: numbers, or influence values, of every seed on every prompt.
        share: the numbers are wins and losses. Half of what there is to know about their variance
            follows from their mean, so the prompts count for twice their degrees of freedom.
    """
    x = np.asarray(d, np.float64)
    s, p = x.shape[-2:]
    df = float((p - 1) * (2 if share else 1))
    rows, columns, mean = x.mean(axis=-1), x.mean(axis=-2), x.mean(axis=(-1, -2))
    floor = (ROUNDING * np.abs(x).max(axis=(-1, -2))) ** 2
    by_prompt = _squares(s * columns.var(axis=-1, ddof=1), floor)
    if s == 1:
        return Crossed(1, p, 0.0, by_prompt, 0.0, df)
    left = x - rows[..., :, None] - columns[..., None, :] + mean[..., None, None]
    noise = _squares((left**2).sum(axis=(-1, -2)) / ((s - 1) * (p - 1)), floor)
    by_seed = _squares(p * rows.var(axis=-1, ddof=1), floor)
    low = by_prompt <= f_quantile(UNLIKELY, p - 1, (s - 1) * (p - 1)) * noise
    pooled = (by_prompt + (s - 1) * noise) / s
    prompt_df = np.where(low, s * df, df)
    return Crossed(s, p, by_seed, np.where(low, pooled, by_prompt), noise, prompt_df)


def caution(seeds: int, prompts: int) -> float:
    """Return the weight of the generalised p-value: 1 with two seeds, at most .38 with three.

    With few prompts it is less, because there the prompts' own quantiles are wide already.
    Weights were chosen by simulation for coverage of 93 to 98 % (experiments/coverage.py).
    """
    return (3 / (seeds**2 - 1)) ** (1 + 20 / prompts)


def deviant_seeds(d: npt.ArrayLike, alpha: float = ALPHA) -> list[int]:
    """Return the rows of d [S, P] whose seed falls out of line with the other seeds.

    Each seed's mean is compared with the others' by Student's t (Grubbs), with Bonferroni over
    the seeds; the others' spread is at least what noise gives. With two seeds nobody can say
    which of them is out of line, with three it takes a very large distance.

    An interval over seeds supposes effects that are about normal. A seed that diverged breaks
    this, and no interval mends it: look at that seed, and train more of them.

    Args:
        d: one row a seed, on the same prompts.
        alpha: chance of pointing at any seed where all are alike.
    """
    x = np.atleast_2d(np.asarray(d, np.float64))
    s, p = x.shape
    if s < 3 or not np.isfinite(x).all():
        return []
    means = x.mean(axis=1)
    least = crossed_squares(x).noise_square / p if p > 1 else 0.0
    found: list[int] = []
    for k in range(s):
        others = np.delete(means, k)
        variance = max(float(others.var(ddof=1)), float(least)) * s / (s - 1)
        distance = abs(float(means[k] - others.mean()))
        least_seen = ROUNDING * float(np.abs(means).max())
        far = t_quantile(alpha / (2 * s), s - 2) * float(np.sqrt(variance))
        if distance > max(far, least_seen):
            found.append(k)
    return found


def _squares(x: Any, floor: Any) -> Any:
    """Call rounding zero."""
    return np.where(x <= floor, 0.0, x)


@lru_cache(maxsize=32)
def _nodes(df: int) -> tuple[Floats, Floats]:
    """Return weights and values that average a function over a chi-squared variable."""
    place, weight = np.polynomial.legendre.leggauss(64)
    return weight / 2, chi_squared_quantile((place + 1) / 2, df)
