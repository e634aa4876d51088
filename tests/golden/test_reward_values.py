"""Bradley-Terry losses against hand-derived values (docs/theory/reward_models.md#exact-values)."""

from __future__ import annotations

import math

import pytest
import torch

from tabular import clicks, f64, minimise
from tandem.batching.batch import Pairs
from tandem.errors import ConfigError
from tandem.objectives import antisymmetric, bradley_terry, rank_weight, two_argument


def pair(p: float = 1.0, margin: float | None = None) -> Pairs:
    m = None if margin is None else f64(margin)
    return Pairs(torch.tensor([0]), torch.tensor([1]), f64(p), m)


def best_difference(p: float, margin: float | None = None, **settings: float) -> float:
    """Return the difference of rewards that the loss wants for one pair."""

    def loss(d: torch.Tensor) -> torch.Tensor:
        score = torch.cat([d, torch.zeros_like(d)])
        return bradley_terry(score, pair(p, margin), **settings).loss.sum()

    return minimise(loss, f64(0.0)).item()


def test_at_equal_rewards():
    """z = 0: ln 2, slope -1/2 for the winner and +1/2 for the loser; a tied accuracy."""
    score = f64(3, 3).requires_grad_(True)
    terms = bradley_terry(score, pair())
    (g,) = torch.autograd.grad(terms.loss.sum(), score)
    assert terms.loss.item() == pytest.approx(math.log(2))
    assert g.tolist() == [-0.5, 0.5]
    assert terms.metrics["accuracy"].item() == 0.5


def test_population_minimisers():
    """logit(p); m + logit(p); smoothing .1: ln 9 = 2.19722; smoothing .1, p = .8: logit .74."""
    assert best_difference(0.7) == pytest.approx(math.log(0.7 / 0.3), abs=1e-6)
    assert best_difference(0.7, margin=0.6) == pytest.approx(0.6 + math.log(7 / 3), abs=1e-6)
    assert best_difference(1.0, smoothing=0.1) == pytest.approx(2.19722, abs=1e-5)
    assert best_difference(0.8, smoothing=0.1) == pytest.approx(1.04597, abs=1e-5)


def test_noise_correction_has_the_clean_minimiser():
    """Labels of rate p flipped at eps have rate p + eps - 2 p eps; the corrected optimum is
    logit(p) all the same."""
    p, eps = 0.8, 0.25
    noisy = p * (1 - eps) + (1 - p) * eps
    assert best_difference(noisy) == pytest.approx(math.log(0.65 / 0.35), abs=1e-6)
    assert best_difference(noisy, noise=eps) == pytest.approx(math.log(4), abs=1e-6)


@pytest.mark.parametrize("z", [-2.0, 0.3, 4.0])
def test_noise_correction_formula(z: float):
    """[(1 - eps) l(z) - eps l(-z)]/(1 - 2 eps), l(z) = ln(1 + e^-z), eps = .2."""
    ell = lambda x: math.log1p(math.exp(-x))  # noqa: E731
    want = (0.8 * ell(z) - 0.2 * ell(-z)) / 0.6
    assert bradley_terry(f64(z, 0), pair(), noise=0.2).loss.item() == pytest.approx(want)


def slope(z: float, p: float = 1.0, **settings: float) -> float:
    """Return dL/dr_w of one pair of rewards (z, 0)."""
    score = f64(z, 0).requires_grad_(True)
    (g,) = torch.autograd.grad(bradley_terry(score, pair(p), **settings).loss.sum(), score)
    return g[0].item()


def test_noise_correction_falls_for_ever_unless_bounded():
    """Slope -> -eps/(1 - 2 eps) = -1/3 at eps = .2; beyond the bound, 10 by default, it is 0."""
    assert slope(60, noise=0.2, bound=math.inf) == pytest.approx(-1 / 3)
    assert slope(9.9, noise=0.2) < -0.33
    assert slope(10.1, noise=0.2) == 0
    assert slope(10.1, noise=0.2, bound=12) < -0.33
    assert slope(12) == pytest.approx(-1 / (1 + math.exp(12)))  # no correction, no bound
    with pytest.raises(ConfigError, match="bound"):
        bradley_terry(f64(1, 0), pair(), noise=0.2, bound=0.0)


