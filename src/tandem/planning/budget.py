"""Which plan for a budget: many plans in many simulated worlds, paired, with intervals.

    advice = plan_budget(1000, LabelCosts(), mixed_worlds())
    print(advice)

Plans are sieved: all of them on a few worlds, the better ones on more. The winner's numbers come
from worlds that had no say in choosing it, so its predicted regret is not the luckiest one.

Shapes: S worlds.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tandem.errors import ConfigError
from tandem.evaluation.tables import Table
from tandem.planning.label_plan import LabelCosts, LabelPlan, PairSource, Purchases
from tandem.planning.simulation import FreeLabels, simulate_plan
from tandem.planning.tabular_world import TabularWorld, WorldKind, draw_world
from tandem.statistics import Estimate, mean_over_seeds
from tandem.statistics.numerics import Floats

WorldSource = Callable[[int], TabularWorld]
"""A number -> the world of that number, the same each time."""

NAIVE: dict[str, LabelPlan] = {
    "all at once, random": LabelPlan(acquisition="random"),
    "half demonstrations": LabelPlan(demonstrations=0.5, acquisition="random"),
    "four even rounds": LabelPlan(rounds=4, source="policy", acquisition="random"),
}
"""What one would do without a plan."""
NEXT_LABELS = 100
CURVE = (0.25, 0.5, 1.0, 2.0)
"""Shares of the budget at which the picture's curve has points."""
FEWEST_WORLDS = 8
MOST_PAIRS = 10_000
"""Comparisons up to which plans are tried: the time of a design grows with their square."""
MOST_DRAWN = 1_000_000
"""Demonstrations, or evaluation comparisons: they are only drawn."""
UNKNOWN_FLIPS = (0.05, 0.35, 0.15, 0.25)


def mixed_worlds(
    kinds: Sequence[WorldKind] = ("linear", "tail", "narrow"),
    flips: float | None = None,
    size: int = 16,
    seed: int = 0,
) -> WorldSource:
    """Return worlds of these kinds in turn.

    Args:
        kinds: of the truth.
        flips: share of wrong labels; None takes `UNKNOWN_FLIPS` in turn, because before there are
            labels nobody knows it, and a range of gains that ignores that is too narrow.
        size: features of the reward: how much there is to learn.
        seed: root of the draws.
    """

    def world(number: int) -> TabularWorld:
        turn, which = divmod(number, len(kinds))
        wrong = UNKNOWN_FLIPS[turn % len(UNKNOWN_FLIPS)] if flips is None else flips
        rng = np.random.default_rng([seed, number])
        return draw_world(kinds[which], rng, size=size, flips=wrong)

    return world


@dataclass(frozen=True, eq=False)
class TriedPlan:
    """A plan and what came of it in each world.

    Attributes:
        plan: the plan.
        regret: [S] of the worlds that did not choose it.
    """

    plan: LabelPlan
    regret: Floats

    @property
    def estimate(self) -> Estimate:
        """The mean regret over worlds."""
        return mean_over_seeds(self.regret)


