"""How much of a game is a ranking, and how much goes round in circles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tandem.errors import DataError
from tandem.statistics.games.matrix import PreferenceMatrix
from tandem.statistics.numerics import Floats

Scale = Literal["log-odds", "difference"]


@dataclass(frozen=True, eq=False)
class Decomposition:
    """Preferences as a ranking plus what no ranking can hold.

    Attributes:
        names: n names.
        ratings: [n] the best-fitting rating of each; they add up to 0.
        cyclic: [n, n] preferences minus differences of ratings: antisymmetric, rows add up to 0.
        share: from 0 (a ranking explains all) to 1 (nothing): squared norm of `cyclic` over
            that of all preferences; 0 where nobody is preferred to anybody.
        scale: what was decomposed: `log-odds`, log(p / (1 - p)), of which nothing is cyclic
            exactly where Bradley-Terry holds; or `difference`, p - 1/2.
    """

    names: tuple[str, ...]
    ratings: Floats
    cyclic: Floats
    share: float
    scale: Scale


def decompose(matrix: PreferenceMatrix, scale: Scale = "log-odds") -> Decomposition:
    """Split preferences into differences of ratings and a cyclic rest (Hodge decomposition).

    Every pair counts the same, so that the least-squares ratings are the means of the rows, and
    the rest is made of cycles of three (Jiang et al., arXiv:0811.1067).

    Args:
        matrix: the game.
        scale: `log-odds` or `difference`.

    Raises:
        DataError: on the scale of log-odds, where some preference is certain.

    Example:
        >>> rps = PreferenceMatrix("RPS", [[.5, .1, .9], [.9, .5, .1], [.1, .9, .5]])
        >>> decompose(rps).share
        1.0
    """
    if scale == "difference":
        return decompose_flow(matrix.names, matrix.advantage, scale)
    certain = (matrix.p == 0) | (matrix.p == 1)
    if certain.any():
        i, j = (int(k) for k in np.argwhere(certain)[0])
        raise DataError(
            f"P({matrix.names[i]} beats {matrix.names[j]}) is {matrix.p[i, j]:g}",
            "the log-odds of what is certain are infinite",
            'decompose with scale="difference"',
        )
    return decompose_flow(matrix.names, np.log(matrix.p) - np.log(matrix.p.T), scale)


def decompose_flow(names: Sequence[str], flow: Floats, scale: Scale) -> Decomposition:
    """Split an antisymmetric matrix into differences of ratings and a cyclic rest.

    Args:
        names: n names.
        flow: [n, n] how much each is preferred to each other, with flow = -flow.T.
        scale: what the numbers are.
    """
    ratings = flow.mean(1)
    cyclic = flow - (ratings[:, None] - ratings)
    total = float((flow**2).sum())
    share = float((cyclic**2).sum()) / total if total else 0.0
    return Decomposition(tuple(names), ratings, cyclic, min(1.0, share), scale)


def cyclic_triples(matrix: PreferenceMatrix) -> tuple[int, int]:
    """Count the triples that go in a circle by majority, a over b over c over a; and all."""
    beats = (matrix.p > 0.5).astype(np.float64)
    n = len(matrix)
    return round(float(np.trace(beats @ beats @ beats)) / 3), n * (n - 1) * (n - 2) // 6


def top_cycle(matrix: PreferenceMatrix) -> tuple[str, ...]:
    """Return the smallest set of names that beat all others by majority (the Smith set).

    One name is a Condorcet winner: a majority prefers it to each other. More than one stand in a
    cycle, or tie.
    """
    reaches = (matrix.p >= 0.5).astype(np.float64)
    for _ in range(max(1, len(matrix).bit_length())):
        reaches = ((reaches @ reaches) > 0).astype(np.float64)
    return tuple(name for name, row in zip(matrix.names, reaches, strict=True) if row.all())
