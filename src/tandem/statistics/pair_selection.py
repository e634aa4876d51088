"""Which pairs to have compared next: acquisitions on predicted gaps and on features.

    pool = PairPool(features=after - before, gaps=predicted)      # N pairs, M rewards
    chosen = choose_pairs(pool, keep=200, rule="d_optimal", uniform=0.1, rng=rng)

A share of the choice is uniform and flagged: what is chosen because it is hard cannot say how
accurate a reward is, the uniform part can.

Shapes: N pairs, d features, M rewards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from tandem.errors import ConfigError
from tandem.statistics.design import d_optimal
from tandem.statistics.numerics import Floats, Ints, logistic

PairRule = Literal["random", "entropy", "variance", "d_optimal", "moderate", "disagreement"]
MIDDLE = (0.25, 0.75)
"""Quantiles of the predicted gap between which a gap is moderate."""


@dataclass(frozen=True, eq=False)
class PairPool:
    """Pairs that could be asked about.

    >>> pool = PairPool(features=np.eye(3), gaps=np.array([[0.1, 2.0, -3.0]]))
    >>> choose_pairs(pool, 1, "entropy").pairs.tolist()
    [0]

    Attributes:
        features: [N, d] of the first answer minus those of the second.
        gaps: [M, N] what each of M rewards predicts: the first answer's less the second's; None
            where there is no reward yet.
        ridge: prior precision of each weight of a linear reward on the features.
    """

    features: Floats
    gaps: Floats | None = None
    ridge: float = 1.0

    def __len__(self) -> int:
        return len(self.features)

    @property
    def chance(self) -> Floats:
        """[N] the mean reward's P(first is better); one half where there is no reward."""
        if self.gaps is None:
            return np.full(len(self), 0.5)
        return logistic(self.gaps.mean(axis=0))


@dataclass(frozen=True, eq=False)
class ChosenPairs:
    """Pairs in the order of choice.

    Attributes:
        pairs: [n] their places in the pool.
        is_uniform: [n] True for those that were drawn and not chosen.
    """

    pairs: Ints
    is_uniform: npt.NDArray[np.bool_]


def choose_pairs(
    pool: PairPool,
    keep: int,
    rule: PairRule = "d_optimal",
    uniform: float = 0.0,
    rng: np.random.Generator | None = None,
) -> ChosenPairs:
    """Choose pairs to be compared; a share of them uniformly.

    Args:
        pool: N pairs.
        keep: how many; all where there are fewer.
        rule: how the others are chosen.
        uniform: share that is drawn uniformly, rounded up.
        rng: for the draws.

    Raises:
        ConfigError: no such rule, or it needs rewards that the pool has not.
    """
    if rule not in get_args(PairRule):
        raise ConfigError(
            f"acquisition = {rule!r}",
            f"pairs are chosen by one of {', '.join(get_args(PairRule))}",
            "name one of them",
        )
    rng = np.random.default_rng(0) if rng is None else rng
    keep = min(keep, len(pool))
    drawn = rng.permutation(len(pool))[: int(np.ceil(uniform * keep))]
    left = np.setdiff1d(np.arange(len(pool)), drawn)
    rest = keep - len(drawn)
    ranked = left[RULES[rule](_part_of(pool, left), rest, rng)[:rest]] if rest else left[:0]
    flags = np.arange(len(drawn) + len(ranked)) < len(drawn)
    return ChosenPairs(np.concatenate([drawn, ranked]), flags)


def _part_of(pool: PairPool, rows: Ints) -> PairPool:
    gaps = None if pool.gaps is None else pool.gaps[:, rows]
    return PairPool(pool.features[rows], gaps, pool.ridge)


def _random(pool: PairPool, keep: int, rng: np.random.Generator) -> Ints:
    return rng.permutation(len(pool))


def _entropy(pool: PairPool, keep: int, rng: np.random.Generator) -> Ints:
    """The least certain first: p (1 - p) of the mean reward."""
    _require(pool, 1, "entropy")
    p = pool.chance
    return np.argsort(-p * (1 - p), kind="stable")


def _variance(pool: PairPool, keep: int, rng: np.random.Generator) -> Ints:
    """Where an ensemble's members differ most in P(first is better)."""
    gaps = _require(pool, 2, "variance")
    return np.argsort(-logistic(gaps).std(axis=0), kind="stable")


def _design(pool: PairPool, keep: int, rng: np.random.Generator) -> Ints:
    """What tells the most about a linear reward: greedy D-optimal, weighed by p (1 - p)."""
    p = pool.chance
    rows = pool.features * np.sqrt(p * (1 - p))[:, None]
    return np.array(d_optimal(rows, max(1, keep), pool.ridge), np.int64)


def _moderate(pool: PairPool, keep: int, rng: np.random.Generator) -> Ints:
    """D-optimal among the pairs whose predicted gap is neither small nor large."""
    gap = np.abs(_require(pool, 1, "moderate").mean(axis=0))
    low, high = np.quantile(gap, MIDDLE)
    inside = np.flatnonzero((gap >= low) & (gap <= high))
    if len(inside) < keep:
        inside = np.argsort(np.abs(gap - np.median(gap)), kind="stable")[:keep]
    return inside[_design(_part_of(pool, inside), keep, rng)]


def _disagreement(pool: PairPool, keep: int, rng: np.random.Generator) -> Ints:
    """Where two rewards, each in units of its own spread, differ most."""
    gaps = _require(pool, 2, "disagreement")[:2]
    scale = gaps.std(axis=1, keepdims=True)
    a, b = gaps / np.where(scale > 0, scale, 1)
    return np.argsort(-np.abs(a - b), kind="stable")


def _require(pool: PairPool, least: int, rule: str) -> Floats:
    have = 0 if pool.gaps is None else len(pool.gaps)
    if pool.gaps is None or have < least:
        raise ConfigError(
            f"acquisition = {rule} with {have} reward(s)",
            f"it reads what {least} reward(s) predict",
            f"give {least}, or choose d_optimal or random",
        )
    return pool.gaps


RULES: dict[PairRule, Callable[[PairPool, int, np.random.Generator], Ints]] = {
    "random": _random,
    "entropy": _entropy,
    "variance": _variance,
    "d_optimal": _design,
    "moderate": _moderate,
    "disagreement": _disagreement,
}
"""By name: (pool, how many, draws) -> places in order of choice."""
