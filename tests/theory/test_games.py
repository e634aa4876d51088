"""Games of preferences against what is known of them: tables, theorems, fixed points."""

from __future__ import annotations

import numpy as np
import pytest

from tandem.statistics.games import (
    PreferenceMatrix,
    decompose,
    duality_gap,
    dynamics,
    exploitability,
    fit_rewards,
    mix_rankings,
    nash_equilibrium,
    regularised_equilibria,
    regularised_equilibrium,
    regularised_gap,
    wrong_pairs,
)

RPS = PreferenceMatrix("RPS", [[0.5, 0.1, 0.9], [0.9, 0.5, 0.1], [0.1, 0.9, 0.5]])
MU = np.array([0.6, 0.3, 0.1])
TABLE = {
    1: ([0.5437580514, 0.3623989076, 0.0938430409], 0.179966),
    0.5: ([0.4799076861, 0.4213052315, 0.0987870824], 0.152448),
    0.2: ([0.344474346, 0.4997223572, 0.1558032969], 0.075468),
    0.1: ([0.2973112178, 0.4642557186, 0.2384330636], 0.066778),
    0.05: ([0.3013647251, 0.4066697484, 0.2919655265], 0.042122),
}
DISTANCES = {
    0.5: {10: (0.0070, 4), 100: (0.00106, 5), 1000: (0.000109, 6)},
    0.2: {10: (0.0557, 4), 100: (0.0042, 4), 1000: (0.00043, 5)},
}  # total variation after so many steps, and the digits to which it is known
REWARDS = np.array([0, 0.5, 1, 2])
TRANSITIVE = PreferenceMatrix("abcd", 1 / (1 + np.exp(-(REWARDS[:, None] - REWARDS))))
PI_REF = [0.4, 0.3, 0.2, 0.1]
ONLINE_IPO = [0.30438646, 0.28378653, 0.23666517, 0.17516184]


def tv(p, q) -> float:
    return 0.5 * float(np.abs(np.asarray(p) - q).sum())


def kl(p, q) -> float:
    return float((p * np.log(p / q)).sum())


# rock, paper, scissors ------------------------------------------------------------------------


@pytest.mark.parametrize("tau", TABLE)
def test_regularised_equilibria_of_rock_paper_scissors(tau: float):
    policy, loss = TABLE[tau]
    found = regularised_equilibrium(RPS, tau, MU)
    np.testing.assert_allclose(found.policy, policy, atol=0.6e-10)
    assert found.residual < 1e-12
    assert found.exploitability == pytest.approx(loss, abs=0.6e-6)
    assert regularised_gap(RPS, found.policy, tau, MU) == pytest.approx(0, abs=1e-14)


def test_the_equilibria_come_in_the_order_of_their_taus():
    taus = [0.2, 1, 0.05]
    found = regularised_equilibria(RPS, taus, MU)
    assert [e.tau for e in found] == taus
    np.testing.assert_allclose(found[1].policy, TABLE[1][0], atol=1e-10)


@pytest.mark.parametrize("tau", [1, 0.2, 0.01])
def test_a_uniform_reference_leaves_the_symmetric_game_uniform(tau: float):
    np.testing.assert_allclose(regularised_equilibrium(RPS, tau).policy, 1 / 3, atol=1e-15)


def test_without_a_price_the_equilibrium_is_uniform_and_pure_policies_lose():
    found = nash_equilibrium(RPS)
    np.testing.assert_allclose(found.policy, 1 / 3, atol=1e-12)
    assert found.is_unique
    assert found.exploitability < 1e-12
    for name in RPS.names:
        assert exploitability(RPS, RPS.pure(name)) == pytest.approx(0.4)
        assert duality_gap(RPS, RPS.pure(name)) == pytest.approx(0.8)


