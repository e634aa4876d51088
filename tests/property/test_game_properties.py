"""Laws that every game of preferences keeps, on random ones of 3 to 50 actions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.statistics.games import (
    PreferenceMatrix,
    best_response,
    count_votes,
    cyclic_triples,
    decompose,
    duality_gap,
    exploitability,
    fit_rewards,
    limit_equilibrium,
    nash_equilibrium,
    regularised_equilibria,
    regularised_gap,
    top_cycle,
    wrong_pairs,
)
from tandem.statistics.games.dynamics import DYNAMICS

FEW = settings(max_examples=30, deadline=None)


@st.composite
def games(draw, most: int = 50, digits: int | None = None) -> PreferenceMatrix:
    """A game of 3 to `most` actions; `digits` rounds its numbers, so that many are equal."""
    n = draw(st.integers(3, most))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    upper = rng.random((n, n)) if digits is None else rng.random((n, n)).round(digits)
    p = np.triu(upper, 1) + np.tril(1 - upper.T, -1) + np.eye(n) / 2
    return PreferenceMatrix([f"x{k}" for k in range(n)], p)


def policy(game: PreferenceMatrix, seed: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).dirichlet(np.full(len(game), 0.5)) + 1e-6
    return drawn / drawn.sum()


@FEW
@given(games(), st.integers(0, 1000))
def test_everybody_has_one_half_against_himself_and_no_gap_is_negative(game, seed):
    pi, nu = policy(game, seed), policy(game, seed + 1)
    assert game.win_rate(pi, pi) == pytest.approx(0.5, abs=1e-14)
    assert game.win_rate(pi, nu) + game.win_rate(nu, pi) == pytest.approx(1, abs=1e-14)
    assert exploitability(game, pi) >= 0
    assert duality_gap(game, pi, nu) == pytest.approx(
        max(game.against(nu)) - min(1 - game.against(pi)), abs=1e-12
    )
    assert regularised_gap(game, pi, 0.3, nu) >= -1e-12
    assert exploitability(game, pi) == pytest.approx(
        game.win_rate(best_response(game, pi), pi) - 0.5, abs=1e-14
    )


@FEW
@given(games())
def test_two_ways_find_the_same_equilibrium(game):
    """By a linear program, and along the regularised ones as tau goes to 0."""
    by_program, by_limit = nash_equilibrium(game), limit_equilibrium(game)
    assert by_program.is_unique
    np.testing.assert_allclose(by_limit.policy, by_program.policy, atol=1e-8)
    assert max(by_program.exploitability, by_limit.exploitability) < 1e-8
    assert game.win_rate(by_program.policy, by_limit.policy) == pytest.approx(0.5, abs=1e-8)


@FEW
@given(games(12, digits=1))
def test_where_there_are_several_equilibria_the_program_finds_one(game):
    found = nash_equilibrium(game)
    assert found.exploitability < 1e-8
    if found.is_unique:
        np.testing.assert_allclose(limit_equilibrium(game).policy, found.policy, atol=1e-8)


def test_several_equilibria_are_said_to_be_several():
    copies = PreferenceMatrix("abc", [[0.5, 0.5, 0.7], [0.5, 0.5, 0.7], [0.3, 0.3, 0.5]])
    assert not nash_equilibrium(copies).is_unique
    np.testing.assert_allclose(limit_equilibrium(copies).policy, [0.5, 0.5, 0], atol=1e-8)


@FEW
@given(games(), st.integers(0, 1000))
def test_regularised_equilibria_satisfy_their_equation(game, seed):
    mu = policy(game, seed)
    for found in regularised_equilibria(game, [1, 0.1, 0.01, 1e-3, 1e-4], mu):
        assert found.residual < 1e-12
        answer = best_response(game, found.policy, found.tau, mu)
        np.testing.assert_allclose(answer, found.policy, atol=1e-11)
        assert abs(regularised_gap(game, found.policy, found.tau, mu)) < 1e-11
        assert found.exploitability <= -found.tau * np.log(mu).min() + 1e-12


@FEW
@given(games())
def test_ratings_and_cycles_are_the_orthogonal_parts_of_preferences(game):
    for scale in ("log-odds", "difference"):
        parts = decompose(game, scale)
        flow = parts.ratings[:, None] - parts.ratings + parts.cyclic
        whole = game.advantage if scale == "difference" else np.log(game.p / game.p.T)
        np.testing.assert_allclose(flow, whole, atol=1e-12)
        np.testing.assert_allclose(parts.cyclic.sum(1), 0, atol=1e-10)
        assert 0 <= parts.share <= 1
        least_squares = ((whole - (parts.ratings[:, None] - parts.ratings)) ** 2).sum()
        rng = np.random.default_rng(0)
        for _ in range(3):
            other = parts.ratings + rng.normal(scale=0.1, size=len(game))
            assert ((whole - (other[:, None] - other)) ** 2).sum() >= least_squares - 1e-12


@FEW
@given(st.lists(st.floats(-3, 3), min_size=3, max_size=20), st.integers(0, 1000))
def test_a_reward_is_found_again_whichever_pairs_are_asked(rewards, seed):
    r = np.array(rewards)
    game = PreferenceMatrix([f"x{k}" for k in range(len(r))], 1 / (1 + np.exp(r - r[:, None])))
    weights = np.random.default_rng(seed).uniform(0.1, 5, game.p.shape)
    fit = fit_rewards(game, weights + weights.T)
    np.testing.assert_allclose(fit.rewards, r - r.mean(), atol=1e-8)
    assert decompose(game).share < 1e-12 or np.ptp(r) < 1e-5
    assert cyclic_triples(game)[0] == 0
    assert all(pair.preference < 0.5 + 1e-8 for pair in wrong_pairs(game, fit))


@FEW
@given(games(7, digits=1))
def test_the_top_cycle_beats_all_others_and_no_smaller_one_does(game):
    top = top_cycle(game)

    def dominates(chosen) -> bool:
        rest = [x for x in game.names if x not in chosen]
        return all(game.preference(a, b) > 0.5 for a in chosen for b in rest)

    smallest = next(
        chosen
        for size in range(1, len(game) + 1)
        for chosen in itertools.combinations(game.names, size)
        if dominates(chosen)
    )
    assert top == smallest


@FEW
@given(games(8), st.sampled_from(sorted(DYNAMICS)), st.integers(0, 100))
def test_every_dynamic_records_policies_with_their_gaps(game, name, seed):
    played = DYNAMICS[name].follow(game, 0.2, game.uniform(), policy(game, seed), 40, 7)
    assert played.steps.tolist() == [0, 7, 14, 21, 28, 35, 40]
    np.testing.assert_allclose(played.policies.sum(1), 1, atol=1e-12)
    for pi, mean, gap, mean_gap in zip(
        played.policies, played.averages, played.gaps, played.average_gaps, strict=True
    ):
        assert gap == pytest.approx(duality_gap(game, pi), abs=1e-12)
        assert mean_gap == pytest.approx(duality_gap(game, mean), abs=1e-12)
    every = DYNAMICS[name].follow(game, 0.2, game.uniform(), policy(game, seed), 40, 1)
    np.testing.assert_allclose(every.policies.mean(0), played.average, atol=1e-12)


@FEW
@given(
    st.lists(
        st.tuples(*[st.sampled_from("abcd")] * 2, st.sampled_from(["a", "b", "tie"])), max_size=80
    )
)
def test_votes_are_counted_whoever_stands_first(votes):  # fmt: skip
    votes = [v for v in votes if v[0] != v[1]] + [
        (x, y, "tie") for x, y in ["ab", "bc", "cd", "ac", "bd", "ad"]
    ]
    turned = [(b, a, {"a": "b", "b": "a", "tie": "tie"}[w]) for a, b, w in votes]
    first, second = count_votes(votes), count_votes(turned)
    assert first.total == second.total == len(votes)
    for a, b in itertools.combinations("abcd", 2):
        p = first.matrix().preference(a, b)
        assert p == pytest.approx(second.matrix().preference(a, b), abs=1e-15)
        both = [v for v in votes if {v[0], v[1]} == {a, b}]
        won = sum((v[0] if v[2] == "a" else v[1]) == a for v in both if v[2] != "tie")
        ties = sum(v[2] == "tie" for v in both)
        assert p == pytest.approx((won + ties / 2) / len(both))
