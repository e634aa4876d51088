"""Logistic regression of wins on covariates, with the influence of every row; many fits at once.

Small fits by Newton's method: simulations and resamples repeat them thousands of times, which a
general GLM is slow at. `statsmodels` is what the tests compare it with.

Shapes: N rows, K covariates; leading dimensions are fits of their own.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from tandem.errors import DataError
from tandem.statistics.numerics import Floats, logistic

STEPS, LONGEST, CLOSE, SINGULAR = 100, 5.0, 1e-9, 1e-12


class Logistic(NamedTuple):
    """A fit.

    Attributes:
        b: [..., K] coefficients.
        covariance: [..., K, K] of b if rows were independent: the inverse of the curvature.
    """

    b: Floats
    covariance: Floats


def fit_logistic(
    x: Floats, y: Floats, weight: Floats | None = None, prior_sd: float = math.inf
) -> Logistic:
    """Fit P(y = 1) = logistic(x b) by Newton's method; y may be soft labels in [0, 1].

    Args:
        x: [..., N, K] covariates.
        y: [..., N] outcomes.
        weight: [..., N] how many outcomes a row stands for; 1 unless given.
        prior_sd: standard deviation of a normal prior on b; inf is maximum likelihood.

    Raises:
        DataError: the fit does not converge: some direction separates wins from losses.
    """
    ridge = np.eye(x.shape[-1]) / prior_sd**2
    w = np.ones(y.shape) if weight is None else weight
    b = np.zeros((*y.shape[:-1], x.shape[-1]))
    across = np.swapaxes(x, -1, -2)
    for _ in range(STEPS):
        p = logistic((x @ b[..., None])[..., 0])
        slope = (across @ (w * (y - p))[..., None])[..., 0] - b @ ridge
        curvature = (across * (w * p * (1 - p))[..., None, :]) @ x + ridge
        inverse = inverse_of(curvature)
        step = (inverse @ slope[..., None])[..., 0]
        longest = np.abs(step).max(axis=-1, keepdims=True)
        b = b + step * np.minimum(1.0, LONGEST / np.maximum(longest, CLOSE))
        if float(longest.max()) < CLOSE:
            return Logistic(b, inverse)
    raise DataError(
        f"the logistic fit of {y.shape[-1]} outcomes does not converge (b = {b.round(2)})",
        "a combination of the covariates separates all wins from all losses",
        "collect more outcomes, or leave a covariate out",
    )


def inverse_of(curvature: Floats) -> Floats:
    """Return the inverse; where a direction is not seen at all, the inverse of the others."""
    determinant = np.abs(np.linalg.det(curvature))
    size = np.abs(curvature).max(axis=(-1, -2)) ** curvature.shape[-1]
    if bool((determinant > SINGULAR * size).all()):
        return np.linalg.inv(curvature)
    return np.linalg.pinv(curvature, hermitian=True)


def fit_influence(fit: Logistic, x: Floats, y: Floats, k: int | Floats) -> Floats:
    """Return [..., N] how much each row moves a coefficient, or a contrast of them.

    Args:
        fit: of `logistic`.
        x: [..., N, K] as it was given.
        y: [..., N] as it was given.
        k: the coefficient's number, or [K] weights of a contrast.
    """
    direction = np.eye(x.shape[-1])[k] if isinstance(k, int) else k
    p = logistic((x @ fit.b[..., None])[..., 0])
    return (x @ (fit.covariance @ direction)[..., None])[..., 0] * (y - p)
