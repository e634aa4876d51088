"""What a fitted reward recovers, and what the noise correction is worth."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from tabular import BRADLEY_TERRY, PI_REF, R_STAR, RPS, clicks, every_pair, f64, minimise, total
from tandem.batching.batch import Pairs
from tandem.objectives import bradley_terry


def fitted(pairs: Pairs, share: Tensor, size: int, **settings: float) -> Tensor:
    """Return the rewards that minimise the population loss, centred."""

    def population(r: Tensor) -> Tensor:
        return (share * bradley_terry(r, pairs, **settings).loss).sum()

    r = minimise(population, torch.zeros(size, dtype=torch.float64))
    return r - r.mean()


@pytest.mark.parametrize("nu", [PI_REF, f64(0.7, 0.1, 0.1, 0.1)])
def test_enumerated_pairs_recover_the_reward_up_to_a_constant(nu: Tensor):
    share = (nu[:, None] * nu).reshape(-1)
    r = fitted(every_pair(BRADLEY_TERRY), share, 4)
    torch.testing.assert_close(r, R_STAR - R_STAR.mean(), rtol=0, atol=1e-6)


def test_noise_correction_recovers_it_from_flipped_labels():
    flipped = every_pair(0.75 * BRADLEY_TERRY + 0.25 * (1 - BRADLEY_TERRY))
    share = torch.full((16,), 1 / 16, dtype=torch.float64)
    want = R_STAR - R_STAR.mean()
    r = fitted(flipped, share, 4, noise=0.25)
    torch.testing.assert_close(r, want, rtol=0, atol=1e-6)
    plain = fitted(flipped, share, 4)
    assert (plain / want).max() < 0.6  # the plain loss shrinks every gap


def test_centring_fixes_the_constant_and_hardly_moves_the_differences():
    share = torch.full((16,), 1 / 16, dtype=torch.float64)

    def population(r: Tensor) -> Tensor:
        return (share * bradley_terry(r, every_pair(BRADLEY_TERRY), centring=0.01).loss).sum()

    r = minimise(population, f64(5, 5, 5, 5))
    assert abs(r.mean().item()) < 0.2
    assert (r - r.mean() - (R_STAR - R_STAR.mean())).abs().max() < 0.2


@pytest.mark.parametrize(
    ("law", "reward"),
    [
        ("uniform", (0.0, 0.0, 0.0)),
        ("oversampled", (-0.781, 0.781, 0.0)),
        ("nu", (-0.365, 0.910, -0.544)),
    ],
)
def test_a_cyclic_preference_has_no_reward_of_its_own(law: str, reward: tuple[float, ...]):
    """RPS (docs/theory/nash.md#exact-values): Bradley-Terry depends on where pairs come from."""
    nu = f64(0.6, 0.3, 0.1)
    shares = {"uniform": torch.ones(3, 3), "nu": nu[:, None] * nu}
    shares["oversampled"] = torch.tensor([[1.0, 8, 1], [8, 1, 1], [1, 1, 1]])
    share = shares[law].double().reshape(-1)
    r = fitted(every_pair(RPS), share / share.sum(), 3)
    torch.testing.assert_close(r, f64(*reward), rtol=0, atol=6e-4)


def linear_world(n: int, flip: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return features of 2n answers, the true weights, and whether the first of each pair won."""
    rng = np.random.default_rng(3)
    x, w = rng.normal(size=(2 * n, 5)), rng.normal(size=5)
    p = 1 / (1 + np.exp(-(x[:n] - x[n:]) @ w))
    won = (rng.random(n) < p) ^ (rng.random(n) < flip)
    return torch.tensor(x), torch.tensor(w), torch.tensor(won)


def linear_fit(x: Tensor, won: Tensor, **settings: float) -> Tensor:
    n = len(won)
    first, second = torch.arange(n), torch.arange(n, 2 * n)
    pairs = Pairs(
        torch.where(won, first, second),
        torch.where(won, second, first),
        torch.ones(n, dtype=torch.float64),
    )
    start = torch.zeros(x.shape[1], dtype=torch.float64)
    return minimise(lambda w: total(bradley_terry(x @ w, pairs, **settings)), start)


def test_linear_reward_is_logistic_regression():
    """The lecture's remark: with r = w.x the loss is the logistic regression of the click on the
    difference of features, without intercept. Two independent fits agree with ours."""
    x, _, won = linear_world(400, flip=0.0)
    w = linear_fit(x, won)
    difference, y = (x[:400] - x[400:]).numpy(), won.numpy().astype(float)
    theirs = sm.Logit(y, difference).fit(disp=0, tol=1e-12).params
    np.testing.assert_allclose(w.numpy(), theirs, rtol=0, atol=1e-6)
    again = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10, max_iter=1000)
    again.fit(difference, y)
    np.testing.assert_allclose(w.numpy(), again.coef_[0], rtol=0, atol=1e-5)


def test_noise_correction_is_calibrated_against_clean_labels():
    """With 25 % flips the plain fit under-states its odds on clean labels, and the corrected
    fit's predicted chances are right: bins of 20,000 fresh pairs, the first answer at random."""
    x, w_true, won = linear_world(20_000, flip=0.25)
    fresh = np.random.default_rng(4).normal(size=(20_000, 5))
    chance = 1 / (1 + np.exp(-fresh @ w_true.numpy()))

    def miscalibration(w: Tensor) -> float:
        said = 1 / (1 + np.exp(-fresh @ w.numpy()))
        bins = np.array_split(np.argsort(said), 15)
        return float(np.mean([abs(said[b].mean() - chance[b].mean()) for b in bins]))

    assert miscalibration(linear_fit(x, won, noise=0.25)) < 0.02
    assert miscalibration(linear_fit(x, won)) > 0.1


def test_certain_labels_have_no_finite_reward_but_smoothing_has():
    """All clicks one way: the plain gap grows without end, the smoothed one is ln 9."""
    pair = clicks([0], [1])
    start = f64(0, 0)
    r = minimise(lambda r: total(bradley_terry(r, pair, smoothing=0.1)), start)
    assert (r[0] - r[1]).item() == pytest.approx(2.19722, abs=1e-5)
    gap = f64(30, 0).requires_grad_(True)
    total(bradley_terry(gap, pair)).backward()
    assert gap.grad[0] < 0
