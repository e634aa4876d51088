"""How sure a number is: means and paired differences with their intervals.

The prompt is the unit, and methods are compared on the same prompts and seeds (paired). Where no
interval can be had its ends are nan, and `method` says why.

Shapes: S seeds, P prompts, N rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tandem.errors import DataError
from tandem.rng import Seed
from tandem.statistics.crossed import ALPHA, ROUNDING, Crossed, crossed_squares
from tandem.statistics.numerics import Floats, Ints

NO_INTERVAL = "no interval"
FEWEST_UNITS = 10
"""Prompts below which a bootstrap has nothing to resample."""
ONE_PROMPT = f"{NO_INTERVAL}: one prompt says nothing about other prompts"
NO_SPREAD = f"{NO_INTERVAL}: all numbers are equal, so nobody sees how much they vary"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95 % interval.

    Attributes:
        mean: the estimate.
        low: lower end of the interval; nan where there is none.
        high: upper end of the interval; nan where there is none.
        n: number of prompts (of units) behind it.
        p_value: two-sided, of the hypothesis that the truth is `null`; nan where none is tested.
        method: how the interval was made, or why there is none, in words.
        se: standard error.
        seeds: number of training seeds behind it.
        null: the value that would mean "no difference".
    """

    mean: float
    low: float
    high: float
    n: int
    p_value: float
    method: str
    se: float
    seeds: int = 1
    null: float = 0.0

    @property
    def resolved(self) -> bool:
        """True when the interval leaves out the value that would mean no difference."""
        return self.low > self.null or self.high < self.null

    def scale_by(self, factor: float) -> Estimate:
        """Return the same estimate in another unit: everything times a positive factor."""
        return replace(
            self,
            mean=self.mean * factor,
            low=self.low * factor,
            high=self.high * factor,
            se=self.se * factor,
            null=self.null * factor,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON; nan becomes None."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in fields.items()
        }

    def __str__(self) -> str:
        if math.isnan(self.low) and math.isnan(self.high):
            return f"{self.mean:.3f} ({self.method or NO_INTERVAL})"
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def without_interval(mean: float, n: int, why: str, seeds: int = 1, null: float = 0.0) -> Estimate:
    """Return a number that has no interval, and why."""
    nan = float("nan")
    return Estimate(mean, nan, nan, n, nan, why, nan, seeds, null)


def read_design(x: npt.ArrayLike, name: str) -> Floats:
    """Read [P] or [S, P] numbers as [S, P].

    Raises:
        DataError: wrong shape, no number at all, or a number that is not finite.
    """
    values = np.asarray(x, np.float64)
    if values.ndim == 1:
        values = values[None, :]
    if values.ndim != 2 or values.size < 1:
        raise DataError(
            f"`{name}` has shape {np.shape(x)}",
            "an estimate needs numbers: [prompts], or [seeds, prompts] where every seed meets "
            "the same prompts",
            "give one number a prompt, or one row a seed",
        )
    if not np.isfinite(values).all():
        s, p = np.argwhere(~np.isfinite(values))[0]
        raise DataError(
            f"`{name}` is {values[s, p]} at seed {s}, prompt {p}",
            "leaving it out would compare the methods on different prompts",
            "drop this prompt from every method, or repair the judge that wrote it",
        )
    return values


def describe_design(seeds: int) -> str:
    """Say in words over what an interval is."""
    if seeds == 1:
        return "t over prompts, one seed (says nothing about other seeds)"
    return "crossed seeds x prompts, for seed effects that are about normal"


def mean_of(x: npt.ArrayLike, *, null: float = 0.0) -> Estimate:
    """Estimate a mean over prompts, and over training seeds where there are several.

    There is no interval with one prompt, nor where all numbers are equal. For shares, whose
    interval has to stay inside [0, 1], see `share_of`.

    Args:
        x: [P] or [S, P]; every seed meets the same prompts.
        null: the value tested by the p-value.

    Raises:
        DataError: no number, or numbers that are not finite.
    """
    values = read_design(x, "x")
    s, p = values.shape
    mean = float(values.mean())
    if p == 1:
        return without_interval(mean, p, ONE_PROMPT, s, null)
    return estimate_mean(mean, crossed_squares(values), null)


def estimate_mean(
    mean: float, spread: Crossed, null: float = 0.0, method: str | None = None
) -> Estimate:
    """Join a mean and the mean squares behind it to an estimate."""
    s, p = spread.seeds, spread.prompts
    if not spread.variance > 0:
        return without_interval(mean, p, NO_SPREAD, s, null)
    half, se = spread.half_width, float(np.sqrt(spread.variance))
    p_value = float(spread.p_value(mean - null))
    how = method or describe_design(s)
    return Estimate(mean, mean - half, mean + half, p, p_value, how, se, s, null)


def paired_difference(a: npt.ArrayLike, b: npt.ArrayLike) -> Estimate:
    """Estimate how much higher a is than b, on the same prompts and seeds.

    The variance of the mean of d = a - b is, from the mean squares of the crossed design,
    (MS_seeds + MS_prompts - MS_noise) / (S P); when no seed effect shows it is
    MS_prompts / (S P). In simulations its 95 % interval covers between 93 and 98 % for 3 to 10
    seeds, for seed effects that are about normal (docs/results/coverage.md); with 2 it is wide.
    With one seed it is the ordinary paired t interval over prompts.

    Args:
        a: [P] or [S, P] one number a prompt, or one row a seed.
        b: the same shape; [p] and [s, p] of both are the same prompt and the same seed.

    Raises:
        DataError: shapes differ, no number, or numbers that are not finite.
    """
    first, second = read_design(a, "a"), read_design(b, "b")
    if first.shape != second.shape:
        raise DataError(
            f"`a` has shape {np.shape(a)} and `b` has shape {np.shape(b)}",
            "a paired comparison needs the same prompts and the same seeds on both sides",
            "judge both methods on the same prompts, in the same order",
        )
    return mean_of(first - second)


