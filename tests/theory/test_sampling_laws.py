"""Operators sample the laws that theory gives, on the four-answer world F1.

F1: pi_ref = (.4, .3, .2, .1), r = (0, .5, 1, 2), beta = .5; pi* ∝ pi_ref e^{r / beta}. Where a
law can be had exactly, every group of n samples is enumerated with its probability and pushed
through the operator; elsewhere groups are drawn.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import binom, chisquare

from tandem.data.record import Completion, Group, Prompt
from tandem.operators import (
    Operator,
    above,
    best,
    correct,
    majority,
    rejection,
    top_share,
)
from tandem.rng import Seed

PI_REF = np.array([0.4, 0.3, 0.2, 0.1])
REWARD = np.array([0.0, 0.5, 1.0, 2.0])
PI_STAR = np.array([0.04906103, 0.10002128, 0.18125735, 0.66966035])
ANSWERS = tuple(Completion(str(y)) for y in range(4))


def group(answers: np.ndarray | tuple[int, ...], name: str = "x") -> Group:
    ys = list(answers)
    return Group(Prompt(name, "?"), tuple(ANSWERS[y] for y in ys), scores=REWARD[ys])


def answers(g: Group) -> list[int]:
    return [int(c.text) for c in g.completions]


def law(operator: Operator, policy: np.ndarray, n: int) -> np.ndarray:
    """Exact law of one kept completion when n are drawn from the policy."""
    tuples = list(itertools.product(range(4), repeat=n))
    groups = [group(ys, str(k)) for k, ys in enumerate(tuples)]
    mass = np.zeros(4)
    for kept in operator(groups, Seed(0)):
        ys = answers(kept)
        weight = float(np.prod(policy[list(tuples[int(kept.id)])]))
        mass[ys] += 0  # indices are checked
        for y in ys:
            mass[y] += weight / len(ys)
    return mass / mass.sum()


def drawn(count: int, n: int) -> list[Group]:
    ys = np.random.default_rng(7).choice(4, size=(count, n), p=PI_REF)
    return [group(row, str(k)) for k, row in enumerate(ys)]


def kl(p: np.ndarray, q: np.ndarray) -> float:
    return float(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0))


BEST_OF = {
    1: ((0.4, 0.3, 0.2, 0.1), 0.0),
    2: ((0.16, 0.33, 0.32, 0.19), 0.1572),
    4: ((0.0256, 0.2145, 0.416, 0.3439), 0.5871),
    8: ((0.00066, 0.05699, 0.37282, 0.56953), 1.1241),
    16: ((0.0, 0.00332, 0.18198, 0.81470), 1.6768),
    64: ((0.0, 0.0, 0.00118, 0.99882), 2.2926),
}


@pytest.mark.parametrize("n", [1, 2, 4])
def test_best_of_n_law(n: int) -> None:
    """q_n(y) = F(y)^n - F(y-)^n, by enumeration of all 4^n groups."""
    expected, divergence = BEST_OF[n]
    found = law(best(), PI_REF, n)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert kl(found, PI_REF) == pytest.approx(divergence, abs=5e-5)
    assert kl(found, PI_REF) <= math.log(n) - (n - 1) / n + 1e-12


def test_raft_stages_are_best_of_k_to_the_t() -> None:
    """T local-ranking stages with K = 2 and exact fitting are best-of-2^T."""
    policy = PI_REF
    for stage in range(1, 7):
        policy = law(best(), policy, 2)
        if 2**stage in BEST_OF:
            expected, divergence = BEST_OF[2**stage]
            np.testing.assert_allclose(policy, expected, atol=6e-6)
            assert kl(policy, PI_REF) == pytest.approx(divergence, abs=5e-5)


def test_best_sees_only_the_order_of_scores() -> None:
    """An increasing transform and a per-prompt shift change nothing."""
    for g in drawn(50, 6):
        moved = Group(g.prompt, g.completions, scores=np.exp(3 * np.asarray(g.scores)) - 7)
        (kept,), (same,) = best()([g], Seed(0)), best()([moved], Seed(0))
        assert answers(kept) == answers(same)


def test_rest_truncates_the_policy() -> None:
    """tau = .7 keeps (0, 0, 2/3, 1/3) of pi_ref; KL = -log P(r > tau) = 1.20397."""
    population = group((0,) * 4 + (1,) * 3 + (2,) * 2 + (3,))
    (kept,) = above(tau=0.7)([population], Seed(0))
    found = np.bincount(answers(kept), minlength=4) / len(kept)
    np.testing.assert_allclose(found, [0, 0, 2 / 3, 1 / 3])
    assert kl(found, PI_REF) == pytest.approx(1.20397, abs=5e-6)
    (again,) = above(tau=0.7)([kept], Seed(0))
    assert answers(again) == answers(kept)
    (everything,) = above(tau=-0.1)([population], Seed(0))
    assert answers(everything) == answers(population)


def test_rest_mixes_the_original_data_in() -> None:
    """lambda = .5 and p_D = (.1, .4, .4, .1): (0, 0, .75, .25)."""
    copies = np.round(20 * (0.5 * PI_REF + 0.5 * np.array([0.1, 0.4, 0.4, 0.1]))).astype(int)
    (kept,) = above(tau=0.7)([group(np.repeat(np.arange(4), copies))], Seed(0))
    np.testing.assert_allclose(
        np.bincount(answers(kept), minlength=4) / len(kept), [0, 0, 0.75, 0.25]
    )


def test_rising_thresholds_nest() -> None:
    g = group(tuple(range(4)))
    supports = [
        {y for kept in above(tau=t)([g], Seed(0)) for y in answers(kept)}
        for t in (-1.0, 0.0, 0.5, 1.0)
    ]
    assert all(b < a for a, b in itertools.pairwise(supports))


@pytest.mark.parametrize("share", [0.5, 0.25, 0.1, 0.05])
def test_global_ranking_is_a_quantile_threshold(share: float) -> None:
    """RAFT's global ranking with fraction alpha is ReST at the (1 - alpha) quantile."""
    rng = np.random.default_rng(3)
    groups = [Group(Prompt(str(k), "?"), ANSWERS, scores=rng.standard_normal(4)) for k in range(40)]
    top = {(g.id, c.text) for g in top_share(share)(groups, Seed(0)) for c in g.completions}
    cut = {
        (g.id, c.text) for g in above(quantile=1 - share)(groups, Seed(0)) for c in g.completions
    }
    assert top == cut
    assert len(top) == round(share * 160)


