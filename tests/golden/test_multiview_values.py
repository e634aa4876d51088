"""RLP-UML's loss against hand-derived values (docs/theory/rlp.md#multi-view-learning)."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from tabular import f64, total
from tandem.errors import ConfigError, DataError
from tandem.objectives import (
    contrastive,
    multiview,
    other_prompt,
    skl_closed,
    skl_sample,
    skl_schedule,
)

VIEWS = f64(0, 1)[None], f64(1, 0.5)[None], f64(0.5, 0.5)[None], f64(2, 1)[None]


def test_skl_fixture():
    """d = 1: 1/4 + 4 - 2 + .25 (1 + 1/4) = 2.5625; d = 2: 1/4 + 4 - 2 + .25 (4 + 1) = 3.5;
    (2.5625 + 3.5)/4 = 1.515625."""
    assert skl_closed(*VIEWS).item() == pytest.approx(1.515625, abs=1e-12)


def test_one_draw_form_has_the_closed_form_as_its_mean():
    """The estimate is quadratic in each z, so its mean is the mean over z = mu +- sigma."""
    mu1, s1, mu2, s2 = VIEWS
    signs = [f64(*x) for x in itertools.product((-1, 1), repeat=2)]
    draws = [skl_sample(mu1 + a * s1, mu2 + b * s2, *VIEWS) for a in signs for b in signs]
    assert torch.stack(draws).mean().item() == pytest.approx(1.515625, abs=1e-12)


def test_skl_is_symmetric_and_zero_for_equal_views():
    mu1, s1, mu2, s2 = VIEWS
    assert skl_closed(mu1, s1, mu1, s1).item() == 0
    assert skl_closed(mu2, s2, mu1, s1).item() == skl_closed(*VIEWS).item()


def test_ignorant_critic():
    """T = 0: I_JS = -2 ln 2 = -1.386294, so L_M = 1.386294 + SKL, and I_KL reads 0."""
    zero, skl = torch.zeros(3, dtype=torch.float64), f64(0, 1, 2)
    terms = multiview(zero, zero, skl)
    torch.testing.assert_close(terms.metrics["mi_js"], torch.full_like(zero, -1.386294361))
    torch.testing.assert_close(terms.loss, 2 * math.log(2) + skl)
    assert terms.metrics["mi_kl"].tolist() == [0, 0, 0]
    assert total(multiview(zero, zero, skl, skl_weight=0.1)).item() == pytest.approx(
        2 * math.log(2) + 0.1
    )


def test_true_density_ratio_reads_the_mutual_information():
    """Gaussian pair, rho = .8: T* = log p(z1, z2)/(p(z1) p(z2)) has mean .510826 on the joint
    and E e^T* = 1 on the marginals, so I_KL -> .5108; I_JS <= 0 for any critic.

    The expectations are taken on a grid of +-9 standard deviations."""
    x = torch.linspace(-9, 9, 901, dtype=torch.float64)
    a, b = torch.meshgrid(x, x, indexing="ij")
    log_normal = -0.5 * (a**2 + b**2) - math.log(2 * math.pi)
    square = (a**2 - 1.6 * a * b + b**2) / 0.36
    log_joint = -0.5 * square - math.log(2 * math.pi) - 0.5 * math.log(0.36)
    t = log_joint - log_normal
    cell = float(x[1] - x[0]) ** 2
    assert (log_joint.exp() * t).sum().item() * cell == pytest.approx(0.510826, abs=1e-6)
    assert (log_normal + t).exp().sum().item() * cell == pytest.approx(1, abs=1e-9)
    terms = multiview(t.reshape(-1), t.reshape(-1), torch.zeros_like(t).reshape(-1))
    assert terms.metrics["mi_js"].max() <= 0


def test_better_critic_has_lower_loss():
    """Joint up and marginal down lower L_M: its gradient is -s(-T_joint) and +s(T_marginal)."""
    joint, marginal = f64(0.5).requires_grad_(True), f64(-0.2).requires_grad_(True)
    multiview(joint, marginal, f64(0)).loss.sum().backward()
    assert joint.grad.item() == pytest.approx(-1 / (1 + math.exp(0.5)))
    assert marginal.grad.item() == pytest.approx(1 / (1 + math.exp(0.2)))


def test_marginals_come_from_other_prompts():
    assert other_prompt(torch.tensor([4, 9, 1])).tolist() == [2, 0, 1]
    for group in ([5], [5, 5], [1, 2, 2]):
        with pytest.raises(DataError, match="own prompt"):
            other_prompt(torch.tensor(group))


def test_schedule():
    """1e-3 until 50,000, 1 from 150,000, and the geometric mean half-way."""
    assert skl_schedule(0) == skl_schedule(50_000) == pytest.approx(1e-3)
    assert skl_schedule(100_000) == pytest.approx(math.sqrt(1e-3))
    assert skl_schedule(150_000) == skl_schedule(10**9) == pytest.approx(1)
    assert skl_schedule(15, begin=0, steps=30) == pytest.approx(math.sqrt(1e-3))
    with pytest.raises(ConfigError, match="start=0"):
        skl_schedule(0, start=0)
    with pytest.raises(ConfigError, match="steps=0"):
        skl_schedule(0, steps=0)


def test_contrast_with_one_negative():
    """-log e^2/(e^2 + e^1) = log(1 + e^-1) = .313262; equal similarities make ln 2."""
    terms = contrastive(f64(2, 0), f64(1, 0))
    torch.testing.assert_close(terms.loss, f64(0.3132616875, 0.6931471806))
    assert terms.metrics["told_apart"].tolist() == [1, 0.5]
