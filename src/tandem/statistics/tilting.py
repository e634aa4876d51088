"""How far a selection tilts towards the reward: the two dials of rejection sampling.

A policy tilted by r / beta follows pi exp(r / beta) / Z. From n samples of pi with rewards r the
tilted mean is sum r e^{r / beta} / sum e^{r / beta}. It falls from the largest r (beta = 0) to
the plain mean (beta = infinity), so a mean of what was kept has one beta.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Rewards = npt.NDArray[np.floating[Any]]

HALVINGS = 80
RANGE = 1e6


def describe_tilt(
    pools: Sequence[Rewards], kept: Sequence[Rewards], beta: float
) -> dict[str, float]:
    """Describe a rejection sample in four numbers.

    Args:
        pools: for each prompt [n] rewards of its candidates, in the unit of `beta`.
        kept: for each prompt [k] rewards of the accepted.
        beta: the temperature that was asked for.

    Returns:
        `acceptance`, the mean chance of a candidate in the first round; `beta`;
        `effective_beta`, above `beta` by what a finite pool costs; `spreads`, beta over the mean
        spread of a prompt's rewards, which says how hard a tilt it is.
    """
    spread = float(np.mean([r.std() for r in pools]))
    return {
        "acceptance": acceptance_rate(pools, beta),
        "beta": beta,
        "effective_beta": effective_beta(pools, float(np.mean([r.mean() for r in kept]))),
        "spreads": beta / spread if spread else math.inf,
    }


def acceptance_rate(pools: Sequence[Rewards], beta: float) -> float:
    """Return the mean chance of a sample to be accepted: E exp((r - r_max) / beta).

    This is Z e^{-r_max / beta} with each pool's largest reward for r_max
    (docs/theory/rejection_sampling.md#algorithm).

    Args:
        pools: for each prompt [n] rewards of its samples.
        beta: temperature of the tilt, in units of the rewards; 0 accepts the best alone.
    """
    return float(np.mean([_chances(r, beta).mean() for r in pools]))


def effective_beta(pools: Sequence[Rewards], kept: float) -> float:
    """Return the beta at which the tilted pools have the mean reward that was kept.

    A sample without replacement from a finite pool leans towards pi as keep / n grows; this says
    by how much: it is near the beta that was asked for at keep = 1 of many, and larger after.

    Args:
        pools: for each prompt [n] rewards of its samples.
        kept: mean over prompts of the mean reward of what was kept.

    Returns:
        beta; 0 where the best was kept everywhere, infinity where no better than at random.
    """
    if kept >= float(np.mean([r.max() for r in pools])):
        return 0.0
    if kept <= float(np.mean([r.mean() for r in pools])):
        return math.inf
    spread = float(np.mean([r.max() - r.min() for r in pools]))
    low, high = math.log(spread / RANGE), math.log(spread * RANGE)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if float(np.mean([_tilted_mean(r, math.exp(middle)) for r in pools])) > kept:
            low = middle
        else:
            high = middle
    return math.exp((low + high) / 2)


def _tilted_mean(r: Rewards, beta: float) -> float:
    share = _chances(r, beta)
    return float((share * r).sum() / share.sum())


def _chances(r: Rewards, beta: float) -> Rewards:
    if beta == 0:
        return (r >= r.max()).astype(np.float64)
    return np.exp((r - r.max()) / beta)
