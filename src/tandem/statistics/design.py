"""Which comparisons to ask for: the ones that tell the most about a linear reward."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tandem.errors import ConfigError
from tandem.statistics.numerics import Floats


def design_information(features: npt.ArrayLike, ridge: float = 1.0) -> float:
    """Return the information of a design: log det(ridge I + X'X) - log det(ridge I), >= 0."""
    x = np.atleast_2d(np.asarray(features, np.float64))
    return float(np.linalg.slogdet(np.eye(x.shape[1]) + x.T @ x / ridge)[1])


def d_optimal(features: npt.ArrayLike, keep: int, ridge: float = 1.0) -> list[int]:
    """Choose rows greedily for the largest `information` (D-optimal design).

    The gain is monotone and submodular, so the greedy choice reaches at least 1 - 1/e of the
    best. For preferences, a row is the difference of two completions' features, and its weight
    sqrt(p (1 - p)) may be multiplied in.

    Args:
        features: [N, d].
        keep: rows to choose; min(keep, N) are returned, in the order of choice.
        ridge: prior precision of each weight.

    Raises:
        ConfigError: keep below 1, or ridge not above 0.
    """
    if keep < 1 or ridge <= 0:
        raise ConfigError(
            f"keep = {keep}, ridge = {ridge}",
            "a design chooses at least one comparison, and starts from a prior that is not flat",
            "give keep >= 1 and ridge > 0",
        )
    x: Floats = np.asarray(features, np.float64)
    covariance = np.eye(x.shape[1]) / ridge
    gain = np.einsum("nd,nd->n", x, x) / ridge
    left = np.ones(len(x), np.bool_)
    chosen: list[int] = []
    while left.any() and len(chosen) < keep:
        best = int(np.argmax(np.where(left, gain, -np.inf)))
        direction = covariance @ x[best]
        shrink = 1 + float(x[best] @ direction)
        covariance -= np.outer(direction, direction) / shrink
        gain -= (x @ direction) ** 2 / shrink
        left[best] = False
        chosen.append(best)
    return chosen
