"""What a budget for labels buys, where everything is exact: docs/theory/annotation_budget.md."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tandem.planning.drift import MEMORIES, DriftSetting, draw_drift, follow_drift
from tandem.planning.label_plan import LabelCosts, LabelPlan
from tandem.planning.simulation import LabelledPairs, simulate_plan
from tandem.planning.tabular_world import TabularWorld, draw_world, fit_linear_reward, softmax_rows
from tandem.statistics import paired_difference
from tandem.statistics.design import d_optimal, design_information
from tandem.statistics.numerics import logistic

COSTS = LabelCosts()


def world(kind: str = "linear", seed: int = 0, **more: float) -> TabularWorld:
    small = {"prompts": 6, "answers": 8, "size": 4}
    return draw_world(kind, np.random.default_rng(seed), **small, **more)  # type: ignore[arg-type]


def test_no_noise_and_everything_enumerated_leaves_no_regret():
    """Labels that are probabilities, for every two answers: the reward is the truth, up to f(x)."""
    exact = world()
    p, k = exact.ref.shape
    met = np.array([(x, a, b) for x in range(p) for a, b in itertools.combinations(range(k), 2)]).T
    gaps = exact.reward[met[0], met[1]] - exact.reward[met[0], met[2]]
    w, _ = fit_linear_reward(exact.differences(*met), logistic(gaps), ridge=1e-9)
    assert exact.regret(exact.features @ w) == pytest.approx(0, abs=1e-9)
    assert exact.regret(np.zeros_like(exact.ref)) > 0.1


def test_a_plan_of_one_round_without_demonstrations_is_plain_rlhf():
    """Pairs of the reference, labels, a fit, the optimum: written out here, to the bit."""
    plan = LabelPlan(acquisition="random")
    found = simulate_plan(world(), plan, 50, COSTS, np.random.default_rng(3))
    rng, plain = np.random.default_rng(3), world()
    x, a, b = plain.draw_pairs(plain.ref, plain.ref, 50, rng)
    labels = plain.label(x, a, b, rng)
    w, _ = fit_linear_reward(plain.features[x, a] - plain.features[x, b], labels)
    tilted = softmax_rows(np.log(plain.ref) + plain.features @ w / plain.beta)
    assert found.regret == plain.best - plain.value(tilted)
    assert (found.cost, found.labels) == (50, 50)


def test_no_budget_is_the_reference():
    found = simulate_plan(world(), LabelPlan(), 0, COSTS, np.random.default_rng(0))
    assert found.regret == pytest.approx(world().regret(np.zeros_like(world().ref)))


def test_exact_policies_are_optimal():
    """No policy near the optimum is worth more, and the regret of noise is above 0."""
    here, rng = world(), np.random.default_rng(0)
    best = here.policy(here.reward)
    for _ in range(20):
        other = softmax_rows(np.log(best) + 0.1 * rng.normal(size=best.shape))
        assert here.value(other) < here.best


@pytest.mark.parametrize("seed", range(5))
def test_greedy_design_reaches_its_share_of_the_best_one(seed: int):
    rows = np.random.default_rng(seed).normal(size=(8, 3))
    greedy = design_information(rows[d_optimal(rows, 2)])
    best = max(design_information(rows[list(two)]) for two in itertools.combinations(range(8), 2))
    assert greedy >= (1 - 1 / np.e) * best


def test_greedy_gains_are_updated_and_not_guessed():
    """Each choice has the largest gain, computed anew from all rows chosen before."""
    rows = np.random.default_rng(1).normal(size=(40, 5))
    chosen = d_optimal(rows, 10, ridge=0.5)
    for k in range(10):
        before = rows[chosen[:k]]
        inverse = np.linalg.inv(0.5 * np.eye(5) + before.T @ before)
        gain = np.einsum("nd,de,ne->n", rows, inverse, rows)
        gain[chosen[:k]] = -np.inf
        assert gain[chosen[k]] == pytest.approx(gain.max())


def test_on_policy_selection_beats_chance_at_equal_labels():
    """The strongest sign, on few seeds; the others: benchmarks/label_budget.py."""
    regrets = {
        rule: [
            simulate_plan(
                draw_world("linear", np.random.default_rng([s, 0])),
                LabelPlan(rounds=4, source="policy", acquisition=rule),
                64, COSTS, np.random.default_rng([s, 1]),
            ).regret
            for s in range(30)
        ]
        for rule in ("random", "d_optimal")
    }  # fmt: skip
    found = paired_difference(np.array(regrets["d_optimal"]), np.array(regrets["random"]))
    assert found.high < 0


def drifted(kind: str, memory: str, seeds: int = 10, rounds: int = 8) -> np.ndarray:
    setting = DriftSetting(kind, rounds=rounds, labels=48, at=4)  # type: ignore[arg-type]
    return np.array(
        [
            follow_drift(
                draw_drift(setting, np.random.default_rng([s, 0])), memory, setting,  # type: ignore[arg-type]
                np.random.default_rng([s, 1]),
            ).dynamic_regret
            for s in range(seeds)
        ]
    )  # fmt: skip


def test_where_nothing_moves_to_remember_everything_is_best():
    whole = drifted("none", "all")
    for memory in ("window", "decay"):
        assert whole.mean() <= drifted("none", memory).mean()


def test_under_rotation_a_window_beats_all_and_all_beats_static():
    static, whole, window = (drifted("rotation", m) for m in ("static", "all", "window"))
    assert paired_difference(whole, static).high < 0
    assert paired_difference(window, whole).high < 0


def test_every_memory_buys_what_it_says():
    setting = DriftSetting("flip", rounds=5, labels=20, at=2)
    for memory in MEMORIES:
        moving = draw_drift(setting, np.random.default_rng(0))
        run = follow_drift(moving, memory, setting, np.random.default_rng(1))
        assert run.labels == (20 if memory == "static" else 100)
        assert len(run.regret) == 5
        assert (run.regret >= -1e-9).all()


def test_a_flip_changes_the_truth_once_and_a_rotation_every_round():
    flip = draw_drift(DriftSetting("flip", rounds=6, at=3), np.random.default_rng(0)).worlds
    same = [np.array_equal(a.reward, b.reward) for a, b in itertools.pairwise(flip)]
    assert same == [True, True, False, True, True]
    turn = draw_drift(DriftSetting("rotation", rounds=4), np.random.default_rng(0)).worlds
    norms = [float(np.linalg.norm(w.reward)) for w in turn]
    assert not any(np.array_equal(a.reward, b.reward) for a, b in itertools.pairwise(turn))
    assert max(norms) / min(norms) < 1.3


def test_comparisons_are_kept_in_order():
    known = LabelledPairs()
    for k in range(3):
        one = np.array([k])
        known.add(one, one, one, one.astype(float), 2.0)
    assert known.x.tolist() == [0, 1, 2]
    assert known.weight.tolist() == [2.0] * 3
