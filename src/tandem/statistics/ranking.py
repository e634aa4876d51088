"""Strength from comparisons: Bradley-Terry, Elo, and win rates at equal length.

All of them have the intervals of a win rate: over prompts and training seeds together (`crossed`),
and Wilson's, so that they stay inside what is possible near 0 and 1. A strength's interval is that
of the win rate that it stands for, in log-odds.

Shapes: M comparisons, K competitors, S seeds, P prompts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tandem.errors import DataError
from tandem.statistics.crossed import Crossed, crossed_squares
from tandem.statistics.intervals import (
    NO_INTERVAL,
    ONE_PROMPT,
    Estimate,
    cell_sums,
    describe_design,
    without_interval,
)
from tandem.statistics.logistic import fit_influence, fit_logistic
from tandem.statistics.numerics import Floats, Ints, logistic
from tandem.statistics.rates import estimate_share, win_rate

ELO_PER_NAT = 400 / math.log(10)
"""Elo points in one nat of Bradley-Terry reward: 173.72."""

PRIOR_SD = 10.0
PROMPTS_A_COEFFICIENT = 10
"""Prompts for each fitted number, below which its interval does not cover what it says."""


def elo_gap(win_rate: float) -> float:
    """Return the Elo gap of a win rate: 400 log10(w / (1 - w)); .7597 is 200 points."""
    return ELO_PER_NAT * log_odds(win_rate)


def log_odds(rate: float) -> float:
    """Return log(w / (1 - w)), infinite at 0 and 1."""
    if rate in (0, 1):
        return math.copysign(math.inf, rate - 0.5)
    return math.log(rate) - math.log1p(-rate)


def win_probability(elo: float) -> float:
    """Return the win rate of an Elo gap: 1 / (1 + 10^(-gap / 400))."""
    return float(logistic(np.float64(elo / ELO_PER_NAT)))


@dataclass(frozen=True, eq=False)
class Strengths:
    """A Bradley-Terry fit: P(i beats j) = logistic(theta_i - theta_j).

    Attributes:
        names: [K] competitors.
        theta: [K] strengths in nats; they add up to zero.
        cells: [K, S, P] influence of each seed and prompt on each strength, times S P.
        covariance: [K, K] of theta if comparisons were independent.
    """

    names: tuple[str, ...]
    theta: Floats
    cells: Floats
    covariance: Floats

    @property
    def n(self) -> int:
        """Number of prompts behind it."""
        return self.cells.shape[-1]

    @property
    def seeds(self) -> int:
        """Number of training seeds behind it."""
        return self.cells.shape[-2]

    def gap(self, a: str, b: str) -> Estimate:
        """Estimate theta_a - theta_b in nats.

        The interval is that of the win rate it stands for; an end is infinite where the data do
        not rule out that one side wins always.
        """
        contrast = np.zeros(len(self.names))
        contrast[self._index(a)] += 1
        contrast[self._index(b)] -= 1
        mean = float(contrast @ self.theta)
        if a == b:
            return Estimate(0.0, 0.0, 0.0, self.n, 1.0, "the same competitor", 0.0, self.seeds)
        enough = PROMPTS_A_COEFFICIENT * (len(self.names) - 1)
        if why := too_few(self.n, enough):
            return without_interval(mean, self.n, why, self.seeds)
        rate = float(logistic(np.float64(mean)))
        slope = rate * (1 - rate)
        cells = np.tensordot(contrast, self.cells, 1)
        model = float(contrast @ self.covariance @ contrast)
        spread = bounded(crossed_squares(slope * cells, share=True), slope**2 * model)
        method = f"Bradley-Terry, Wilson, {describe_design(self.seeds)}"
        share = estimate_share(rate, spread, 0.5, method)
        return replace(
            share, mean=mean, low=log_odds(share.low), high=log_odds(share.high), null=0.0,
            se=share.se / slope,
        )  # fmt: skip

    def elo(self, anchor: str) -> dict[str, Estimate]:
        """Estimate everybody's Elo points above the anchor, whose own are 0."""
        return {name: self.gap(name, anchor).scale_by(ELO_PER_NAT) for name in self.names}

    def _index(self, name: str) -> int:
        if name not in self.names:
            raise DataError(
                f"no competitor `{name}`",
                f"the comparisons are between {', '.join(self.names)}",
                "name one of these",
            )
        return self.names.index(name)


def too_few(prompts: int, enough: int) -> str:
    """Say why a fit has no interval with so few prompts; empty where it has one."""
    if prompts == 1:
        return ONE_PROMPT
    if prompts < enough:
        return f"{NO_INTERVAL}: {prompts} prompts are too few for this fit, {enough} the fewest"
    return ""


def bounded(spread: Crossed, model: Any) -> Crossed:
    """Let the variance of a fit be at least half of what independent comparisons would give.

    Near separation all residuals vanish and so does their spread, while the fit is least certain.

    Args:
        spread: mean squares of the influence on a rate.
        model: variance of that rate if comparisons were independent.
    """
    least = model / 2 * spread.seeds * spread.prompts
    return replace(spread, prompt_square=np.maximum(spread.prompt_square, least))


