"""One plan in one world: demonstrations, rounds of chosen pairs, a reward, the exact policy.

In each round a pool of pairs is drawn from the source, some are chosen and labelled, and a linear
reward is fitted anew to all labels so far. The policy is the exact optimum for it. So nothing but
the plan, the labels and the reward's form decides the regret. Free labels are added where they
are right more often than that reward; how often it is right is read off the truth, as a large
held-out set would tell.

Shapes: P prompts, K answers, N pairs, M posterior draws.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from tandem.planning.label_plan import LabelCosts, LabelPlan, PairSource
from tandem.planning.tabular_world import (
    TabularWorld,
    fit_demonstrations,
    fit_linear_reward,
)
from tandem.statistics.numerics import Floats, Ints, logistic
from tandem.statistics.pair_selection import PairPool, choose_pairs

MEMBERS = 4
"""Rewards drawn from the posterior, for the acquisitions that read an ensemble."""
LARGEST_POOL = 4096
"""Pairs from which are chosen, at most, unless more than half of them are needed."""


@dataclass(frozen=True)
class FreeLabels:
    """Labels that cost nothing: a policy's agreement with itself, or a language model's.

    Attributes:
        accuracy: how often they agree with the truth's sign.
        count: how many there are in a round.
    """

    accuracy: float = 0.7
    count: int = 200


@dataclass(eq=False)
class LabelledPairs:
    """Labelled pairs so far.

    Attributes:
        x: [N] prompts.
        a: [N] first answers.
        b: [N] second answers.
        p: [N] share of people who prefer the first.
        weight: [N] people behind it.
    """

    x: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    a: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    b: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    p: Floats = field(default_factory=lambda: np.empty(0))
    weight: Floats = field(default_factory=lambda: np.empty(0))

    def add(self, x: Ints, a: Ints, b: Ints, p: Floats, weight: float) -> None:
        """Add pairs with their labels."""
        new = (x, a, b, p, np.full(len(x), weight))
        for name, more in zip(("x", "a", "b", "p", "weight"), new, strict=True):
            setattr(self, name, np.concatenate([getattr(self, name), more]))


@dataclass(frozen=True, eq=False)
class SimulatedPlan:
    """What came of a plan.

    Attributes:
        regret: how much less the chosen policy is worth than the best.
        by_round: the regret of each round's policy; the start's comes first.
        cost: what was spent.
        labels: comparisons that were bought, evaluation included.
    """

    regret: float
    by_round: tuple[float, ...]
    cost: float
    labels: int


def simulate_plan(
    world: TabularWorld,
    plan: LabelPlan,
    total: float,
    costs: LabelCosts,
    rng: np.random.Generator,
    *,
    pool: int = 8,
    ridge: float = 1.0,
    free: FreeLabels | None = None,
    more: int = 0,
) -> SimulatedPlan:
    """Spend a budget as planned, and return the regret of the policy that comes of it.

    Args:
        world: where; annotators, the regret and the gate of free labels alone read its truth.
        plan: how.
        total: the budget.
        costs: of pairs, demonstrations and evaluation.
        rng: every draw.
        pool: pairs that are drawn for each that is chosen.
        ridge: prior precision of the reward's weights.
        free: labels that cost nothing, for plans that use them.
        more: comparisons that are bought beyond the budget, in the last round.
    """
    bought = plan.purchases(total, costs)
    *early, last = bought.rounds
    bought = replace(bought, rounds=(*early, last + more // plan.votes))
    start = world.ref
    if bought.demonstrations:
        x, y = world.demonstrate(bought.demonstrations, rng)
        start = fit_demonstrations(world, x, y, ridge)
    known, policies = LabelledPairs(), [start]
    w, covariance = np.zeros(world.features.shape[-1]), np.eye(world.features.shape[-1]) / ridge
    for n in bought.rounds:
        if n:
            buy_pairs(world, known, start, policies[-1], plan, n, w, covariance, rng, pool, ridge)
        w, covariance = fit_labels(world, known, ridge)
        if plan.free_labels and free is not None:
            add_free_labels(world, known, policies[-1], free, w, rng)
            w, covariance = fit_labels(world, known, ridge)
        policies.append(world.policy(world.features @ w, start))
    values = [world.best - world.value(pi) for pi in policies]
    chosen = choose_policy(world, policies[1:], bought.evaluation, rng)
    labels = sum(bought.rounds) * plan.votes + bought.evaluation
    return SimulatedPlan(values[1 + chosen], tuple(values), bought.cost, labels)


def fit_labels(world: TabularWorld, known: LabelledPairs, ridge: float) -> tuple[Floats, Floats]:
    """Fit a linear reward to all labels so far: [d] its weights, [d, d] their covariance."""
    d = world.differences(known.x, known.a, known.b)
    return fit_linear_reward(d, known.p, known.weight, ridge)


def sources_of(
    world: TabularWorld, source: PairSource, start: Floats, policy: Floats
) -> tuple[Floats, Floats]:
    """Return whose answers stand first and second."""
    return {
        "reference": (start, start),
        "policy": (policy, policy),
        "mix": (policy, start),
    }[source]


def buy_pairs(
    world: TabularWorld,
    known: LabelledPairs,
    start: Floats,
    policy: Floats,
    plan: LabelPlan,
    n: int,
    w: Floats,
    covariance: Floats,
    rng: np.random.Generator,
    pool: int,
    ridge: float,
) -> None:
    """Draw a pool, choose n pairs of it, and have them labelled."""
    many = n if plan.acquisition == "random" else min(n * pool, max(2 * n, LARGEST_POOL))
    first, second = sources_of(world, plan.source, start, policy)
    x, a, b = world.draw_pairs(first, second, many, rng)
    d = world.differences(x, a, b)
    if plan.acquisition != "random":
        # features in units of what is still uncertain: the design goes on from the labels so far
        root = np.linalg.cholesky(covariance * ridge + 1e-12 * np.eye(len(w)))
        members = w + rng.normal(size=(MEMBERS, len(w))) @ np.linalg.cholesky(covariance).T
        gaps = (d @ w)[None] if plan.acquisition == "d_optimal" else members @ d.T
        chosen = choose_pairs(
            PairPool(d @ root, gaps, ridge), n, plan.acquisition, plan.uniform, rng
        ).pairs
        x, a, b = x[chosen], a[chosen], b[chosen]
    known.add(x, a, b, world.label(x, a, b, rng, plan.votes), plan.votes)


def add_free_labels(
    world: TabularWorld,
    known: LabelledPairs,
    policy: Floats,
    free: FreeLabels,
    w: Floats,
    rng: np.random.Generator,
) -> None:
    """Add labels of the policy's own pairs, if they are more accurate than the reward itself."""
    x, a, b = world.draw_pairs(policy, policy, free.count, rng)
    better = world.reward[x, a] > world.reward[x, b]
    own = float(np.mean((world.differences(x, a, b) @ w > 0) == better))
    if free.accuracy <= own:
        return
    right = rng.random(free.count) < free.accuracy
    label = (better == right).astype(np.float64)
    known.add(x, a, b, free.accuracy * label + (1 - free.accuracy) * (1 - label), 1.0)


def choose_policy(
    world: TabularWorld, policies: list[Floats], comparisons: int, rng: np.random.Generator
) -> int:
    """Return which round's policy wins most of the evaluation comparisons; the last without any.

    Comparisons are shared out evenly over meetings of each policy with the last one; another has
    to win more than half by two standard errors.
    """
    last = len(policies) - 1
    each = comparisons // max(1, last)
    if not last or each < 1:
        return last
    scores = []
    for pi in policies[:-1]:
        x, a, b = world.draw_pairs(pi, policies[-1], each, rng)
        won = world.label(x, a, b, rng).mean()
        scores.append(won - 0.5 - 1.0 / np.sqrt(each))
    best = int(np.argmax(scores))
    return best if scores[best] > 0 else last


def label_accuracy(world: TabularWorld) -> float:
    """Return how often one annotator agrees with the truth on two answers of the reference."""
    gap = world.reward[:, :, None] - world.reward[:, None, :]
    both = world.ref[:, :, None] * world.ref[:, None, :]
    right = world.flips + (1 - 2 * world.flips) * logistic(np.abs(gap))
    apart = both * (gap != 0)
    return float((apart * right).sum() / apart.sum())
