"""Worlds of a few prompts with many answers each, where every policy and its value are exact.

An answer has features; the true reward is linear in them, or is not (`tail`, `narrow`): then a
reward that is fitted to what the reference says is wrong where the optimised policy goes.

Shapes: P prompts, K answers, d features, N pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from tandem.errors import ConfigError
from tandem.statistics.numerics import Floats, Ints, logistic

WorldKind = Literal["linear", "tail", "narrow"]
LONGEST_STEP = 5.0
"""Of a weight in one step of a fit: further the curvature at hand means nothing."""
NEVER = 1e-300
"""A probability that only counts where all others are 0."""


@dataclass(frozen=True, eq=False)
class TabularWorld:
    """Prompts, answers, a reference policy and the truth.

    >>> world = draw_world("linear", np.random.default_rng(0))
    >>> round(world.regret(world.reward), 9)
    0.0

    Attributes:
        features: [P, K, d] what a reward can see of each answer.
        reward: [P, K] the truth.
        ref: [P, K] the reference policy.
        beta: price of a nat of KL to it.
        flips: share of labels that come out the wrong way round.
        exact: labels are probabilities and not draws, as of infinitely many annotators.
    """

    features: Floats
    reward: Floats
    ref: Floats
    beta: float = 0.3
    flips: float = 0.0
    exact: bool = False

    @property
    def prompts(self) -> int:
        """P."""
        return len(self.ref)

    def policy(self, scores: Floats, start: Floats | None = None) -> Floats:
        """[P, K] the optimum of E r - beta KL for these scores: start exp(scores / beta) / Z."""
        return softmax_rows(np.log(self.ref if start is None else start) + scores / self.beta)

    def value(self, policy: Floats) -> float:
        """E r* - beta KL(policy || ref), the mean over prompts."""
        log_ratio = np.log(np.maximum(policy, 1e-300)) - np.log(self.ref)
        return float((policy * (self.reward - self.beta * log_ratio)).sum(axis=1).mean())

    def regret(self, scores: Floats) -> float:
        """How much the policy of these scores is worth less than the best one."""
        return self.best - self.value(self.policy(scores))

    @property
    def best(self) -> float:
        """The value of the best policy."""
        return self.value(self.policy(self.reward))

    def draw_pairs(
        self, first: Floats, second: Floats, n: int, rng: np.random.Generator
    ) -> tuple[Ints, Ints, Ints]:
        """Draw n prompts, and an answer of each of two policies to them: three of [n].

        The answers differ: the law is that of pairs which are drawn until they do, since nobody
        is asked about one answer twice.
        """
        left = first * (1 - second) + NEVER
        x = rng.choice(self.prompts, n, p=left.sum(axis=1) / left.sum())
        a = _draw_rows(left[x], rng)
        others = second[x] + NEVER
        others[np.arange(n), a] = 0
        return x, a, _draw_rows(others, rng)

    def differences(self, x: Ints, a: Ints, b: Ints) -> Floats:
        """[N, d] features of the first answers less those of the second."""
        return self.features[x, a] - self.features[x, b]

    def label(self, x: Ints, a: Ints, b: Ints, rng: np.random.Generator, votes: int = 1) -> Floats:
        """[N] share of `votes` annotators who prefer the first answer."""
        p = logistic(self.reward[x, a] - self.reward[x, b])
        p = self.flips + (1 - 2 * self.flips) * p
        return p if self.exact else rng.binomial(votes, p) / votes

    def demonstrate(
        self, n: int, rng: np.random.Generator, skill: float = 0.5
    ) -> tuple[Ints, Ints]:
        """Draw n prompts and a writer's answer: ref exp(skill r / beta) / Z, two of [n]."""
        writer = softmax_rows(np.log(self.ref) + skill * self.reward / self.beta)
        x = rng.integers(0, self.prompts, n)
        return x, _draw_rows(writer[x], rng)