@dataclass(frozen=True, eq=False)
class BudgetAdvice:
    """What to do with a budget, and how sure that is.

    Attributes:
        total: the budget.
        best: the plan that won.
        bought: what it buys.
        runners_up: the next plans, on the same worlds.
        naive: what one would do without a plan.
        more: [S] the winner's regret with `NEXT_LABELS` more comparisons in its last round.
        curve: share of the budget -> the regret of the winner and of the naive plans.
        tried: how many plans.
    """

    total: float
    best: TriedPlan
    bought: Purchases
    runners_up: tuple[TriedPlan, ...]
    naive: Mapping[str, TriedPlan]
    more: Floats
    curve: Mapping[str, Mapping[float, Estimate]]
    tried: int

    def gain(self, over: str) -> Estimate:
        """How much less regret than a naive plan, the mean over worlds."""
        return mean_over_seeds(self.naive[over].regret - self.best.regret)

    def gain_range(self, over: str) -> tuple[float, float]:
        """Where the gain of one new world of this kind lies, `range_share` of the time."""
        return prediction_range(self.naive[over].regret - self.best.regret)

    @property
    def range_share(self) -> float:
        """How often a new world lies within `gain_range`: .95 from 39 worlds on."""
        return prediction_share(len(self.best.regret))

    @property
    def next_labels(self) -> Estimate:
        """How much regret the next comparisons would take away."""
        return mean_over_seeds(self.best.regret - self.more)

    def as_dict(self) -> dict[str, Any]:
        """Return everything for JSON."""
        return {
            "total": self.total,
            "plan": plan_fields(self.best.plan),
            "said": str(self.best.plan),
            "buys": {
                "demonstrations": self.bought.demonstrations,
                "rounds": list(self.bought.rounds),
                "votes": self.bought.votes,
                "evaluation": self.bought.evaluation,
                "cost": self.bought.cost,
            },
            "regret": self.best.estimate.as_dict(),
            "runners_up": [
                {"plan": str(t.plan), "regret": t.estimate.as_dict()} for t in self.runners_up
            ],
            "gain": {
                name: {
                    **self.gain(name).as_dict(),
                    "one_world": list(self.gain_range(name)),
                    "one_world_share": self.range_share,
                    "regret": self.naive[name].estimate.as_dict(),
                }
                for name in self.naive
            },
            "next_labels": {"labels": NEXT_LABELS, **self.next_labels.as_dict()},
            "curve": {
                name: [{"share": s, **e.as_dict()} for s, e in points.items()]
                for name, points in self.curve.items()
            },
            "plans": self.tried,
            "worlds": len(self.best.regret),
        }

    def __str__(self) -> str:
        rows = [(str(t.plan), t.estimate) for t in (self.best, *self.runners_up)]
        gains = [
            (name, t.estimate, self.gain(name), "{:.3f} to {:.3f}".format(*self.gain_range(name)))
            for name, t in self.naive.items()
        ]
        worlds = len(self.best.regret)
        one = f"one world, {100 * self.range_share:.0f} times in 100"
        return "\n\n".join(
            [
                f"plan: {self.best.plan}\nbuys: {self.bought} of {self.total:g}",
                str(
                    Table(("plan", "regret"), tuple(rows), f"best of {self.tried}, {worlds} worlds")
                ),
                str(
                    Table(
                        ("instead of", "its regret", "gain, mean", f"gain in {one}"),
                        tuple(gains),
                    )
                ),
                f"the next {NEXT_LABELS} comparisons take {self.next_labels} off the regret",
            ]
        )


def plan_fields(plan: LabelPlan) -> dict[str, Any]:
    """Return a plan's settings by name."""
    return {name: getattr(plan, name) for name in plan.__dataclass_fields__}


def prediction_range(values: Floats) -> tuple[float, float]:
    """Return where one new value lies, by the order of those there are; see `prediction_share`."""
    ranked, k = np.sort(values), _cut_off(len(values))
    return float(ranked[k - 1]), float(ranked[-k])


def prediction_share(n: int) -> float:
    """Return how often one new value lies within the `prediction_range` of n others.

    Of n exchangeable values a new one lies between the k-th and the k-th from above with
    probability 1 - 2 k / (n + 1); below 39 values these are the extremes, with less than 95 %.
    """
    return 1 - 2 * _cut_off(n) / (n + 1)


def _cut_off(n: int) -> int:
    return max(1, int(0.025 * (n + 1) + 1e-9))


def candidate_plans(*, evaluation: float = 0.0, free: bool = False) -> list[LabelPlan]:
    """Return the plans that are tried first.

    Args:
        evaluation: share of the budget that is kept for choosing the final policy.
        free: also plans with free labels between rounds.
    """
    shapes: tuple[tuple[int, float, PairSource], ...] = (
        (1, 1.0, "reference"), (4, 1.0, "reference"), (2, 1.5, "policy"), (4, 1.5, "policy"),
        (4, 1.5, "mix"),
    )  # fmt: skip
    found = [
        LabelPlan(
            demonstrations=share, rounds=rounds, growth=growth, source=source, acquisition=rule,
            evaluation=evaluation,
        )
        for share, (rounds, growth, source), rule in itertools.product(
            (0.0, 0.1, 0.3), shapes, ("random", "d_optimal", "variance")
        )
        if share + evaluation <= 1
    ]  # fmt: skip
    return found + [replace(p, free_labels=True) for p in found if free and p.rounds > 1]


def variants_of(plan: LabelPlan) -> list[LabelPlan]:
    """Return plans that differ from one in a single choice; the share for evaluation stays."""
    rules = ("entropy", "moderate", "disagreement")
    changed = [
        *(replace(plan, acquisition=rule) for rule in rules),
        replace(plan, votes=3),
        replace(plan, uniform=0.1),
    ]
    return [p for p in changed if p != plan]