def fit_bradley_terry(
    first: Sequence[str],
    second: Sequence[str],
    wins: npt.ArrayLike,
    prompt: Sequence[Any] | None = None,
    seed: Sequence[Any] | None = None,
) -> Strengths:
    """Fit Bradley-Terry strengths to comparisons by maximum likelihood.

    Args:
        first: [M] one side of each comparison.
        second: [M] the other side.
        wins: [M] 1 when the first won, 0 when the second did, .5 a tie.
        prompt: [M] the prompt of each comparison; its comparisons are not independent. Each
            comparison has a prompt of its own unless given.
        seed: [M] the training seed of each comparison, where several are pooled.

    Raises:
        DataError: some competitors never lose to (or never win against) the others, so their
            distance has no maximum-likelihood value.
    """
    names = tuple(dict.fromkeys([*first, *second]))
    index = {name: k for k, name in enumerate(names)}
    i = np.array([index[x] for x in first])
    j = np.array([index[x] for x in second])
    y = np.asarray(wins, np.float64)
    _connected(names, i, j, y)
    meetings, row = np.unique(i * len(names) + j, return_inverse=True)
    design = np.zeros((len(meetings), len(names)))
    design[np.arange(len(meetings)), meetings // len(names)] += 1
    design[np.arange(len(meetings)), meetings % len(names)] -= 1
    played = np.bincount(row)
    fit = fit_logistic(design[:, 1:], np.bincount(row, y) / played, played.astype(np.float64))
    centre = (np.eye(len(names)) - 1 / len(names))[:, 1:]
    each = [fit_influence(fit, design[row, 1:], y, c) for c in centre]
    cells = cell_sums(np.stack(each), np.arange(len(y)) if prompt is None else prompt, seed)
    return Strengths(names, centre @ fit.b, cells, centre @ fit.covariance @ centre.T)


def _connected(names: tuple[str, ...], i: Ints, j: Ints, y: Floats) -> None:
    """Ask that everybody has beaten or tied everybody else, directly or by a chain."""
    beats = np.eye(len(names), dtype=np.bool_)
    beats[i[y > 0], j[y > 0]] = True
    beats[j[y < 1], i[y < 1]] = True
    for _ in names:
        beats = (beats.astype(np.int64) @ beats.astype(np.int64)) > 0
    if not beats.all():
        a, b = np.argwhere(~beats)[0]
        raise DataError(
            f"`{names[a]}` never beats or ties `{names[b]}`, directly or through others",
            "the maximum-likelihood distance between them is infinite",
            "collect more comparisons between the two, or leave one out",
        )


def length_controlled(
    outcomes: npt.ArrayLike,
    gap: npt.ArrayLike,
    prompt: Sequence[Any] | npt.NDArray[Any] | None = None,
    seed: Sequence[Any] | npt.NDArray[Any] | None = None,
) -> Estimate:
    """Estimate the win rate as if both answers were equally long.

    logit P(win) = a + b tanh(gap / sd(gap)), and the answer is logistic(a): AlpacaEval 2's model
    (arXiv:2404.04475) without the terms that need its own prompts. A normal prior of standard
    deviation 10 on a and b keeps the fit finite when one side wins everything. Below 20 prompts
    there is no interval. Where all outcomes are equal length cannot matter, and the interval is
    the win rate's.

    Args:
        outcomes: [M] 1 won, 0 lost, .5 tied; or [S, P], with prompts and seeds by place.
        gap: as `outcomes`, length of the answer minus that of the opponent's.
        prompt: [M] the prompt of each comparison; one of its own unless given.
        seed: [M] the training seed of each comparison, where several are pooled.
    """
    y, length = np.asarray(outcomes, np.float64), np.asarray(gap, np.float64)
    if y.ndim == 2:
        rows, columns = np.indices(y.shape)
        return length_controlled(y.ravel(), length.ravel(), columns.ravel(), rows.ravel())
    where = np.arange(len(y)) if prompt is None else prompt
    rate, cells, model = fit_length(y[None], length[None])
    sums = cell_sums(cells[0], where, seed)
    s, p = sums.shape
    if why := too_few(p, 2 * PROMPTS_A_COEFFICIENT):
        return without_interval(float(rate[0]), p, why, s, 0.5)
    method = f"logistic on tanh of the standardised length gap, Wilson, {describe_design(s)}"
    if np.ptp(y) == 0:
        same = win_rate(np.full(p, y[0]))
        return replace(same, seeds=s, method=f"{same.method}: all outcomes are equal")
    return estimate_share(
        float(rate[0]), bounded(crossed_squares(sums, share=True), float(model[0])), 0.5, method
    )


def fit_length(y: Floats, length: Floats) -> tuple[Floats, Floats, Floats]:
    """Fit win rates at equal length, many at once.

    Args:
        y: [..., M] outcomes.
        length: [..., M] gaps in length.

    Returns:
        [...] the rate at no gap; [..., M] the influence of each comparison on it; [...] its
        variance if comparisons were independent.
    """
    sd = length.std(axis=-1, keepdims=True)
    squashed = np.tanh(np.divide(length, sd, out=np.zeros_like(length), where=sd > 0))
    x = np.stack([np.ones_like(squashed), squashed], axis=-1)
    fit = fit_logistic(x, y, None, PRIOR_SD)
    rate = logistic(fit.b[..., 0])
    slope = rate * (1 - rate)
    return (
        rate,
        slope[..., None] * fit_influence(fit, x, y, 0),
        slope**2 * fit.covariance[..., 0, 0],
    )
