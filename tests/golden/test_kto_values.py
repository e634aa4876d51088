"""KTO's loss and its reference point against hand-derived values."""

from __future__ import annotations

import math

import pytest
import torch

from tabular import f64
from tandem.errors import ConfigError
from tandem.objectives import kto, kto_z0


def test_at_the_reference_point_half_of_the_value_is_lost():
    """h = z0: v = lambda/2, so the loss is lambda/2."""
    h, z0 = f64(0.3, 0.3), f64(0.3)[0]
    terms = kto(h, torch.tensor([True, False]), z0, beta=0.1, lam_d=1.5, lam_u=0.8)
    torch.testing.assert_close(terms.loss, f64(0.75, 0.4))
    assert terms.weight.tolist() == [1, 1]


def test_worked_example():
    """beta = .5, z0 = .2: desirable h = 1: 1 - s(.4); undesirable h = -.6: 1 - s(.4)."""
    terms = kto(f64(1.0, -0.6), f64(1, 0), f64(0.2)[0], beta=0.5)
    want = 1 - 1 / (1 + math.exp(-0.4))
    assert terms.loss.tolist() == pytest.approx([want, want])
    assert terms.metrics["accuracy"].tolist() == [1, 1]
    assert terms.metrics["reward"].tolist() == pytest.approx([0.5, -0.3])
    assert terms.metrics["z0"].tolist() == pytest.approx([0.2, 0.2])


def test_swapping_the_label_flips_the_gradient():
    grads = []
    for label in (1.0, 0.0):
        h = f64(0.7).requires_grad_(True)
        loss = kto(h, f64(label), f64(0.1)[0], beta=0.3).loss.sum()
        grads.append(torch.autograd.grad(loss, h)[0].item())
    u = 0.3 * 0.6
    s = 1 / (1 + math.exp(-u))
    assert grads[0] == pytest.approx(-0.3 * s * (1 - s))
    assert grads[1] == -grads[0]


def test_z0_is_clamped_and_carries_no_gradient():
    """max(0, mean): (.5 - .1)/2 = .2, and (-.5 + .1)/2 -> 0."""
    mismatched = f64(0.5, -0.1).requires_grad_(True)
    z0 = kto_z0(mismatched)
    assert z0.item() == pytest.approx(0.2)
    assert not z0.requires_grad
    assert kto_z0(f64(-0.5, 0.1)).item() == 0
    h = f64(1.0).requires_grad_(True)
    live = f64(0.2)[0].requires_grad_(True)
    kto(h, f64(1), live, beta=0.1).loss.sum().backward()
    assert live.grad is None
    assert h.grad is not None


def test_z0_belongs_to_the_step_not_to_the_micro_batch():
    """Per micro-batch: max(0, .6) and max(0, -.2), mean .3; of the step: max(0, .2) = .2."""
    whole = kto_z0(f64(0.6, -0.2))
    parts = 0.5 * (kto_z0(f64(0.6)) + kto_z0(f64(-0.2)))
    assert whole.item() == pytest.approx(0.2)
    assert parts.item() == pytest.approx(0.3)


@pytest.mark.parametrize("bad", [{"beta": 0.0}, {"beta": 0.1, "lam_d": -1.0}])
def test_settings_out_of_range_are_refused(bad: dict[str, float]):
    with pytest.raises(ConfigError, match="kto"):
        kto(f64(0.1), f64(1), f64(0)[0], **bad)