def mean_over_seeds(x: npt.ArrayLike, *, null: float = 0.0) -> Estimate:
    """Estimate the mean of numbers that each training seed gives once, by Student's t over seeds.

    For what is one number a seed, such as the peak of a curve. Where each seed has a number on
    every prompt use `mean_of`, which counts the prompts' share too.

    Args:
        x: [S].
        null: the value tested by the p-value.
    """
    values = read_design(x, "x")
    if values.shape[0] != 1:
        raise DataError(
            f"`x` has shape {np.shape(x)}",
            "a mean over seeds is about one number a seed",
            "average each seed first, or use `mean_of` for numbers on the same prompts",
        )
    found, s = mean_of(values, null=null), values.shape[1]
    how = "t over seeds" if found.se > 0 else found.method
    if s == 1:
        how = f"{NO_INTERVAL}: one seed says nothing about other seeds"
    return replace(found, seeds=s, method=how)


def deviations(rows: Floats) -> Floats:
    """Return rows less their mean; what is rounding alone is 0."""
    left = rows - rows.mean()
    return np.where(np.abs(left) <= ROUNDING * np.abs(rows).max(), 0.0, left)


def cell_sums(residual: Floats, prompt: npt.ArrayLike, seed: npt.ArrayLike | None = None) -> Floats:
    """Add up what rows contribute to an estimate, by seed and prompt.

    A cell without rows contributes nothing, so seeds need not have met every prompt.

    Args:
        residual: [..., N] influence of each row on the estimate; they add up to its error.
        prompt: [N] which prompt each row belongs to.
        seed: [N] which training seed; all rows are of one seed unless given.

    Returns:
        [..., S, P], times the number of cells, so that the mean is what the residuals add up to.
    """
    units, column = np.unique(np.asarray(prompt), return_inverse=True)
    seeds, row = (
        np.unique(np.asarray(seed), return_inverse=True)
        if seed is not None
        else (np.zeros(1), np.zeros(len(column), np.int64))
    )
    cells, place = len(seeds) * len(units), row.ravel() * len(units) + column.ravel()
    flat = np.atleast_2d(residual)
    sums: Floats = np.stack([np.bincount(place, r, cells) for r in flat]) * float(cells)
    return sums.reshape(*np.shape(residual)[:-1], len(seeds), len(units))


def by_prompt(
    values: npt.ArrayLike,
    prompt: Sequence[Any] | npt.NDArray[Any],
    seed: Sequence[Any] | npt.NDArray[Any] | None = None,
) -> Estimate:
    """Estimate the mean of rows that come in prompts of different sizes.

    The ratio estimator with its linearised variance: rows of one prompt, or of one seed, are not
    independent. A t interval over prompts, and over seeds where they are given.

    Args:
        values: [N] one number a row.
        prompt: [N] which prompt each row belongs to.
        seed: [N] which training seed each row belongs to.
    """
    rows = np.asarray(values, np.float64)
    mean = float(rows.mean())
    cells = cell_sums(deviations(rows) / len(rows), prompt, seed)
    s, p = cells.shape
    if p == 1:
        return without_interval(mean, p, ONE_PROMPT, s)
    how = "t over prompts, clustered" if s == 1 else f"{describe_design(s)}, clustered"
    return replace(estimate_mean(mean, crossed_squares(cells), 0.0, how), p_value=float("nan"))


def bootstrap(
    statistic: Callable[[Ints], float],
    prompt: Sequence[Any] | npt.NDArray[Any],
    *,
    draws: int = 500,
    seed: Seed | None = None,
) -> Estimate:
    """Estimate any statistic of rows by resampling whole prompts.

    The percentile interval, moved by the bootstrap's own bias: resampling adds noise, and a
    statistic such as ECE grows with noise, so that its plain percentiles may lie above it all.
    For many prompts. Over a handful it is too sure of itself: below ten there is no interval.

    Args:
        statistic: rows' indices -> number; nan (a resample without errors, say) is left out.
        prompt: [N] which prompt each row belongs to.
        draws: number of resamples.
        seed: where the resampling starts.
    """
    units, owner = np.unique(np.asarray(prompt), return_inverse=True)
    order = np.argsort(owner, kind="stable")
    members: list[Ints] = np.split(order, np.cumsum(np.bincount(owner))[:-1])
    mean = float(statistic(np.arange(len(order))))
    if len(units) < FEWEST_UNITS:
        few = f"{len(units)} prompts are too few to resample, {FEWEST_UNITS} the fewest"
        why = ONE_PROMPT if len(units) == 1 else f"{NO_INTERVAL}: {few}"
        return without_interval(mean, len(units), why)
    rng = (seed or Seed()).at("bootstrap").rng()
    values = np.empty(draws)
    for k in range(draws):
        drawn: list[int] = rng.integers(len(units), size=len(units)).tolist()
        values[k] = statistic(np.concatenate([members[u] for u in drawn], dtype=np.int64))
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return without_interval(mean, len(units), f"{NO_INTERVAL}: undefined when resampled")
    if np.ptp(values) == 0:
        return without_interval(mean, len(units), NO_SPREAD)
    low, high = np.quantile(values, [ALPHA / 2, 1 - ALPHA / 2]) - (values.mean() - mean)
    return Estimate(
        mean=mean,
        low=float(low),
        high=float(high),
        n=len(units),
        p_value=float("nan"),
        method=f"bootstrap over prompts, {draws} draws",
        se=float(values.std(ddof=1)),
    )
