"""A plan for a budget: what is bought, in how many rounds, chosen how; and its ledger."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from tandem.errors import ConfigError
from tandem.errors.ranges import Count, Positive, Share, check_ranges
from tandem.statistics.pair_selection import PairRule

PairSource = Literal["reference", "policy", "mix"]


@dataclass(frozen=True)
class LabelCosts:
    """What things cost, in one currency.

    Attributes:
        cost_pair: one person's comparison of two answers.
        cost_demo: one demonstration.
        cost_eval: one comparison of the evaluation share; a pair's cost if None.
    """

    cost_pair: Positive = 1.0
    cost_demo: Positive = 3.0
    cost_eval: Positive | None = None

    def __post_init__(self) -> None:
        check_ranges(self, "")

    @property
    def evaluation(self) -> float:
        """What a comparison of the evaluation share costs."""
        return self.cost_pair if self.cost_eval is None else self.cost_eval


@dataclass(frozen=True)
class LabelPlan:
    """How a budget is spent.

    >>> plan = LabelPlan(rounds=4, source="policy")
    >>> str(plan)
    '4 rounds, policy, d_optimal'

    Attributes:
        demonstrations: share of the budget for demonstrations.
        rounds: how often labels are bought and the reward is fitted again.
        growth: how much larger each round is than the one before.
        source: whose answers are compared: the reference's, the current policy's, one of each.
        acquisition: how pairs are chosen.
        votes: people who judge each pair.
        evaluation: share of the budget for comparisons that choose the final policy.
        uniform: share of the chosen pairs that is drawn uniformly.
        free_labels: labels that the policy gives itself between rounds, where they are accurate.
    """

    demonstrations: Share = 0.0
    rounds: Count = 1
    growth: Positive = 1.0
    source: PairSource = "reference"
    acquisition: PairRule = "d_optimal"
    votes: Count = 1
    evaluation: Share = 0.0
    uniform: Share = 0.0
    free_labels: bool = False

    def __post_init__(self) -> None:
        check_ranges(self, "plan")
        if self.demonstrations + self.evaluation > 1:
            raise ConfigError(
                f"plan.demonstrations = {self.demonstrations}, plan.evaluation = {self.evaluation}",
                "they are shares of one budget",
                "let them add up to 1 at most",
            )

    def __str__(self) -> str:
        parts = [f"{self.rounds} round{'s' * (self.rounds > 1)}", self.source, self.acquisition]
        if self.growth != 1 and self.rounds > 1:
            parts[0] += f" x{self.growth:g}"
        if self.demonstrations:
            parts.append(f"{self.demonstrations:.0%} demonstrations")
        if self.votes > 1:
            parts.append(f"{self.votes} votes a pair")
        if self.evaluation:
            parts.append(f"{self.evaluation:.0%} evaluation")
        if self.uniform:
            parts.append(f"{self.uniform:.0%} drawn at random")
        if self.free_labels:
            parts.append("free labels")
        return ", ".join(parts)

    def purchases(self, total: float, costs: LabelCosts) -> Purchases:
        """Return what the plan buys for a budget; counts are rounded down, so it never exceeds it.

        Raises:
            ConfigError: the budget is below 0, or infinite.
        """
        if not 0 <= total < math.inf:
            raise ConfigError(
                f"--total {total}",
                "a budget is 0 or more, and has an end",
                "give what may be spent on labels",
            )
        demos = int(total * self.demonstrations / costs.cost_demo)
        checks = int(total * self.evaluation / costs.evaluation)
        left = total - demos * costs.cost_demo - checks * costs.evaluation
        pairs = max(0, int(left / (costs.cost_pair * self.votes) + 1e-9))
        edges = np.cumsum(self.growth ** np.arange(self.rounds))
        upto = np.floor(pairs * edges / edges[-1] + 1e-9).astype(int)
        each = tuple(int(n) for n in np.diff(upto, prepend=0))
        return Purchases(demos, each, checks, self.votes, costs)


@dataclass(frozen=True)
class Purchases:
    """What is bought.

    Attributes:
        demonstrations: how many.
        rounds: pairs of each round.
        evaluation: comparisons that choose the final policy.
        votes: people who judge each pair.
        costs: of each.
    """

    demonstrations: int
    rounds: tuple[int, ...]
    evaluation: int
    votes: int
    costs: LabelCosts = field(repr=False)

    @property
    def cost(self) -> float:
        """What all of it costs."""
        pairs = sum(self.rounds) * self.votes * self.costs.cost_pair
        return (
            pairs
            + self.demonstrations * self.costs.cost_demo
            + self.evaluation * self.costs.evaluation
        )

    def __str__(self) -> str:
        rounds = " + ".join(map(str, self.rounds))
        times = f" x {self.votes} votes" if self.votes > 1 else ""
        return (
            f"{self.demonstrations} demonstrations, {rounds} pairs{times}, "
            f"{self.evaluation} evaluation comparisons, for {self.cost:g}"
        )
