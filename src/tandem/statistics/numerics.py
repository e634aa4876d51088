# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
"""The few functions of scipy that the statistics use, with types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize, special, stats

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]


def t_quantile(tail: float, df: float) -> float:
    """Return the t that a Student variable with df degrees of freedom exceeds with P = tail."""
    return -float(special.stdtrit(df, tail))


def t_tail(t: float, df: float) -> float:
    """Return P(T > t) of a Student variable with df degrees of freedom."""
    return float(special.stdtr(df, -t))


def t_tails(t: Floats, df: float) -> Floats:
    """Return P(T > t) for each t."""
    return np.asarray(special.stdtr(df, -t), np.float64)


def chi_squared_quantile(p: Floats, df: float) -> Floats:
    """Return what a chi-squared variable of df degrees of freedom stays below with P = p."""
    return 2 * np.asarray(special.gammaincinv(df / 2, p), np.float64)


def normal_quantile(tail: float) -> float:
    """Return the z that a standard normal variable exceeds with P = tail."""
    return -float(special.ndtri(tail))


def normal_tail(z: float) -> float:
    """Return P(Z > z) of a standard normal variable."""
    return float(special.ndtr(-z))


def logistic(x: Floats) -> Floats:
    """Return 1 / (1 + e^-x) without overflow."""
    return np.asarray(special.expit(x), np.float64)


def log_sigmoid(x: Floats) -> Floats:
    """Return log(logistic(x)) without underflow."""
    return np.asarray(special.log_expit(x), np.float64)


def midranks(x: Floats) -> Floats:
    """Return ranks from 1; equal numbers share the mean of their ranks."""
    return np.asarray(stats.rankdata(x), np.float64)


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
