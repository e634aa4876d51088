"""Intervals that hold whenever one stops: seeds may be added until a difference is resolved.

An ordinary 95 % interval is for a number of seeds that was fixed before. Who looks after every
seed, and stops when it suits him, is misled more often than once in twenty. A confidence sequence
holds at all numbers of seeds at once, so also at the one at which somebody stops, for whatever
reason.

The numbers are d[s, p] = mu + seed effect + prompt effect + noise, as in `crossed`. Prompts are
there from the start and seeds come one by one, so the 5 % are divided:

- 4 % for the seeds. Given the prompts, their means are independent and about normal with one
  unknown mean and spread. The likelihood ratio of Student's t, averaged over effects that are
  normal with a standard deviation of `EFFECT` spreads of the seeds, is a martingale of mean 1 where
  the supposed mean is the true one; so it never reaches 25 in 96 of 100 experiments (Ville). It
  needs no spread that is known, nor many seeds: it is exact from the third on.
- 1 % for the prompts: their mean effect is drawn once, and has a t interval.

The two widths add up. Sources: Robbins (1970) for mixtures; Lai (1976) for the t statistic; Wang
and Ramdas (2024) for the sequence.

**What it does not do.** It supposes seed effects that are about normal: one seed in ten that
diverges breaks it, as it breaks every interval (`deviant_seeds`). It says nothing about other seeds
with two. It is about twice as wide as an interval for a fixed number: that is the price of looking.

Shapes: S seeds, P prompts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tandem.errors import ConfigError
from tandem.statistics.crossed import ALPHA, Crossed, crossed_squares
from tandem.statistics.intervals import NO_INTERVAL, Estimate, mean_of, read_design
from tandem.statistics.numerics import Floats, find_root, t_quantile
from tandem.statistics.power import holm

EFFECT = 4.0
"""Differences that are looked for, in standard deviations of the seeds."""
SEED_SHARE = 0.8
"""Share of the error that is left to the seeds; the prompts have the rest."""
FEWEST_SEEDS = 3
"""Seeds below which no interval holds at any stopping time."""
LEAST_P = 1e-12
METHOD = "confidence sequence over seeds, t over prompts: holds whenever one stops"


def confidence_sequence(d: npt.ArrayLike, *, null: float = 0.0) -> Estimate:
    """Estimate a mean over seeds and prompts so that seeds may be added until it is resolved.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> d = 1.0 + rng.normal(0, 0.1, (4, 1)) + rng.normal(0, 1, (4, 200))
    >>> confidence_sequence(d).resolved
    True

    Args:
        d: [S, P] numbers, or differences of two methods; every seed meets the same prompts.
        null: the value tested by the p-value.

    Returns:
        The estimate, whose interval and p-value hold at any stopping time. There is no interval
        with fewer than three seeds, with one prompt, or where nothing varies.

    Raises:
        DataError: no number, or numbers that are not finite.
    """
    values = read_design(d, "d")
    s, p = values.shape
    plain = mean_of(values, null=null)
    if p == 1 or math.isnan(plain.low):
        return plain
    if s < FEWEST_SEEDS:
        why = f"{NO_INTERVAL}: {s} seeds, and none holds at any stopping time with fewer than 3"
        nan = float("nan")
        return replace(plain, low=nan, high=nan, p_value=nan, method=why)
    squares = crossed_squares(values)
    half = float(sequence_half_width(squares))
    return replace(
        plain,
        low=plain.mean - half,
        high=plain.mean + half,
        p_value=_p_value(squares, abs(plain.mean - null)),
        method=METHOD,
    )


def sequence_half_width(squares: Crossed, alpha: float = ALPHA) -> Floats:
    """Return half the length of the confidence sequence, from the mean squares of one or of many.

    Infinite with fewer than three seeds. Seeds vary at least as much as the noise in their means:
    three that agree by luck do not make it narrow.
    """
    s, p = squares.seeds, squares.prompts
    prompt_square = np.asarray(squares.prompt_square, np.float64)
    t = critical_t(s, SEED_SHARE * alpha)
    if math.isinf(t):
        return np.full(prompt_square.shape, np.inf)
    by_seed = np.sqrt(np.maximum(squares.seed_square, squares.noise_square) / (s * p))
    by_prompt = np.sqrt(prompt_square / (s * p))
    prompts = t_quantile((1 - SEED_SHARE) * alpha / 2, p - 1)
    return np.asarray(t * by_seed + prompts * by_prompt, np.float64)


def critical_t(seeds: int, alpha: float) -> float:
    """Return the t of S seeds that no experiment ever reaches, but for a share alpha of them.

    The likelihood ratio is (1 + S g)^(-1/2) ((1 + t^2/v) / (1 + t^2/(v (1 + S g))))^(S/2), with
    v = S - 1 and g the square of `EFFECT`; it is 1 / alpha at this t. Infinite where it never is.
    """
    if seeds < FEWEST_SEEDS:
        return math.inf
    known = 1 + seeds * EFFECT**2
    ratio = math.exp(2 / seeds * (0.5 * math.log(known) - math.log(alpha)))
    if ratio >= known:
        return math.inf
    return math.sqrt((seeds - 1) * (ratio - 1) / (1 - ratio / known))


def _p_value(squares: Crossed, distance: float) -> float:
    """Return the smallest error at which the sequence leaves out a mean this far away."""

    def inside(log_alpha: float) -> float:
        half = float(sequence_half_width(squares, math.exp(log_alpha)))
        return min(half, 1e300) - distance

    least, most = math.log(LEAST_P), 0.0
    if inside(least) <= 0:
        return LEAST_P
    return 1.0 if inside(most) >= 0 else math.exp(find_root(inside, least, most))


def unresolved_cells(cells: Mapping[str, npt.ArrayLike], most: int) -> list[str]:
    """Name the cells of an experiment that should get another seed.

    These are the differences that their confidence sequence does not resolve, after Holm over all
    cells, and that have fewer than `most` seeds. To be asked after every seed: an interval of a
    cell that is left alone holds, whatever it was that ended it.

        cells = {"small reward": d_small, "large reward": d_large}     # [S, P] each
        unresolved_cells(cells, most=10)                               # ["small reward"]

    Args:
        cells: name -> [S, P] differences; cells may have met different numbers of seeds.
        most: seeds that a cell may get.

    Raises:
        ConfigError: `most` is below three, with which nothing is ever resolved.
    """
    if most < FEWEST_SEEDS:
        raise ConfigError(
            f"most = {most} seeds",
            "an interval that holds whenever one stops needs three seeds",
            "give 3 or more",
        )
    estimates = {name: confidence_sequence(d) for name, d in cells.items()}
    adjusted = [float(p) for p in holm([e.p_value for e in estimates.values()])]
    return [
        name
        for (name, estimate), p in zip(estimates.items(), adjusted, strict=True)
        if not p < ALPHA and estimate.seeds < most
    ]
