"""What a scalar reward would have said about a game, and where it is wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tandem.errors import DataError
from tandem.statistics.games.matrix import PreferenceMatrix
from tandem.statistics.numerics import Floats, expit, log_sigmoid

PRIOR_SD = 10.0
"""Standard deviation in nats of the prior that keeps rewards finite where data do not."""

EVEN = 1e-9
"""Rewards and preferences nearer than this are called even."""


@dataclass(frozen=True, eq=False)
class RewardFit:
    """Bradley-Terry rewards of a game: P(i beats j) = expit(r_i - r_j), as near as it gets.

    Attributes:
        names: n names.
        rewards: [n] in nats; they add up to 0.
        predicted: [n, n] the probabilities that these rewards give.
        is_finite: False where somebody never loses to some others, so that a prior (`PRIOR_SD`)
            had to hold the rewards.
    """

    names: tuple[str, ...]
    rewards: Floats
    predicted: Floats
    is_finite: bool

    @property
    def ranking(self) -> tuple[str, ...]:
        """The names, best first; even ones in their own order."""
        order = np.argsort(-np.round(self.rewards / EVEN), kind="stable")
        return tuple(self.names[int(k)] for k in order)

    @property
    def best_policy(self) -> Floats:
        """The policy that plays what has the highest reward, [n]; even ones equally often."""
        top = self.rewards >= self.rewards.max() - EVEN
        return top / top.sum()


@dataclass(frozen=True, slots=True)
class WrongPair:
    """A pair on which Bradley-Terry does not say what the preferences say.

    Attributes:
        winner: who is preferred.
        loser: the other.
        preference: how often the winner is preferred, above one half.
        predicted: how often it is according to Bradley-Terry, at most one half.
    """

    winner: str
    loser: str
    preference: float
    predicted: float

    @property
    def is_reversed(self) -> bool:
        """True where Bradley-Terry names the other; False where it calls them even."""
        return self.predicted < 0.5


def fit_rewards(matrix: PreferenceMatrix, weights: npt.ArrayLike | None = None) -> RewardFit:
    """Fit Bradley-Terry rewards to a game's preferences by maximum likelihood.

    Unless Bradley-Terry holds, they depend on which pairs were asked how often. A preference
    model does not.

    Args:
        matrix: the game.
        weights: [n, n] symmetric: how often each pair is asked; every pair once if not given.

    Raises:
        DataError: the weights are not symmetric, negative, or leave the game in two parts.

    Example:
        >>> rps = PreferenceMatrix("RPS", [[.5, .1, .9], [.9, .5, .1], [.1, .9, .5]])
        >>> law = [.6, .3, .1]
        >>> fit_rewards(rps, [[a * b for b in law] for a in law]).ranking
        ('P', 'R', 'S')
    """
    n = len(matrix)
    w = np.array(np.ones((n, n)) if weights is None else weights, np.float64)
    np.fill_diagonal(w, 0)
    _check_weights(matrix, w)
    is_finite = bool(_reaches((w * matrix.p) > 0).all())
    rewards = _maximise(matrix.p, w, 0.0 if is_finite else 1 / PRIOR_SD**2)
    return RewardFit(matrix.names, rewards, expit(rewards[:, None] - rewards), is_finite)


def wrong_pairs(matrix: PreferenceMatrix, fit: RewardFit) -> tuple[WrongPair, ...]:
    """Return the pairs whose preferred side Bradley-Terry does not prefer, the worst first."""
    gaps = fit.rewards[:, None] - fit.rewards
    wrong = (matrix.p > 0.5 + EVEN) & (gaps <= EVEN)
    found = [
        WrongPair(
            matrix.names[i],
            matrix.names[j],
            float(matrix.p[i, j]),
            0.5 if abs(gaps[i, j]) <= EVEN else float(fit.predicted[i, j]),
        )
        for i, j in _places(wrong)
    ]
    return tuple(sorted(found, key=lambda pair: pair.predicted - pair.preference))


def _places(where: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    return [(int(i), int(j)) for i, j in zip(*np.nonzero(where), strict=True)]


def _check_weights(matrix: PreferenceMatrix, w: Floats) -> None:
    if w.shape != matrix.p.shape or not np.isfinite(w).all() or w.min() < 0 or (w != w.T).any():
        raise DataError(
            f"weights of shape {w.shape} that are not symmetric, finite and 0 or more",
            "a weight says how often a pair is asked, whoever is named first",
            "give w + w.T",
        )
    linked = _reaches(w > 0)
    if not linked.all():
        i, j = (int(k) for k in np.argwhere(~linked)[0])
        raise DataError(
            f"`{matrix.names[i]}` and `{matrix.names[j]}` are not compared, not even by others",
            "rewards of two parts that never met have no common zero",
            "ask about a pair of the two parts, or fit each part alone",
        )


def _reaches(edges: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    reached = (edges | np.eye(len(edges), dtype=np.bool_)).astype(np.float64)
    for _ in range(max(1, len(edges).bit_length())):
        reached = ((reached @ reached) > 0).astype(np.float64)
    return reached > 0


def _maximise(p: Floats, w: Floats, ridge: float) -> Floats:
    """Return the rewards of highest likelihood by Newton's method with halved steps."""
    n = len(p)
    r = np.zeros(n)
    centre = np.full((n, n), float(w.sum()) / n**2)

    def likelihood(x: Floats) -> float:
        return float((w * p * log_sigmoid(x[:, None] - x)).sum()) - ridge * float(x @ x) / 2

    value = likelihood(r)
    for _ in range(200):
        q = expit(r[:, None] - r)
        slope = (w * (p - q)).sum(1) - ridge * r
        curve = w * q * q.T
        hessian = np.diag(curve.sum(1) + ridge) - curve
        step, size = np.asarray(np.linalg.solve(hessian + centre, slope), np.float64), 1.0
        while (after := likelihood(r + size * step)) < value and size > 1e-9:
            size /= 2
        if size <= 1e-9 or float(np.abs(step).max()) < 1e-13:
            break
        r, value = r + size * step, after
    return r - r.mean()
