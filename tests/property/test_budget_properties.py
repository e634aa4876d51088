"""No plan spends more than there is, whatever the costs; chosen pairs are a choice."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.errors import ConfigError
from tandem.planning.label_plan import LabelCosts, LabelPlan
from tandem.planning.simulation import simulate_plan
from tandem.planning.tabular_world import draw_world
from tandem.statistics.pair_selection import PairPool, PairRule, choose_pairs

COSTS = st.floats(0.01, 50, allow_nan=False)
PLANS = st.builds(
    lambda demos, rest, **more: LabelPlan(
        demonstrations=demos, evaluation=rest * (1 - demos), **more
    ),
    st.floats(0, 1), st.floats(0, 1),
    rounds=st.integers(1, 6), growth=st.floats(0.5, 3), votes=st.integers(1, 5),
    source=st.sampled_from(("reference", "policy", "mix")),
    acquisition=st.sampled_from(get_args(PairRule)), uniform=st.floats(0, 1),
)  # fmt: skip


@settings(deadline=None)
@given(PLANS, st.floats(0, 1e5), COSTS, COSTS, COSTS)
def test_a_budget_is_never_exceeded(
    plan: LabelPlan, total: float, pair: float, demo: float, check: float
):
    bought = plan.purchases(total, LabelCosts(pair, demo, check))
    assert bought.cost <= total * (1 + 1e-9)
    assert min(bought.demonstrations, bought.evaluation, *bought.rounds) >= 0
    assert len(bought.rounds) == plan.rounds
    left = total - bought.cost
    assert left < pair * plan.votes * (1 + 1e-6) + 1e-6 * total  # what is left buys no further pair


@settings(max_examples=25, deadline=None)
@given(PLANS, st.integers(0, 60), st.integers(0, 5))
def test_what_is_simulated_costs_what_was_planned(plan: LabelPlan, total: int, seed: int):
    rng = np.random.default_rng(seed)
    world = draw_world("linear", rng, prompts=4, answers=5, size=3)
    found = simulate_plan(world, plan, total, LabelCosts(), rng)
    assert found.cost <= total
    assert found.labels <= total
    assert found.regret >= -1e-9


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 40), st.integers(0, 50), st.sampled_from(get_args(PairRule)), st.floats(0, 1),
    st.integers(0, 9),
)  # fmt: skip
def test_chosen_pairs_are_different_and_the_uniform_share_is_flagged(
    n: int, keep: int, rule: PairRule, uniform: float, seed: int
):
    rng = np.random.default_rng(seed)
    pool = PairPool(rng.normal(size=(n, 3)), rng.normal(size=(2, n)))
    found = choose_pairs(pool, keep, rule, uniform, rng)
    assert len(set(found.pairs.tolist())) == len(found.pairs) == min(n, keep)
    assert found.is_uniform.sum() == int(np.ceil(uniform * min(n, keep)))
    assert set(found.pairs.tolist()) <= set(range(n))


def test_rules_choose_what_they_say():
    gaps = np.array([[0.0, 5.0, 1.0, -1.0], [0.0, 4.0, -1.0, -1.0]])
    pool = PairPool(np.eye(4), gaps)
    assert choose_pairs(pool, 1, "disagreement").pairs.tolist() == [2]
    assert choose_pairs(pool, 1, "variance").pairs.tolist() == [2]
    assert set(choose_pairs(pool, 2, "entropy").pairs.tolist()) == {0, 2}
    assert choose_pairs(pool, 3, "d_optimal").pairs.tolist()[-1] != 1  # sure of it already
    assert 1 not in choose_pairs(pool, 2, "moderate").pairs.tolist()


def test_a_rule_without_its_rewards_is_refused():
    pool = PairPool(np.eye(4))
    assert len(choose_pairs(pool, 2, "d_optimal").pairs) == 2
    with pytest.raises(ConfigError, match="variance with 0 reward"):
        choose_pairs(pool, 2, "variance")
    with pytest.raises(ConfigError, match="acquisition = 'best'"):
        choose_pairs(pool, 2, "best")  # type: ignore[arg-type]
