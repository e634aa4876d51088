"""The exact mathematics of best-of-n: draw n completions, keep the one a judge likes best.

    y_1, ..., y_n ~ pi_ref independently;   answer argmax_i r(y_i)

Nothing is trained. The law of the answer, the price in KL and the whole curve over n are known:
on a finite set from the law itself (`law`, `kl_exact`), for a real model from one pool of N
samples a prompt (`curve`). Ties in the score are broken at random, everywhere alike.

Best-of-n is not the KL-regularised optimum pi*: at equal KL its expected reward is at most that
of pi*, though usually close. With a learned score, gold rises with n and then turns over
(Gao et al. 2022, arXiv:2210.10760): report n with every number.

Shapes: Y outcomes of a finite set, N samples of a pool, K values of n.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tandem.errors import ConfigError, DataError
from tandem.statistics.numerics import Floats

Numbers = Sequence[float] | npt.NDArray[np.floating[Any]]


def best_of_n_law(p: Numbers, r: Numbers, n: int) -> Floats:
    """Return the exact law of best-of-n on a finite set.

    Args:
        p: [Y] probabilities under the policy that is sampled.
        r: [Y] scores.
        n: draws, at least 1.

    Returns:
        [Y] q(y) = (F(r_y)^n - F(r_y-)^n) p(y) / mass of its tie, where F(v) is the mass of scores
        at most v and F(v-) of scores below v: the best score is v when all n are at most v, but
        not all below, and each outcome has its share of the tie.

    Raises:
        DataError: p is not a law, or r is not as long, or holds what is not a number.
        ConfigError: n is below 1.
    """
    q, score = _law_and_scores(p, r)
    _at_least_one(n)
    _, tie = np.unique(score, return_inverse=True)
    mass = np.bincount(tie, weights=q)
    upper = np.minimum(np.cumsum(mass), 1.0)
    upper[-1] = 1.0
    lower = np.concatenate([[0.0], upper[:-1]])
    share = np.divide(q, mass[tie], out=np.zeros_like(q), where=mass[tie] > 0)
    return (upper**n - lower**n)[tie] * share


def kl_exact(p: Numbers, r: Numbers, n: int) -> float:
    """Return KL(best-of-n || policy) in nats on a finite set; never above -log p(argmax r)."""
    q, reference = best_of_n_law(p, r, n), np.asarray(p, np.float64)
    seen = q > 0
    return float(np.sum(q[seen] * np.log(q[seen] / reference[seen])))


def kl_bound(n: int) -> float:
    """Return log n - (n - 1)/n, in nats and per prompt.

    This is KL(best-of-n || policy) only where no two draws can tie in score, as with long
    completions. With atoms it is an upper bound, and a loose one for large n: on four outcomes
    (.4, .3, .2, .1) at n = 64 it says 3.17 where the truth is 2.29, and no n can exceed
    -log p(best) = 2.30 (Beirami et al. 2024, arXiv:2401.01879). It is a distance from the
    policy that was sampled, not from any other reference.
    """
    _at_least_one(n)
    return math.log(n) - (n - 1) / n


def order_weights(pool: int, n: int) -> Floats:
    """Return [N] probabilities that the i-th worst of a pool is the best of n drawn from it.

    C(i - 1, n - 1) / C(N, n) for i = 1..N: the i-th is chosen and the other n - 1 are below it.
    Computed downwards from n/N by ratios of neighbours, so nothing overflows.
    """
    _at_least_one(n)
    if n > pool:
        raise ConfigError(
            f"n = {n} with a pool of {pool} samples a prompt",
            "the best of n needs n different samples; reusing them would bias the curve",
            f"sample at least {n} completions a prompt, or ask for n up to {pool}",
        )
    i = np.arange(pool, 1, -1)
    down = np.concatenate([[n / pool], np.maximum(i - n, 0) / (i - 1)])
    return np.cumprod(down, dtype=np.float64)[::-1]


def best_of_n_curve(
    scores: Numbers | npt.NDArray[Any], gold: Numbers | npt.NDArray[Any], ns: Sequence[int]
) -> Floats:
    """Estimate what best-of-n gains for every n from one pool, without bias.

    The mean of `gold` over all C(N, n) ways to draw n of the N samples and keep the one with the
    highest score (Stiennon et al. 2020, arXiv:2009.01325, appendix). Draws of different n share
    the pool, so the points of a curve are correlated; prompts are independent.

    Args:
        scores: [..., N] the judge that chooses (proxy), for example [prompts, N].
        gold: [..., N] what the chosen one is worth; the same array gives the proxy's own curve.
        ns: [K] values of n, each from 1 to N.

    Returns:
        [..., K].

    Raises:
        DataError: shapes differ, or a score is not a number.
        ConfigError: an n is below 1 or above N.
    """
    s, g = np.asarray(scores, np.float64), np.asarray(gold, np.float64)
    if s.shape != g.shape or s.ndim == 0 or not np.isfinite(s).all():
        raise DataError(
            f"scores of shape {s.shape} and gold of shape {g.shape}"
            + ("" if np.isfinite(s).all() else ", with scores that are not numbers"),
            "each sample of the pool needs one finite score and one gold value",
            "judge every completion of the pool with both judges",
        )
    order = np.argsort(s, axis=-1, kind="stable")
    s, g = (np.take_along_axis(x, order, -1) for x in (s, g))
    rows = (x.reshape(-1, s.shape[-1]) for x in (s, g))
    flat = [_level(a, b) for a, b in zip(*rows, strict=True)]
    levelled = np.reshape(flat, g.shape)
    return np.stack([levelled @ order_weights(g.shape[-1], n) for n in ns], -1)


def _level(scores: Floats, gold: Floats) -> Floats:
    """Replace gold by its mean within ties of sorted scores: each of a tie wins equally often."""
    _, tie = np.unique(scores, return_inverse=True)
    return (np.bincount(tie, weights=gold) / np.bincount(tie))[tie]


def _law_and_scores(p: Numbers, r: Numbers) -> tuple[Floats, Floats]:
    q, score = np.asarray(p, np.float64), np.asarray(r, np.float64)
    if q.ndim != 1 or q.shape != score.shape or not np.isfinite(score).all():
        raise DataError(
            f"probabilities of shape {q.shape} and scores of shape {score.shape}",
            "each outcome needs one probability and one finite score",
            "give two vectors of the same length",
        )
    if (q < 0).any() or abs(q.sum() - 1) > 1e-6:
        raise DataError(
            f"the probabilities sum to {q.sum():.6f}, the smallest is {q.min():.6f}",
            "a law is non-negative and sums to 1",
            "normalise it first",
        )
    return q / q.sum(), score


def _at_least_one(n: int) -> None:
    if n < 1:
        raise ConfigError(
            f"n = {n}",
            "best-of-n keeps one of n draws",
            "give n of 1 or more; 1 is the policy itself",
        )
