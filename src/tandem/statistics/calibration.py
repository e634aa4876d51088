"""Are predicted probabilities right: accuracy, log-loss, Brier, ECE, temperature, AUROC.

Throughout, `difference` [M] is a reward model's score of one answer minus that of the other, and
`y` [M] in [0, 1] is the share of judges who preferred the first. Present the two in random order
first: if the winner always comes first, every y is 1 and calibration means nothing.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tandem.errors import DataError
from tandem.statistics.numerics import Floats, find_minimum, log_sigmoid, logistic, midranks

PROBABILITY_FLOOR = 1e-12


class Bin(NamedTuple):
    """One bin of a reliability diagram."""

    n: int
    confidence: float
    frequency: float


def ordering_credit(difference: npt.ArrayLike, y: npt.ArrayLike) -> Floats:
    """Return [M] credit: 1 where the sign of the difference agrees with the majority, .5 on a tie.

    A tie of the judges (y = .5) gives .5 whatever the model says.
    """
    signs = np.sign(np.asarray(difference, np.float64)) * np.sign(np.asarray(y) - 0.5)
    return (1 + signs) / 2


def accuracy(difference: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Return the share of comparisons that the model orders as the judges did, ties half."""
    return float(ordering_credit(difference, y).mean())


def log_loss(p: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Return the mean of -y log p - (1 - y) log(1 - p), in nats; ln 2 is a coin."""
    q = np.clip(np.asarray(p, np.float64), PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
    target = np.asarray(y, np.float64)
    return float(-(target * np.log(q) + (1 - target) * np.log1p(-q)).mean())


def brier(p: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Return the mean squared distance of probability and outcome; .25 is a coin."""
    return float(((np.asarray(p, np.float64) - np.asarray(y, np.float64)) ** 2).mean())


def reliability_bins(p: npt.ArrayLike, y: npt.ArrayLike, bins: int = 15) -> list[Bin]:
    """Cut predictions into bins of about equal mass: mean confidence against frequency in each.

    Equal predictions share a bin, whatever their order: a cut that falls among them moves to the
    nearer end of the tie. So there are fewer bins where predictions repeat.
    """
    confidence, outcome = np.asarray(p, np.float64), np.asarray(y, np.float64)
    if len(confidence) < bins:
        raise DataError(
            f"{len(confidence)} predictions for {bins} bins",
            "an empty bin has no frequency",
            f"give at least {bins} predictions, or fewer bins",
        )
    order = np.argsort(confidence, kind="stable")
    ranked = confidence[order]
    planned = np.cumsum([len(part) for part in np.array_split(order, bins)])[:-1]
    first, after = (np.searchsorted(ranked, ranked[planned], side) for side in ("left", "right"))
    cuts = np.where(planned - first <= after - planned, first, after)
    return [
        Bin(len(part), float(confidence[part].mean()), float(outcome[part].mean()))
        for part in np.split(order, np.unique(cuts))
        if len(part)
    ]


def ece(p: npt.ArrayLike, y: npt.ArrayLike, bins: int = 15) -> float:
    """Return the expected calibration error: sum over bins of (n_b / n) |frequency - confidence|.

    Bins of about equal mass, ties together. Noise alone makes it positive: about
    .4 sqrt(bins / n) near p = .5.
    """
    parts = reliability_bins(p, y, bins)
    total = sum(part.n for part in parts)
    return sum(part.n / total * abs(part.frequency - part.confidence) for part in parts)


def temperature_scale(difference: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Return the T in [1/1000, 1000] that makes logistic(difference / T) likeliest."""
    d, target = np.asarray(difference, np.float64), np.asarray(y, np.float64)

    def loss(log_t: float) -> float:
        z = d * math.exp(-log_t)
        return float(-(target * log_sigmoid(z) + (1 - target) * log_sigmoid(-z)).mean())

    return math.exp(find_minimum(loss, -math.log(1000), math.log(1000)))


def win_probability_of(difference: npt.ArrayLike, temperature: float = 1.0) -> Floats:
    """Return sigmoid(difference / temperature)."""
    return logistic(np.asarray(difference, np.float64) / temperature)


def auroc(score: npt.ArrayLike, positive: npt.ArrayLike) -> float:
    """Return P(score of a positive > score of a negative), ties half; nan if a class is empty."""
    flags = np.asarray(positive, np.bool_)
    n, m = int(flags.sum()), int((~flags).sum())
    if n == 0 or m == 0:
        return float("nan")
    ranks = midranks(np.asarray(score, np.float64))
    return float((ranks[flags].sum() - n * (n + 1) / 2) / (n * m))
