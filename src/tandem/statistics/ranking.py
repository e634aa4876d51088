"""Strength from comparisons: Bradley-Terry, Elo, and win rates at equal length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tandem.errors import DataError
from tandem.statistics.intervals import Estimate
from tandem.statistics.numerics import Floats, Ints, logistic, normal_quantile, normal_tail

ELO_PER_NAT = 400 / math.log(10)
"""Elo points in one nat of Bradley-Terry reward: 173.72."""

PRIOR_SD = 10.0


def elo_gap(win_rate: float) -> float:
    """Return the Elo gap of a win rate: 400 log10(w / (1 - w)); .7597 is 200 points."""
    if win_rate in (0, 1):
        return math.copysign(math.inf, win_rate - 0.5)
    return 400 * math.log10(win_rate / (1 - win_rate))


def win_probability(elo: float) -> float:
    """Return the win rate of an Elo gap: 1 / (1 + 10^(-gap / 400))."""
    return 1 / (1 + 10 ** (-elo / 400))


@dataclass(frozen=True, eq=False)
class Strengths:
    """A Bradley-Terry fit: P(i beats j) = logistic(theta_i - theta_j).

    Attributes:
        names: [K] competitors.
        theta: [K] strengths in nats; they add up to zero.
        covariance: [K, K] of theta, clustered by prompt.
        n: number of prompts behind it.
    """

    names: tuple[str, ...]
    theta: Floats
    covariance: Floats
    n: int

    def gap(self, a: str, b: str) -> Estimate:
        """Estimate theta_a - theta_b in nats."""
        contrast = np.zeros(len(self.names))
        contrast[self._index(a)] += 1
        contrast[self._index(b)] -= 1
        mean = float(contrast @ self.theta)
        se = math.sqrt(max(0.0, float(contrast @ self.covariance @ contrast)))
        return _normal(mean, se, self.n, "Bradley-Terry, clustered by prompt")

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


def fit_bradley_terry(
    first: Sequence[str],
    second: Sequence[str],
    wins: npt.ArrayLike,
    prompt: Sequence[Any] | None = None,
) -> Strengths:
    """Fit Bradley-Terry strengths to comparisons by maximum likelihood.

    Args:
        first: [M] one side of each comparison.
        second: [M] the other side.
        wins: [M] 1 when the first won, 0 when the second did, .5 a tie.
        prompt: [M] the prompt of each comparison; its comparisons are not independent.

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
    rows = np.arange(len(y))
    design = np.zeros((len(y), len(names)))
    design[rows, i] += 1
    design[rows, j] -= 1
    cluster = rows if prompt is None else np.unique(np.asarray(prompt), return_inverse=True)[1]
    free, covariance = logistic_regression(design[:, 1:], y, cluster)
    centre = (np.eye(len(names)) - 1 / len(names))[:, 1:]
    return Strengths(names, centre @ free, centre @ covariance @ centre.T, len(np.unique(cluster)))


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


def logistic_regression(
    x: Floats, y: Floats, cluster: Ints, prior_sd: float = math.inf
) -> tuple[Floats, Floats]:
    """Fit P(y = 1) = logistic(x b) by Newton's method; y may be soft labels in [0, 1].

    Args:
        x: [M, K] covariates.
        y: [M] outcomes.
        cluster: [M] rows with the same number are not independent (sandwich covariance).
        prior_sd: standard deviation of a normal prior on b; inf is maximum likelihood.

    Returns:
        b [K] and its covariance [K, K].

    Raises:
        DataError: the fit does not converge: some direction separates wins from losses.
    """
    b, ridge = np.zeros(x.shape[1]), np.eye(x.shape[1]) / prior_sd**2
    for _ in range(100):
        p = logistic(x @ b)
        slope = x.T @ (y - p) - ridge @ b
        curvature = (x * (p * (1 - p))[:, None]).T @ x + ridge
        step = np.linalg.lstsq(curvature, slope, rcond=None)[0]
        step *= min(1.0, 5 / max(1e-300, float(np.abs(step).max())))
        b = b + step
        if float(np.abs(step).max()) < 1e-10:
            break
    else:
        raise DataError(
            f"the logistic fit of {len(y)} outcomes does not converge (b = {b.round(2)})",
            "a combination of the covariates separates all wins from all losses",
            "collect more outcomes, or leave a covariate out",
        )
    bread = np.linalg.pinv(curvature)
    count = int(cluster.max()) + 1
    residual = x * (y - logistic(x @ b))[:, None]
    sums = np.stack([np.bincount(cluster, column, count) for column in residual.T])
    groups = len(np.unique(cluster))
    return b, bread @ (sums @ sums.T * groups / max(1, groups - 1)) @ bread


def length_controlled(
    outcomes: npt.ArrayLike, gap: npt.ArrayLike, prompt: Sequence[Any] | None = None
) -> Estimate:
    """Estimate the win rate as if both answers were equally long.

    logit P(win) = a + b tanh(gap / sd(gap)), and the answer is logistic(a): AlpacaEval 2's model
    (arXiv:2404.04475) without the terms that need its own prompts. A normal prior of standard
    deviation 10 on a and b keeps the fit finite when one side wins everything. The interval
    is symmetric in log-odds.

    Args:
        outcomes: [M] 1 won, 0 lost, .5 tied.
        gap: [M] length of the answer minus that of the opponent's.
        prompt: [M] the prompt of each comparison.
    """
    y, length = np.asarray(outcomes, np.float64), np.asarray(gap, np.float64)
    sd = float(length.std())
    squashed = np.tanh(length / sd) if sd else np.zeros_like(length)
    rows = np.arange(len(y))
    cluster = rows if prompt is None else np.unique(np.asarray(prompt), return_inverse=True)[1]
    design = np.stack([np.ones_like(squashed), squashed], axis=1)
    b, covariance = logistic_regression(design, y, cluster, PRIOR_SD)
    logit, se = float(b[0]), math.sqrt(float(covariance[0, 0]))
    ends = logistic(logit + normal_quantile(0.025) * se * np.array([-1.0, 0.0, 1.0]))
    low, rate, high = (float(e) for e in ends)
    return Estimate(
        mean=rate,
        low=low,
        high=high,
        n=len(np.unique(cluster)),
        p_value=2 * normal_tail(abs(logit) / se) if se else float(logit == 0),
        method="logistic on tanh of the standardised length gap",
        se=rate * (1 - rate) * se,
        null=0.5,
    )


def _normal(mean: float, se: float, n: int, method: str) -> Estimate:
    half = normal_quantile(0.025) * se
    p = 2 * normal_tail(abs(mean) / se) if se else float(mean == 0)
    return Estimate(mean, mean - half, mean + half, n, p, method, se)