def plan_budget(
    total: float,
    costs: LabelCosts,
    worlds: WorldSource,
    *,
    seeds: int = 40,
    evaluation: float = 0.0,
    free: FreeLabels | None = None,
    report: Callable[[int, int], None] | None = None,
) -> BudgetAdvice:
    """Try plans in simulated worlds, and advise one.

    Args:
        total: what may be spent.
        costs: of a comparison, a demonstration, an evaluation comparison.
        worlds: where plans are tried.
        seeds: worlds that say how good the winner is; half as many choose it.
        evaluation: share of the budget that is kept for evaluation.
        free: labels that cost nothing, and how accurate they are.
        report: told of plans done, and of how many there will be.

    Raises:
        ConfigError: fewer than eight worlds, or a budget that buys nothing or more than can be
            simulated.
    """
    _check_budget(total, costs, seeds)
    lab = _Laboratory(total, costs, worlds, free)
    choosers = range(seeds, seeds + seeds // 2)
    plans = candidate_plans(evaluation=evaluation, free=free is not None)
    tried = len(plans)
    steps = (seeds // 6, seeds // 3, seeds // 2)
    for k, many in enumerate(steps):
        if report is not None:
            report(k, len(steps) + 1)
        plans = lab.rank(plans, choosers[: max(2, many)])
        plans = plans[: max(3, len(plans) // 4)]
        if k == 0:
            more = variants_of(plans[0])
            plans, tried = [*plans, *more], tried + len(more)
    return lab.advise(plans, range(seeds), tried)


def _check_budget(total: float, costs: LabelCosts, seeds: int) -> None:
    if seeds < FEWEST_WORLDS:
        raise ConfigError(
            f"--seeds {seeds}",
            f"below {FEWEST_WORLDS} worlds chance decides which plan is best",
            "give 40 or more",
        )
    if total < costs.cost_pair:
        raise ConfigError(
            f"--total {total:g} with --cost_pair {costs.cost_pair:g}",
            "it buys not one comparison",
            "give a budget for some hundred comparisons, or a lower cost",
        )
    for name, cost, most in (
        ("cost_pair", costs.cost_pair, MOST_PAIRS),
        ("cost_demo", costs.cost_demo, MOST_DRAWN),
        ("cost_eval", costs.evaluation, MOST_DRAWN),
    ):
        if not total <= most * cost:
            raise ConfigError(
                f"--total {total:g} with --{name} {cost:g}",
                f"plans are simulated label by label, which takes hours above {most:,} of a kind",
                f"give --total {most * cost:g}: its plan's shares and choices are those for more",
            )


class _Laboratory:
    """Remembers what was simulated, so that no plan is tried twice in a world."""

    def __init__(
        self, total: float, costs: LabelCosts, worlds: WorldSource, free: FreeLabels | None
    ) -> None:
        self.total, self.costs, self.worlds, self.free = total, costs, worlds, free
        self._kept: dict[tuple[LabelPlan, int, float, int], float] = {}

    def regret(self, plan: LabelPlan, number: int, total: float, more: int) -> float:
        key = (plan, number, total, more)
        if key not in self._kept:
            rng = np.random.default_rng([number, 1])
            world = self.worlds(number)
            done = simulate_plan(world, plan, total, self.costs, rng, free=self.free, more=more)
            self._kept[key] = done.regret
        return self._kept[key]

    def regrets(
        self, plan: LabelPlan, numbers: Sequence[int], share: float = 1.0, more: int = 0
    ) -> Floats:
        return np.array([self.regret(plan, n, self.total * share, more) for n in numbers])

    def rank(self, plans: Sequence[LabelPlan], numbers: Sequence[int]) -> list[LabelPlan]:
        return sorted(plans, key=lambda p: float(self.regrets(p, numbers).mean()))

    def advise(
        self, plans: Sequence[LabelPlan], numbers: Sequence[int], tried: int
    ) -> BudgetAdvice:
        best = plans[0]
        shown = {"this plan": best, **NAIVE}
        curve = {
            name: {share: mean_over_seeds(self.regrets(plan, numbers, share)) for share in CURVE}
            for name, plan in shown.items()
        }
        return BudgetAdvice(
            total=self.total,
            best=TriedPlan(best, self.regrets(best, numbers)),
            bought=best.purchases(self.total, self.costs),
            runners_up=tuple(TriedPlan(p, self.regrets(p, numbers)) for p in plans[1:4]),
            naive={name: TriedPlan(p, self.regrets(p, numbers)) for name, p in NAIVE.items()},
            more=self.regrets(best, numbers, more=NEXT_LABELS),
            curve=curve,
            tried=tried + len(NAIVE),
        )
