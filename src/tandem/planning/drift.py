"""Worlds that move, and rewards that follow: what is remembered of old labels.

In each round the policy is the optimum for the reward so far, is measured in the world as it is
now, and then new labels are bought on its own answers. Five memories are compared at the same
number of labels:

    static     the first round's labels alone; later ones are not bought
    all        every label so far, mixed
    window     the last rounds' labels
    decay      every label, its weight falling with its age
    detector   all of them, until the reward is surprised by new labels; then only the new ones

Shapes: T rounds, P prompts, K answers, d features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from tandem.errors import ConfigError
from tandem.planning.simulation import LabelledPairs
from tandem.planning.tabular_world import TabularWorld, draw_world, fit_linear_reward
from tandem.statistics.numerics import Floats, logistic

DriftKind = Literal["none", "rotation", "flip", "prompts", "annotators"]
Memory = Literal["static", "all", "window", "decay", "detector"]
MEMORIES: tuple[Memory, ...] = get_args(Memory)
SURPRISE = 3.0
"""Standard errors by which log-loss on new labels must rise before old ones are dropped."""
RECOVERED = 1.5
"""A policy has recovered when its regret is at most so many times what it was before."""


@dataclass(frozen=True)
class DriftSetting:
    """How a world moves.

    Attributes:
        kind: rotation of the tastes, an abrupt flip of one feature, a shift of the prompts, a
            change of annotators (who err more, and pay for a feature that is worth nothing).
        rounds: T.
        labels: comparisons a round.
        angle: rotation: radians a round.
        at: flip, annotators: the round of the change.
        window: rounds that `window` keeps.
        decay: weight of a label for each round of age, in `decay`.
    """

    kind: DriftKind = "rotation"
    rounds: int = 12
    labels: int = 64
    angle: float = 0.2
    at: int = 6
    window: int = 3
    decay: float = 0.6

    def __post_init__(self) -> None:
        if self.kind not in get_args(DriftKind):
            raise ConfigError(
                f"drift = {self.kind!r}",
                f"a world moves in one of the ways {', '.join(get_args(DriftKind))}",
                "name one of them",
            )


@dataclass(frozen=True, eq=False)
class DriftedWorld:
    """A world as it is in every round.

    Attributes:
        worlds: [T] the truth and the prompts that are met.
        flips: [T] share of wrong labels.
        bias: [T] what the annotators of a round pay for the last feature.
    """

    worlds: tuple[TabularWorld, ...]
    flips: tuple[float, ...]
    bias: tuple[float, ...]


def draw_drift(setting: DriftSetting, rng: np.random.Generator, flips: float = 0.1) -> DriftedWorld:
    """Draw a world that moves as asked; at round 0 it has not moved yet.

    Args:
        setting: how.
        rng: the draws.
        flips: share of wrong labels.
    """
    start = draw_world("linear", rng, prompts=32)
    phi, size = start.features, start.features.shape[-1]
    w = np.linalg.lstsq(phi.reshape(-1, size), start.reward.reshape(-1), rcond=None)[0]
    other = rng.normal(size=size)
    other -= w * (other @ w) / (w @ w)
    other *= np.linalg.norm(w) / np.linalg.norm(other)
    w[0] = max(abs(w[0]), np.linalg.norm(w) / 2) if setting.kind == "flip" else w[0]
    worlds, errs, bias = [], [], []
    for t in range(setting.rounds):
        now, changed = w.copy(), t >= setting.at
        if setting.kind == "rotation":
            now = np.cos(setting.angle * t) * w + np.sin(setting.angle * t) * other
        if setting.kind == "flip" and changed:
            now[0] = -w[0]
        seen = start
        if setting.kind == "prompts":
            seen = topic_of(start, t, rounds=setting.rounds)
        worlds.append(replace(seen, reward=seen.features @ now))
        moved = setting.kind == "annotators" and changed
        errs.append(0.3 if moved else flips)
        bias.append(0.5 * float(np.linalg.norm(w)) if moved else 0.0)
    return DriftedWorld(tuple(worlds), tuple(errs), tuple(bias))


def topic_of(world: TabularWorld, t: int, rounds: int, topics: int = 4) -> TabularWorld:
    """Return the prompts of a round's topic, in whose answers other features vary.

    Each topic's answers differ in its own quarter of the features alone, so that what was learned
    of one topic says nothing of another.
    """
    topic = t * topics // rounds
    each, size = world.prompts // topics, world.features.shape[-1] // topics
    rows = slice(topic * each, (topic + 1) * each)
    seen = np.zeros(world.features.shape[-1])
    seen[topic * size : (topic + 1) * size] = 2.0
    return replace(
        world, features=world.features[rows] * seen, reward=world.reward[rows], ref=world.ref[rows]
    )


@dataclass(frozen=True, eq=False)
class DriftRun:
    """How one memory did.

    Attributes:
        regret: [T] in the world as it was in each round.
        labels: comparisons that were bought.
        alarms: rounds at which the detector dropped old labels.
        forgetting: how much more regret the last policy has in the first round's world than the
            policy of the second round had there.
    """

    regret: Floats
    labels: int
    alarms: tuple[int, ...]
    forgetting: float

    @property
    def dynamic_regret(self) -> float:
        """The sum over rounds."""
        return float(self.regret.sum())

    def recovery_time(self, at: int) -> int:
        """Rounds from a change until the regret is near what it was before; T if it never is."""
        before = max(float(self.regret[max(1, at - 3) : at].mean()), 1e-9)
        near = np.flatnonzero(self.regret[at:] <= RECOVERED * before)
        return int(near[0]) if len(near) else len(self.regret) - at


def follow_drift(
    moving: DriftedWorld, memory: Memory, setting: DriftSetting, rng: np.random.Generator
) -> DriftRun:
    """Go through all rounds with one memory.

    Args:
        moving: the world.
        memory: which labels the reward is fitted to.
        setting: labels a round, window, decay.
        rng: every draw.
    """
    first, size = moving.worlds[0], moving.worlds[0].features.shape[-1]
    tranches: list[tuple[Floats, Floats]] = []
    w, since, alarms, regrets = np.zeros(size), 0, list[int](), list[float]()
    early = 0.0
    for t, world in enumerate(moving.worlds):
        scores = world.features @ w
        regrets.append(world.regret(scores))
        if t == 1:
            early = first.regret(first.features @ w)
        if memory == "static" and t:
            continue
        d, p = buy_tranche(moving, t, world.policy(scores), setting.labels, rng)
        if memory == "detector" and is_surprised(tranches[since:], (d, p)):
            alarms, since = [*alarms, t], t
        tranches.append((d, p))
        weights = [weight_of(memory, t - k, setting) * (k >= since) for k in range(len(tranches))]
        w = fit_tranches(tranches, weights)
    forgotten = first.regret(first.features @ w) - early
    bought = setting.labels * len(tranches)
    return DriftRun(np.array(regrets), bought, tuple(alarms), forgotten)


def buy_tranche(
    moving: DriftedWorld, t: int, policy: Floats, labels: int, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Have a round's annotators compare an answer of the policy with one of the reference."""
    world = moving.worlds[t]
    known = LabelledPairs()
    x, a, b = world.draw_pairs(policy, world.ref, labels, rng)
    d = world.differences(x, a, b)
    gap = world.reward[x, a] - world.reward[x, b] + moving.bias[t] * d[:, -1]
    chance = moving.flips[t] + (1 - 2 * moving.flips[t]) * logistic(gap)
    known.add(x, a, b, rng.binomial(1, chance).astype(np.float64), 1.0)
    return d, known.p


