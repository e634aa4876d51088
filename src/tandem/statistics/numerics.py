# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
"""The few functions of scipy that the statistics use, with types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy  # loads its parts when they are named: `scipy.stats` alone takes a third of a second
from scipy import optimize, special

Floats = npt.NDArray[np.floating[Any]]
Numbers = npt.NDArray[np.floating[Any]] | np.floating[Any] | float
Ints = npt.NDArray[np.integer[Any]]


def t_quantile(tail: float, df: float) -> float:
    """Return the t that a Student variable with df degrees of freedom exceeds with P = tail."""
    return -float(special.stdtrit(df, tail))


def t_tails(t: Numbers, df: Any) -> Floats:
    """Return P(T > t) for each t; df is one number, or one for each."""
    return np.asarray(special.stdtr(df, -t), np.float64)


def spread_points(n: int, dimensions: int) -> Floats:
    """Return [n, dimensions] points that fill the unit cube evenly, always the same; n = 2^k."""
    points: Any = scipy.stats.qmc.Sobol(dimensions, scramble=False).random(n)
    return np.asarray(points, np.float64) + 0.5 / n


def normal_cdf(z: Floats) -> Floats:
    """Return P(Z < z) for each z."""
    return np.asarray(special.ndtr(z), np.float64)


def noncentral_t(power: float, df: float, t: float) -> float:
    """Return the shift at which a noncentral t of df degrees of freedom exceeds t with P = power.

    The other tail is left out: at powers that anybody plans for it has no part.
    """

    def missing(shift: float) -> float:
        return power - float(scipy.stats.nct.sf(t, df, shift))

    return find_root(missing, 0.0, t + 40.0)


def f_quantile(p: float, df: float, other: float) -> float:
    """Return what an F variable stays below with P = p."""
    return float(special.fdtri(df, other, p))


def chi_squared_quantile(p: Floats, df: float) -> Floats:
    """Return what a chi-squared variable of df degrees of freedom stays below with P = p."""
    return 2 * np.asarray(special.gammaincinv(df / 2, p), np.float64)


def normal_quantile(tail: float) -> float:
    """Return the z that a standard normal variable exceeds with P = tail."""
    return -float(special.ndtri(tail))


def normal_tails(z: Numbers) -> Floats:
    """Return P(Z > z) for each z."""
    return np.asarray(special.ndtr(-z), np.float64)


def logistic(x: Numbers) -> Floats:
    """Return 1 / (1 + e^-x) without overflow."""
    return np.asarray(special.expit(x), np.float64)


def log_sigmoid(x: Floats) -> Floats:
    """Return log(logistic(x)) without underflow."""
    return np.asarray(special.log_expit(x), np.float64)


def midranks(x: Floats) -> Floats:
    """Return ranks from 1; equal numbers share the mean of their ranks."""
    return np.asarray(scipy.stats.rankdata(x), np.float64)


def xlogx(x: Floats) -> Floats:
    """Return x log x, which is 0 at 0."""
    return np.asarray(special.xlogy(x, x), np.float64)


def find_root(f: Callable[[float], float], low: float, high: float) -> float:
    """Return where f crosses zero between low and high."""
    answer: Any = optimize.brentq(f, low, high)
    return float(answer)


def find_minimum(f: Callable[[float], float], low: float, high: float) -> float:
    """Return the x in [low, high] at which f is smallest; f has one dip."""
    answer: Any = optimize.minimize_scalar(
        f, bounds=(low, high), method="bounded", options={"xatol": 1e-10}
    )
    return float(answer.x)