def softmax_rows(logits: Floats) -> Floats:
    """[P, K] probabilities."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def _draw_rows(probabilities: Floats, rng: np.random.Generator) -> Ints:
    edges = probabilities.cumsum(axis=1)
    return (edges < rng.random((len(edges), 1)) * edges[:, -1:]).sum(axis=1)


@dataclass(frozen=True)
class Tail:
    """Where the first feature, good at first, does harm that no feature tells.

    Attributes:
        strength: harm for each unit beyond the edge, times (w + floor).
        floor: see there.
        edge: where it begins.
        pull: how much the reference avoids the feature.
        bonus: what is added to the feature's weight.
    """

    strength: float
    floor: float
    edge: float
    pull: float
    bonus: float


TAILS = {"tail": Tail(0.6, 1.0, 1.0, 0.0, 0.5), "narrow": Tail(2.0, 0.0, 0.5, 1.0, 0.5)}


def draw_world(
    kind: WorldKind,
    rng: np.random.Generator,
    prompts: int = 30,
    answers: int = 64,
    size: int = 16,
    **more: float,
) -> TabularWorld:
    """Draw a world.

    `linear`: the reward is linear in its features. `tail`: beyond a point the first feature, which
    is good at first, does harm, and no feature tells. `narrow`: the same, stronger, and the
    reference hardly ever goes there.

    Args:
        kind: of the truth.
        rng: the draws.
        prompts: P.
        answers: K.
        size: d.
        more: beta, flips, exact.
    """
    if kind not in ("linear", "tail", "narrow"):
        raise ConfigError(
            f"a world of kind {kind!r}",
            "the truth is linear, or turns in its tail",
            "name one of linear, tail, narrow",
        )
    phi = rng.normal(size=(prompts, answers, size))
    w = 2 * rng.normal(size=size) / np.sqrt(size)
    logits = rng.normal(size=(prompts, answers))
    reward = phi @ w
    if kind != "linear":
        tail = TAILS[kind]
        w[0] = abs(w[0]) + tail.bonus
        harm = tail.strength * (w[0] + tail.floor) * np.maximum(phi[..., 0] - tail.edge, 0)
        reward, logits = phi @ w - harm, logits - tail.pull * phi[..., 0]
    return TabularWorld(phi, reward, softmax_rows(logits), **more)  # type: ignore[arg-type]


def fit_linear_reward(
    differences: Floats,
    labels: Floats,
    weight: npt.ArrayLike = 1.0,
    ridge: float = 1.0,
    steps: int = 50,
    flips: float = 0.0,
) -> tuple[Floats, Floats]:
    """Fit a Bradley-Terry reward that is linear in features, by Fisher scoring.

    Args:
        differences: [N, d].
        labels: [N] P(first is better).
        weight: [N] how much each comparison counts.
        ridge: prior precision of each weight.
        steps: most of them; it stops when nothing moves.
        flips: share of labels that are known to be the wrong way round.

    Returns:
        [d] the weights, and [d, d] their posterior covariance.
    """
    x, y = differences, labels
    c = np.broadcast_to(np.asarray(weight, np.float64), y.shape)
    w = np.zeros(x.shape[1])
    prior = ridge * np.eye(x.shape[1])
    curvature = prior
    for _ in range(steps):
        s = logistic(x @ w)
        slope = (1 - 2 * flips) * s * (1 - s)
        p = flips + (1 - 2 * flips) * s
        certain = slope / np.maximum(p * (1 - p), 1e-300) if flips else 1.0
        curvature = (x * (c * slope * certain)[:, None]).T @ x + prior
        step = np.linalg.solve(curvature, x.T @ (c * (y - p) * certain) - ridge * w)
        longest = float(np.abs(step).max())
        w = w + step * min(1.0, LONGEST_STEP / max(longest, 1e-300))
        if longest < 1e-10:
            break
    return w, np.linalg.inv(curvature)


def fit_demonstrations(
    world: TabularWorld, x: Ints, y: Ints, ridge: float = 1.0, steps: int = 30
) -> Floats:
    """[P, K] SFT: the policy ref exp(v' features) / Z that is likeliest to have written y.

    Args:
        world: the prompts and answers.
        x: [n] prompts.
        y: [n] the demonstrated answers.
        ridge: prior precision of v.
        steps: of Newton's method.
    """
    count = np.bincount(x, minlength=world.prompts).astype(np.float64)
    shown = world.features[x, y].sum(axis=0)
    v = np.zeros(world.features.shape[-1])
    for _ in range(steps):
        pi = softmax_rows(np.log(world.ref) + world.features @ v)
        mean = np.einsum("pk,pkd->pd", pi, world.features)
        square = np.einsum("p,pk,pkd,pke->de", count, pi, world.features, world.features)
        square -= np.einsum("p,pd,pe->de", count, mean, mean)
        step = np.linalg.solve(square + ridge * np.eye(len(v)), shown - count @ mean - ridge * v)
        v = v + step
        if np.abs(step).max() < 1e-9:
            break
    return softmax_rows(np.log(world.ref) + world.features @ v)