# Nash-MD --------------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", DISTANCES)
def test_nash_md_approaches_its_equilibrium_and_keeps_the_theorem(tau: float):
    star = regularised_equilibrium(RPS, tau, MU).policy
    played = dynamics.nash_md(RPS, tau, 2000, reference=MU)
    for step, (distance, digits) in DISTANCES[tau].items():
        assert tv(played.at(step), star) == pytest.approx(distance, abs=0.6 * 10**-digits)
    away = np.array([kl(star, pi) for pi in played.policies])
    t = np.arange(2000)
    eta = 2 / (tau * (t + 2))
    assert (away[1:] <= (1 - eta * tau) * away[:-1] + 2 * eta**2 + 1e-15).all()
    assert (away[1:] <= 8 / (tau**2 * (t + 2))).all()


def test_a_constant_step_of_nash_md_goes_elsewhere():
    tau, eta = 0.5, 0.5
    pi = dynamics.nash_md(RPS, tau, 3000, reference=MU, step_size=eta).last
    np.testing.assert_allclose(pi, [0.48117, 0.42627, 0.09256], atol=0.6e-5)
    mixture = pi ** (1 - eta * tau) * MU ** (eta * tau)
    mixture /= mixture.sum()
    np.testing.assert_allclose(mixture, [0.51192, 0.39308, 0.09501], atol=0.6e-5)
    shifted = regularised_equilibrium(RPS, tau / (1 - eta * tau), MU)
    assert shifted.tau == pytest.approx(2 / 3)
    np.testing.assert_allclose(mixture, shifted.policy, atol=1e-12)
    answer = MU * np.exp(RPS.against(mixture) / tau)
    np.testing.assert_allclose(pi, answer / answer.sum(), atol=1e-12)


@pytest.mark.parametrize("tau", [0.05, 0.1, 0.2, 0.5, 1])
def test_nash_md_is_hardly_exploitable_on_the_cyclic_game(tau: float):
    """From the skewed start, with the uniform reference whose equilibrium nobody beats."""
    played = dynamics.nash_md(RPS, tau, 2000, start=MU)
    assert exploitability(RPS, MU) > 0.19
    assert played.exploitability < 0.005


def test_nash_md_is_hardly_exploitable_near_a_skewed_reference_where_its_price_is_small():
    played = dynamics.nash_md(RPS, 0.005, 50_000, reference=MU, every=1000)
    assert regularised_equilibrium(RPS, 0.005, MU).exploitability < 0.005
    assert played.exploitability < 0.005


# the other dynamics ---------------------------------------------------------------------------


def test_multiplicative_weights_circle_and_their_average_does_not():
    played = dynamics.self_play(RPS, steps=20_000, start=MU, step_size=0.05)
    assert played.exploitability == pytest.approx(0.32, abs=0.006)
    assert played.average_exploitability == pytest.approx(0.0016, abs=0.0001)
    same = dynamics.sppo_play(RPS, 20_000, start=MU)
    np.testing.assert_array_equal(same.policies, played.policies)


def test_optimistic_mirror_descent_closes_in_by_its_last_iterate():
    played = dynamics.optimistic(RPS, 20_000, start=MU)
    expected = {500: 0.194, 1000: 0.165, 2000: 0.145, 5000: 0.058, 20_000: 0.0012}
    for step, loss in expected.items():
        atol = 0.6e-4 if step == 20_000 else 0.6e-3
        assert exploitability(RPS, played.at(step)) == pytest.approx(loss, abs=atol)


def test_best_responses_jump_and_damping_calms_them():
    jumping = dynamics.iterated_best_response(RPS, 0.05, 300, reference=MU)
    tail = jumping.policies[-60:]
    assert tail.max(1).min() > 0.98
    assert set(tail.argmax(1)) == {0, 1, 2}
    calm = dynamics.iterated_best_response(RPS, 0.05, 2000, damping=0.98, reference=MU)
    np.testing.assert_allclose(calm.last, TABLE[0.05][0], atol=1e-6)


def test_fictitious_play_learns_on_average_alone():
    played = dynamics.fictitious_play(RPS, 5000, start=MU)
    assert played.exploitability == pytest.approx(0.4)
    assert played.average_exploitability < 0.005