@pytest.mark.parametrize("z", [-15.0, -3.0, 9.0, 15.0])
def test_the_bounded_correction_is_unbiased(z: float):
    """(1 - eps) L(z) + eps L(-z) is the plain loss of the clipped z, for every pair."""
    straight, flipped = (bradley_terry(f64(x, 0), pair(), noise=0.2).loss.item() for x in (z, -z))
    plain = math.log1p(math.exp(-max(-10.0, min(10.0, z))))
    assert 0.8 * straight + 0.2 * flipped == pytest.approx(plain, abs=1e-12)


def test_a_bounded_loss_has_a_floor():
    """Fitted for long to one click, z ends at the bound, and the loss where it was there."""
    score = f64(0, 0).requires_grad_(True)
    optimiser = torch.optim.SGD([score], lr=1.0)
    for _ in range(200):
        optimiser.zero_grad()
        bradley_terry(score, pair(), noise=0.2).loss.sum().backward()
        optimiser.step()
    z = (score[0] - score[1]).item()
    assert 10 <= z < 11
    ell = lambda x: math.log1p(math.exp(-x))  # noqa: E731
    floor = (0.8 * ell(10) - 0.2 * ell(-10)) / 0.6
    assert bradley_terry(score, pair(), noise=0.2).loss.item() == pytest.approx(floor)


def test_constants_are_free_unless_centred():
    """Adding f(x) to both rewards leaves the plain loss alone; centring adds c (r_w + r_l)^2."""
    score = f64(1.0, -0.5)
    plain, moved = bradley_terry(score, pair()), bradley_terry(score + 7, pair())
    assert plain.loss.item() == pytest.approx(moved.loss.item(), abs=1e-12)
    centred = bradley_terry(score, pair(), centring=0.01)
    assert (centred.loss - plain.loss).item() == pytest.approx(0.01 * 0.25)
    moved = bradley_terry(score + 7, pair(), centring=0.01)
    assert (moved.loss - plain.loss).item() == pytest.approx(0.01 * 14.5**2)


def test_ranking_counts_a_prompt_once():
    """K = 3 gives 3 pairs at 1/3 each, K = 2 one pair at 1: every prompt weighs 1."""
    pairs = clicks([0, 0, 1, 3], [1, 2, 2, 4])
    group = torch.tensor([8, 8, 8, 5, 5])
    weight = rank_weight(pairs, group)
    assert weight.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1])
    score = f64(2, 1, 0, 0.5, 0)
    terms = bradley_terry(score, pairs, weight=weight)
    ell = lambda x: math.log1p(math.exp(-x))  # noqa: E731
    want = (2 * ell(1) + ell(2)) / 3 + ell(0.5)
    assert terms.loss.sum().item() == pytest.approx(want)
    assert terms.weight.sum().item() == pytest.approx(2)


def test_metrics_follow_the_label():
    """p = 0 says that l is better: margin r_l - r_w; the mean reward does not care."""
    m = bradley_terry(f64(2.0, 0.5), pair(0.0)).metrics
    assert {k: v.item() for k, v in m.items()} == {"accuracy": 0, "margin": -1.5, "reward": 1.25}


def test_tied_labels_at_equal_rewards_have_no_gradient():
    score = f64(1, 1).requires_grad_(True)
    (g,) = torch.autograd.grad(bradley_terry(score, pair(0.5)).loss.sum(), score)
    assert g.abs().max() == 0


def test_preference_model():
    """BCE at logit 0 is ln 2; antisymmetric logits make both orders sum to one."""
    assert two_argument(f64(0.0), f64(0.3)).loss.item() == pytest.approx(math.log(2))
    ab, ba = f64(1.4), f64(0.6)
    f = antisymmetric(ab, ba)
    assert f.item() == pytest.approx(0.4)
    both = torch.sigmoid(f) + torch.sigmoid(antisymmetric(ba, ab))
    assert both.item() == pytest.approx(1)
    loss = two_argument(f, f64(0.9))
    want = -0.9 * math.log(torch.sigmoid(f).item()) - 0.1 * math.log(torch.sigmoid(-f).item())
    assert loss.loss.item() == pytest.approx(want)
    assert loss.metrics["accuracy"].item() == pytest.approx(0.9)


@pytest.mark.parametrize(
    "bad",
    [
        {"smoothing": 0.5},
        {"noise": 0.6},
        {"noise": 0.1, "smoothing": 0.1},
        {"centring": -0.01},
        {"bound": 0.0},
    ],
)
def test_nonsense_is_refused(bad: dict[str, float]):
    with pytest.raises(ConfigError):
        bradley_terry(f64(1, 0), pair(), **bad)