def weight_of(memory: Memory, age: int, setting: DriftSetting) -> float:
    """Return how much a label counts that is so many rounds old."""
    if memory == "window":
        return float(age < setting.window)
    return setting.decay**age if memory == "decay" else 1.0


def fit_tranches(
    tranches: Sequence[tuple[Floats, Floats]], weights: Sequence[float], ridge: float = 1.0
) -> Floats:
    """[d] a linear reward fitted to tranches, each with its weight."""
    d = np.concatenate([d for d, _ in tranches])
    p = np.concatenate([p for _, p in tranches])
    each = np.concatenate([np.full(len(p), c) for (_, p), c in zip(tranches, weights, strict=True)])
    return fit_linear_reward(d, p, each, ridge)[0]


def is_surprised(old: Sequence[tuple[Floats, Floats]], new: tuple[Floats, Floats]) -> bool:
    """True where log-loss on new labels is far above that on the last old ones.

    The reward that is fitted to all but the last old tranche predicts that one, and the reward
    that is fitted to all of them predicts the new: both losses are of labels that were not seen.
    """
    if len(old) < 2:
        return False
    before = log_losses(fit_tranches(old[:-1], [1.0] * (len(old) - 1)), old[-1])
    after = log_losses(fit_tranches(old, [1.0] * len(old)), new)
    error = np.sqrt(before.var(ddof=1) / len(before) + after.var(ddof=1) / len(after))
    return bool(after.mean() - before.mean() > SURPRISE * error)


def log_losses(w: Floats, tranche: tuple[Floats, Floats]) -> Floats:
    """[N] -log of the probability that a reward gives to each label."""
    d, p = tranche
    z = d @ w
    return p * np.logaddexp(0, -z) + (1 - p) * np.logaddexp(0, z)
