"""Curves that say where to stop: learning curves, over-optimisation, ensembles of rewards."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from tandem.errors import ConfigError, DataError
from tandem.statistics.numerics import Floats, find_minimum, xlogx

Form = Literal["bon", "rl"]
AggregateRule = Literal["mean", "worst", "uncertainty"]
LARGEST_EXPONENT = 300.0
"""A peak beyond e^300 is none: no run gets there, and its square is still a number."""


@dataclass(frozen=True, slots=True)
class LearningCurve:
    """Error against number of labels: a + b n^-c.

    Attributes:
        a: error that no number of labels removes.
        b: what labels can remove.
        c: how fast.
    """

    a: float
    b: float
    c: float

    def at(self, n: float) -> float:
        """Return the error predicted at n labels."""
        return self.a + self.b * n**-self.c

    def gain(self, n: float, more: float) -> float:
        """Return how much the error is predicted to fall with `more` labels on top of n."""
        return self.at(n) - self.at(n + more)


def learning_curve(
    n: npt.ArrayLike, error: npt.ArrayLike, se: npt.ArrayLike | None = None
) -> LearningCurve:
    """Fit a + b n^-c by weighted least squares, c between .02 and 3.

    For a fixed c the fit is linear, so only c is searched.

    Raises:
        DataError: fewer than three different numbers of labels, or a standard error that is not
            above 0.
    """
    size, value = np.asarray(n, np.float64), np.asarray(error, np.float64)
    if len(np.unique(size)) < 3:
        raise DataError(
            f"{len(np.unique(size))} different numbers of labels",
            "a + b n^-c has three unknowns",
            "train the reward model on at least three sizes of data",
        )

    def fit(log_c: float) -> tuple[Floats, float]:
        return _least_squares([np.ones_like(size), size ** -math.exp(log_c)], value, se)

    grid = np.linspace(math.log(0.02), math.log(3.0), 41)
    best = int(np.argmin([fit(float(x))[1] for x in grid]))
    low, high = grid[max(0, best - 1)], grid[min(len(grid) - 1, best + 1)]
    log_c = find_minimum(lambda x: fit(x)[1], float(low), float(high))
    (a, b), _ = fit(log_c)
    return LearningCurve(float(a), float(b), math.exp(log_c))


@dataclass(frozen=True, slots=True)
class OverOptimisation:
    """Gold reward against d = sqrt(KL) from where the policy started (arXiv:2210.10760).

    `bon`: d (alpha - beta d). `rl`: d (alpha - beta ln d), for d not near 0.
    """

    alpha: float
    beta: float
    form: Form

    def at(self, d: npt.ArrayLike) -> Floats:
        """Return the gold reward above its start at distances d >= 0."""
        x = np.asarray(d, np.float64)
        if self.form == "bon":
            return x * (self.alpha - self.beta * x)
        return self.alpha * x - self.beta * np.asarray(xlogx(x))

    @property
    def peak(self) -> float:
        """Distance at which gold turns over; inf when it never does, or beyond all reason."""
        if self.beta <= 0:
            return math.inf
        if self.form == "bon":
            return self.alpha / self.beta / 2
        exponent = self.alpha / self.beta - 1
        return math.exp(exponent) if exponent < LARGEST_EXPONENT else math.inf

    @property
    def height(self) -> float:
        """Gold at the peak above its start; inf when it never turns over."""
        if self.beta <= 0:
            return math.inf
        if self.form == "bon":
            return self.alpha * self.peak / 2
        return self.beta * self.peak


def over_optimisation(
    kl: npt.ArrayLike, gold: npt.ArrayLike, form: Form, se: npt.ArrayLike | None = None
) -> OverOptimisation:
    """Fit alpha and beta by least squares, each point weighted by its standard error.

    Args:
        kl: [M] KL to the initial policy in nats; points at 0 carry no information.
        gold: [M] gold reward minus its value at the start.
        form: `bon` for best-of-n, `rl` for a trained policy.
        se: [M] standard errors of gold. All points weigh alike without them, which is right only
            where each was measured on as many prompts, as noisily.

    Raises:
        ConfigError: an unknown form.
        DataError: fewer than two points with KL above 0, or a standard error of one of them that
            is not above 0.
    """
    if form not in get_args(Form):
        raise ConfigError(
            f"form = {form!r}",
            "best-of-n and trained policies turn over along different curves",
            "give 'bon' or 'rl'",
        )
    k, value = np.asarray(kl, np.float64), np.asarray(gold, np.float64)
    moved = k > 0
    if len(np.unique(k[moved])) < 2:
        raise DataError(
            f"{int(moved.sum())} points with KL above 0",
            "alpha and beta are two unknowns, and the curve is 0 at the start",
            "evaluate at least two checkpoints (or two values of n) away from the start",
        )
    d = np.sqrt(k[moved])
    weights = None if se is None else np.asarray(se, np.float64)[moved]
    columns = [d, -d * (d if form == "bon" else np.log(d))]
    (alpha, beta), _ = _least_squares(columns, value[moved], weights)
    return OverOptimisation(float(alpha), float(beta), form)


def _least_squares(
    columns: list[Floats], y: Floats, se: npt.ArrayLike | None
) -> tuple[Floats, float]:
    """Return coefficients and the weighted sum of squared residuals."""
    weight = np.ones_like(y) if se is None else _weights(np.asarray(se, np.float64))
    x = np.stack(columns, axis=1) * weight[:, None]
    b = np.linalg.lstsq(x, y * weight, rcond=None)[0]
    return b, float(((x @ b - y * weight) ** 2).sum())


def _weights(se: Floats) -> Floats:
    """Return 1 / se, the largest 1, so that tiny standard errors overflow nothing."""
    if not (np.isfinite(se).all() and (se > 0).all()):
        k = int(np.flatnonzero(~(np.isfinite(se) & (se > 0)))[0])
        raise DataError(
            f"the standard error of point {k} is {se[k]}",
            "a point that is known without error would decide the whole curve",
            "measure it on several prompts, or fit without standard errors",
        )
    return se.min() / se


def centre_scores(scores: npt.ArrayLike, prompt: npt.NDArray[Any]) -> Floats:
    """Subtract from each member's scores [K, N] its mean over the answers to the same prompt.

    Rewards are defined up to a constant per prompt, so members must be centred before they are
    compared with each other.
    """
    values = np.atleast_2d(np.asarray(scores, np.float64))
    owner = np.unique(np.asarray(prompt), return_inverse=True)[1]
    count = np.bincount(owner)
    means = np.stack([np.bincount(owner, row) / count for row in values])
    return values - means[:, owner]


def ensemble_scores(
    scores: npt.ArrayLike, prompt: npt.NDArray[Any], how: AggregateRule = "mean", lam: float = 0.5
) -> Floats:
    """Aggregate K reward models conservatively (arXiv:2310.02743), after `centre`.

    `mean`; `worst`: the smallest of the K; `uncertainty`: mean - lam * variance over the K.

    Args:
        scores: [K, N].
        prompt: [N] which prompt each answer belongs to.
        how: the rule.
        lam: weight of the variance; .5 for best-of-n, .1 for PPO.

    Returns:
        [N] aggregated scores; each prompt's mean is not restored.
    """
    return aggregate_scores(centre_scores(scores, prompt), how, lam)


def aggregate_scores(
    values: npt.ArrayLike, how: AggregateRule = "mean", lam: float = 0.5
) -> Floats:
    """Aggregate scores [K, N] that have a common zero already; see `ensemble`.

    Raises:
        ConfigError: an unknown rule.
    """
    x = np.atleast_2d(np.asarray(values, np.float64))
    if how == "mean":
        return x.mean(axis=0)
    if how == "worst":
        return x.min(axis=0)
    if how == "uncertainty":
        return x.mean(axis=0) - lam * x.var(axis=0)
    raise ConfigError(
        f"how = {how!r}",
        "members of an ensemble can be averaged, minimised, or averaged less their variance",
        "give 'mean', 'worst' or 'uncertainty'",
    )


def member_disagreement(scores: npt.ArrayLike, prompt: npt.NDArray[Any]) -> Floats:
    """Return [N] the standard deviation over the K members of the centred scores [K, N]."""
    return centre_scores(scores, prompt).std(axis=0)
