"""Best-of-n against docs/theory/best_of_n.md, brute force, and the engine's own draws."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

import worlds
from tandem.data.record import Group, Prompt
from tandem.engines import Sampling
from tandem.engines.torch import TorchEngine
from tandem.errors import ConfigError, DataError
from tandem.rng import Seed
from tandem.statistics.best_of import (
    best_of_n_curve,
    best_of_n_law,
    kl_bound,
    kl_exact,
    order_weights,
)

P, R = np.array([0.4, 0.3, 0.2, 0.1]), np.array([0.0, 0.5, 1.0, 2.0])
TABLE = {  # n: law, true KL, formula
    1: ((0.4, 0.3, 0.2, 0.1), 0.0, 0.0),
    2: ((0.16, 0.33, 0.32, 0.19), 0.1572, 0.1931),
    4: ((0.0256, 0.2145, 0.416, 0.3439), 0.5871, 0.6363),
    8: ((0.00066, 0.05699, 0.37282, 0.56953), 1.1241, 1.2044),
    16: ((0.0, 0.00332, 0.18198, 0.81470), 1.6768, 1.8351),
    64: ((0.0, 0.0, 0.00118, 0.99882), 2.2926, 3.1745),
}


@pytest.mark.parametrize("n", TABLE)
def test_fixture_law_and_kl(n: int) -> None:
    want, kl, formula = TABLE[n]
    np.testing.assert_allclose(best_of_n_law(P, R, n), want, atol=5e-6)
    assert kl_exact(P, R, n) == pytest.approx(kl, abs=5e-5)
    assert kl_bound(n) == pytest.approx(formula, abs=5e-5)
    assert kl_exact(P, R, n) <= min(kl_bound(n), math.log(10)) + 1e-12


def test_formula_is_exact_without_atoms() -> None:
    many = np.full(100_000, 1e-5)
    exact = kl_exact(many, np.arange(100_000), 4)
    assert exact == pytest.approx(0.63629436, abs=5e-9)
    assert kl_bound(4) == pytest.approx(0.63629436, abs=5e-9)


def test_best_of_best_is_best_of_the_product() -> None:
    np.testing.assert_allclose(
        best_of_n_law(best_of_n_law(P, R, 3), R, 5), best_of_n_law(P, R, 15), atol=1e-12
    )


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=4).filter(any),
    st.lists(st.integers(0, 2), min_size=4, max_size=4),
    st.integers(1, 4),
)
def test_law_with_ties_is_brute_force(mass: list[int], score: list[int], n: int) -> None:
    """Enumerate all Y^n draws; every maximum of a draw is kept equally often."""
    p, r = np.array(mass) / sum(mass), np.array(score[: len(mass)], float)
    want = np.zeros(len(p))
    for draw in itertools.product(range(len(p)), repeat=n):
        best = [y for y in draw if r[y] == max(r[z] for z in draw)]
        for y in best:
            want[y] += np.prod(p[list(draw)]) / len(best)
    np.testing.assert_allclose(best_of_n_law(p, r, n), want, atol=1e-12)


@pytest.mark.parametrize(("pool", "n"), [(1, 1), (7, 3), (7, 7), (256, 64), (4096, 1024)])
def test_weights_are_the_binomials_and_sum_to_one(pool: int, n: int) -> None:
    w = order_weights(pool, n)
    assert w.sum() == pytest.approx(1, abs=1e-12)
    for i in {1, n, (n + pool) // 2, pool}:
        want = math.comb(i - 1, n - 1) / math.comb(pool, n)
        assert w[i - 1] == pytest.approx(want, rel=1e-9, abs=1e-300)


def test_curve_is_the_mean_over_all_subsets() -> None:
    """Nine samples with ties; all C(9, n) subsets, each of a subset's maxima kept equally often."""
    rng = np.random.default_rng(0)
    scores, gold = rng.integers(0, 4, 9).astype(float), rng.normal(size=9)
    want = []
    for n in (1, 2, 5, 9):
        kept = []
        for subset in itertools.combinations(range(9), n):
            best = [i for i in subset if scores[i] == scores[list(subset)].max()]
            kept.append(gold[best].mean())
        want.append(np.mean(kept))
    np.testing.assert_allclose(best_of_n_curve(scores, gold, (1, 2, 5, 9)), want, atol=1e-12)
    both = best_of_n_curve(np.stack([scores, -scores]), np.stack([gold, gold]), (1, 2, 5, 9))
    assert both.shape == (2, 4)
    np.testing.assert_allclose(both[0], want, atol=1e-12)


def test_curve_is_unbiased() -> None:
    """4,000 pools of 12 from the fixture: the mean curve is the law's mean within 4 errors."""
    rng, ns = np.random.default_rng(1), (1, 2, 4, 8)
    drawn = rng.choice(4, p=P, size=(4000, 12))
    estimates = best_of_n_curve(R[drawn], (R**2)[drawn], ns)
    error = estimates.std(0) / math.sqrt(4000)
    truth = [best_of_n_law(P, R, n) @ R**2 for n in ns]
    assert (np.abs(estimates.mean(0) - truth) < 4 * error).all()


def test_best_of_n_of_a_real_model_is_its_law(tmp_path: Path) -> None:
    """F2 drawn through the engine: best of 4 among consecutive draws, 2,000 times.

    The total variation from the exact law of four outcomes is about 1/sqrt(2000) = .02.
    """
    folder = worlds.f2_model(tmp_path)
    engine = TorchEngine(folder, AutoTokenizer.from_pretrained(folder))
    prompt = Group(Prompt("x", "", tokens=np.array([worlds.F2_BOS], np.int32)))
    [group] = engine.sample([prompt], 8000, Sampling(max_tokens=2), Seed(11))
    outcomes = list(worlds.F2_LAW)
    drawn = np.array([outcomes.index(c.text) for c in group.completions]).reshape(2000, 4)
    r = np.array([worlds.F2_REWARD[y] for y in outcomes])
    kept = drawn[np.arange(2000), r[drawn].argmax(1)]
    share = np.bincount(kept, minlength=4) / 2000
    exact = best_of_n_law(list(worlds.F2_LAW.values()), r, 4)
    assert np.abs(share - exact).sum() / 2 < 0.04
    pooled = best_of_n_curve(r[drawn.reshape(-1)], r[drawn.reshape(-1)], (1, 4, 16))
    truth = [best_of_n_law(list(worlds.F2_LAW.values()), r, n) @ r for n in (1, 4, 16)]
    np.testing.assert_allclose(pooled, truth, atol=0.03)


def test_nonsense_is_refused() -> None:
    with pytest.raises(ConfigError, match="n = 0"):
        kl_bound(0)
    with pytest.raises(ConfigError, match="n = 5 with a pool of 4"):
        best_of_n_curve(R, R, (5,))
    with pytest.raises(DataError, match=r"sum to 0\.9"):
        best_of_n_law([0.5, 0.4], [0, 1], 2)
    with pytest.raises(DataError, match="not numbers"):
        best_of_n_curve([0.0, float("nan")], [0.0, 1.0], (1,))
    with pytest.raises(DataError, match="shape"):
        best_of_n_law(P, R[:3], 2)