@pytest.mark.parametrize("tau", [0.1, 0.2, 0.5])
def test_regularised_self_play_and_its_relatives_share_one_equilibrium(tau: float):
    policy = TABLE[tau][0]
    for played in (
        dynamics.self_play(RPS, tau, 3000, reference=MU),
        dynamics.nash_ema(RPS, tau, 8000, reference=MU),
        dynamics.online_ipo(RPS, tau, 3000, reference=MU),
    ):
        np.testing.assert_allclose(played.last, policy, atol=1e-5, err_msg=played.name)


def test_a_frozen_opponent_is_answered_and_no_more():
    played = dynamics.nash_ema(RPS, 0.5, 500, decay=1.0, reference=MU)
    answer = MU * np.exp(RPS.against(MU) / 0.5)
    np.testing.assert_allclose(played.last, answer / answer.sum(), atol=1e-12)


def test_on_transitive_preferences_sppo_takes_the_best_and_online_ipo_its_fixed_point():
    best = dynamics.sppo_play(TRANSITIVE, 5000, start=PI_REF).last
    np.testing.assert_allclose(best, [0, 0, 0, 1], atol=1e-12)
    equilibrium = regularised_equilibrium(TRANSITIVE, 0.5, PI_REF).policy
    np.testing.assert_allclose(equilibrium, ONLINE_IPO, atol=0.6e-8)
    ipo = dynamics.online_ipo(TRANSITIVE, 0.5, 3000, reference=PI_REF).last
    np.testing.assert_allclose(ipo, equilibrium, atol=1e-12)


# Bradley-Terry --------------------------------------------------------------------------------


def test_bradley_terry_rewards_depend_on_which_pairs_are_asked():
    np.testing.assert_allclose(fit_rewards(RPS).rewards, 0, atol=1e-12)
    oversampled = [[0, 8, 1], [8, 0, 1], [1, 1, 0]]
    found = fit_rewards(RPS, oversampled).rewards
    np.testing.assert_allclose(found, [-0.781, 0.781, 0], atol=0.6e-3)
    law = fit_rewards(RPS, np.outer(MU, MU)).rewards
    np.testing.assert_allclose(law, [-0.365, 0.910, -0.544], atol=0.6e-3)
    for turn in (1, 2):
        nu = np.roll(MU, turn)
        turned = fit_rewards(RPS, np.outer(nu, nu)).rewards
        np.testing.assert_allclose(turned, np.roll(law, turn), atol=1e-10)


@pytest.mark.parametrize("epsilon", [-0.1, -0.01, -1e-6, 1e-6, 0.01, 0.1])
def test_a_population_of_three_types_is_shared_by_nash_and_flipped_by_bradley_terry(epsilon):
    shares = [1 / 3 - epsilon / 4, 1 / 3 + epsilon / 2, 1 / 3 - epsilon / 4]
    population = mix_rankings(["ABC", "BCA", "CAB"], shares)
    expected = [1 / 3 + epsilon / 2, 1 / 3 + epsilon / 2, 1 / 3 - epsilon]
    np.testing.assert_allclose(nash_equilibrium(population).policy, expected, atol=1e-12)
    fit = fit_rewards(population)
    assert fit.ranking[0] == ("B" if epsilon > 0 else "A")
    assert exploitability(population, fit.best_policy) > 0.1


def test_where_bradley_terry_holds_it_is_right_everywhere():
    fit = fit_rewards(TRANSITIVE)
    np.testing.assert_allclose(fit.rewards, REWARDS - REWARDS.mean(), atol=1e-12)
    assert wrong_pairs(TRANSITIVE, fit) == ()
    assert decompose(TRANSITIVE).share < 1e-28
    assert decompose(RPS).share == pytest.approx(1)
    assert {w.winner + w.loser for w in wrong_pairs(RPS, fit_rewards(RPS))} == {"RS", "PR", "SP"}