def test_rejection_iid_samples_pi_star() -> None:
    """Accepted samples follow pi* (chi-squared), at the rate Z e^{-r_max / beta} = .149329."""
    n = 200_000
    ys = np.random.default_rng(5).choice(4, size=n, p=PI_REF)
    (kept,) = rejection(0.5, keep=n, mode="iid", bound=2.0)([group(ys)], Seed(1))
    counts = np.bincount(answers(kept), minlength=4)
    assert chisquare(counts, PI_STAR / PI_STAR.sum() * counts.sum()).pvalue > 0.01
    assert len(kept) / n == pytest.approx(0.149329, abs=0.003)


@pytest.mark.parametrize(
    ("keep", "groups", "expected"),
    [
        (1, 20_000, (0.0505, 0.1053, 0.1787, 0.6655)),
        (8, 4_000, (0.0566, 0.1139, 0.2001, 0.6294)),
        (32, 2_000, (0.1448, 0.2729, 0.3826, 0.1998)),
    ],
)
def test_rejection_from_a_finite_pool(keep: int, groups: int, expected: tuple[float, ...]) -> None:
    """N = 64: near pi* at k = 1, and it leans towards pi_ref as k / N grows."""
    counts = np.zeros(4)
    for kept in rejection(0.5, keep=keep)(drawn(groups, 64), Seed(2)):
        assert len(kept) == keep
        counts += np.bincount(answers(kept), minlength=4)
    np.testing.assert_allclose(counts / counts.sum(), expected, atol=0.01)


def test_losing_multiplicity_bends_the_law() -> None:
    """Keying candidates by text (k = 1 of 64) puts .87 on the best where .67 is right."""
    counts = np.zeros(4)
    for kept in rejection(0.5, keep=1, dedupe=True)(drawn(4_000, 64), Seed(2)):
        counts += np.bincount(answers(kept), minlength=4)
    assert counts[3] / counts.sum() == pytest.approx(0.87, abs=0.02)


@pytest.mark.parametrize(("keep", "mean"), [(1, 1.013), (8, 0.921), (32, 0.557)])
def test_rejection_on_a_gaussian(keep: int, mean: float) -> None:
    """N(0, 1) tilted by e^y has mean 1; a pool of 64 gives 1.013, .921, .557."""
    rng = np.random.default_rng(11)
    count = 6_000 if keep == 1 else 1_500
    groups = (
        Group(Prompt(str(k), "?"), (ANSWERS[0],) * 64, scores=rng.standard_normal(64))
        for k in range(count)
    )
    found = [float(np.asarray(g.scores).mean()) for g in rejection(1.0, keep)(groups, Seed(4))]
    assert np.mean(found) == pytest.approx(mean, abs=0.04)


def test_rejection_at_its_limits() -> None:
    """beta = 0 is the top k by score, beta = infinity the first k in order."""
    g = Group(Prompt("x", "?"), ANSWERS, scores=np.array([0.3, 2.0, -1.0, 1.0]))
    (top,) = rejection(0.0, keep=3)([g], Seed(0))
    (first,) = rejection(math.inf, keep=3)([g], Seed(0))
    assert answers(top) == [1, 3, 0]
    assert answers(first) == [0, 1, 2]


@pytest.mark.parametrize(
    ("p", "expected"), [(0.6, (0.6826, 0.7869, 0.8716)), (0.4, (0.3174, 0.2131, 0.1284))]
)
def test_majority_vote(p: float, expected: tuple[float, ...]) -> None:
    """Binary answers: P(majority right) of m votes; voting hurts when p < 1/2."""
    for m, value in zip((5, 15, 31), expected, strict=True):
        right = 0.0
        for k in range(m + 1):
            clusters = np.array([1] * k + [0] * (m - k), np.int32)
            texts = tuple(Completion(str(c)) for c in clusters)
            (kept,) = majority()([Group(Prompt("x", "?"), texts, clusters=clusters)], Seed(0))
            right += binom.pmf(k, m, p) * (kept.completions[0].text == "1")
        assert right == pytest.approx(value, abs=5e-5)


def test_correct_is_rest_with_a_threshold_between_zero_and_one() -> None:
    """STaR without rationalisation is ReST with R = 1[right]."""
    rng = np.random.default_rng(0)
    groups = [
        Group(Prompt(str(k), "?"), ANSWERS, scores=rng.integers(0, 2, 4).astype(float))
        for k in range(30)
    ]
    star = [(g.id, answers(g)) for g in correct()(groups, Seed(0))]
    rest = [(g.id, answers(g)) for g in above(tau=0.5)(groups, Seed(0))]
    assert star == rest
