"""Policy-gradient objectives against hand-derived values (docs/theory/ppo.md#exact-values)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tabular import f64, total
from tandem.batching.ragged import Ragged
from tandem.errors import ConfigError
from tandem.objectives import kl, ppo_clip, reinforce, value_clip
from tandem.objectives.shares import Per, unit_shares

OLD = Ragged.of([f64(-1.0, -2.0, -0.5), f64(-0.7)])
ADV = Ragged.of([f64(1.0, -2.0, 0.5), f64(3.0)])


def slope(x: Ragged, loss) -> Tensor:
    """Return the gradient of a step's loss with respect to the log-probabilities."""
    leaf = x.values.clone().requires_grad_(True)
    (g,) = torch.autograd.grad(total(loss(x.map(lambda _: leaf))), leaf)
    return g


def clipped(rho: float, adv: float, **sampling: float) -> tuple[float, float]:
    """Return loss and d loss / d log pi of one token with this ratio and advantage."""
    leaf = f64(math.log(rho)).requires_grad_(True)
    one = Ragged(leaf, torch.zeros(1, dtype=torch.int64), 1)
    terms = ppo_clip(one, one.map(lambda _: f64(0.0)), one.map(lambda _: f64(adv)), **sampling)
    (g,) = torch.autograd.grad(terms.loss.sum(), leaf)
    return terms.loss.item(), g.item()


def test_first_pass_is_the_policy_gradient():
    """rho = 1: the gradient is -A/T a token; ratio 1, nothing clipped, no KL."""
    g = slope(OLD, lambda logp: ppo_clip(logp, OLD, ADV))
    torch.testing.assert_close(g, -ADV.values / 4)
    metrics = ppo_clip(OLD, OLD, ADV).metrics
    assert metrics["ratio"].tolist() == [1] * 4
    assert metrics["clip_share"].tolist() == [0] * 4
    assert metrics["approx_kl"].tolist() == [0] * 4


def test_clipping():
    """At eps = .2: A > 0 stops above 1.2, A < 0 below .8; on the other sides all goes through."""
    assert clipped(1.5, 2.0) == pytest.approx((-2.4, 0.0))
    assert clipped(0.5, 2.0) == pytest.approx((-1.0, -1.0))
    assert clipped(0.5, -2.0) == pytest.approx((1.6, 0.0))
    assert clipped(1.5, -2.0) == pytest.approx((3.0, 3.0))


def test_dapo_clips_higher():
    """rho = 1.25, A = 1: clipped at .2, free at .28."""
    assert clipped(1.25, 1.0) == pytest.approx((-1.2, 0.0))
    assert clipped(1.25, 1.0, clip_high=0.28) == pytest.approx((-1.25, -1.25))


def test_metrics_of_a_moved_policy():
    """rho = (1.5, 1, 1, .5) with A = (1, -2, .5, 3): one clipped; KL rho - 1 - ln rho."""
    step = f64(math.log(1.5), 0, 0, math.log(0.5))
    m = ppo_clip(OLD.map(lambda v: v + step), OLD, ADV).metrics
    assert m["clip_share"].tolist() == [1, 0, 0, 0]
    want = [0.5 - math.log(1.5), 0, 0, -0.5 - math.log(0.5)]
    assert m["approx_kl"].tolist() == pytest.approx(want)


def test_averages():
    """At rho = 1 the losses are -A = (-1, 2, -.5) and (-3): -2.5/4; (.5/3 - 3)/2; (.5 - 3)/2/4."""
    assert total(ppo_clip(OLD, OLD, ADV)).item() == pytest.approx(-2.5 / 4)
    grpo = total(ppo_clip(OLD, OLD, ADV, per="sequence"))
    assert grpo.item() == pytest.approx((0.5 / 3 - 3) / 2)
    dr_grpo = total(ppo_clip(OLD, OLD, ADV, per="constant", length=4))
    assert dr_grpo.item() == pytest.approx((0.5 - 3) / 2 / 4)


def test_dr_grpo_weighs_tokens_of_long_and_short_answers_alike():
    """Equal advantages: with `constant` every token has the same gradient, with `sequence` the
    one-token answer pushes three times as hard as each token of the three-token answer."""
    same = ADV.map(torch.ones_like)
    g = slope(OLD, lambda logp: ppo_clip(logp, OLD, same, per="constant", length=4))
    assert g.tolist() == pytest.approx([-1 / 8] * 4)
    g = slope(OLD, lambda logp: ppo_clip(logp, OLD, same, per="sequence"))
    assert (g[3] / g[0]).item() == pytest.approx(3)


def test_dr_grpo_is_linear_in_the_reward_scale():
    sampling = {"per": "constant", "length": 4.0}
    g = slope(OLD, lambda logp: ppo_clip(logp, OLD, ADV, **sampling))
    torch.testing.assert_close(slope(OLD, lambda x: ppo_clip(x, OLD, ADV * 7.0, **sampling)), 7 * g)


def test_equal_rewards_give_no_gradient():
    zero = ADV.map(torch.zeros_like)
    assert slope(OLD, lambda logp: ppo_clip(logp, OLD, zero)).abs().max() == 0


def test_gspo_ratio_is_the_geometric_mean():
    """Log-ratios (.3, -.1, .1) and (.2): s = e^.1 and e^.2; A = 1: loss -(e^.1 + e^.2)/2."""
    moved = OLD.map(lambda v: v + f64(0.3, -0.1, 0.1, 0.2))
    one = ADV.map(torch.ones_like)
    sampling = {"ratio": "sequence", "per": "sequence", "clip_high": 0.5}
    terms = ppo_clip(moved, OLD, one, **sampling)
    assert total(terms).item() == pytest.approx(-(math.exp(0.1) + math.exp(0.2)) / 2)
    swapped = OLD.map(lambda v: v + f64(0.1, 0.3, -0.1, 0.2))
    assert total(ppo_clip(swapped, OLD, one, **sampling)).item() == pytest.approx(
        total(terms).item()
    )


def test_gspo_of_one_token_is_ppo():
    old, adv = Ragged.of([f64(-1.0), f64(-2.0)]), Ragged.of([f64(1.0), f64(-1.0)])
    moved = old.map(lambda v: v + f64(0.3, -0.4))
    a = ppo_clip(moved, old, adv, ratio="sequence").loss
    torch.testing.assert_close(a, ppo_clip(moved, old, adv).loss)


def test_reinforce():
    """Default: the sequence's sum, averaged over answers: gradient -A/2 a token."""
    torch.testing.assert_close(slope(OLD, lambda x: reinforce(x, ADV)), -ADV.values / 2)


def test_reinforce_equals_ppo_on_the_first_pass():
    a = slope(OLD, lambda x: reinforce(x, ADV, per="token"))
    torch.testing.assert_close(a, slope(OLD, lambda x: ppo_clip(x, OLD, ADV)))


def test_value_loss():
    """V_old = 1, G = 2, c = .2. V = 1.5: max(.25, (1.2 - 2)^2 = .64)/2 = .32, no gradient.
    V = .5: max(2.25, (.8 - 2)^2 = 1.44)/2 = 1.125, gradient V - G = -1.5."""
    old, ret = Ragged.of([f64(1, 1)]), Ragged.of([f64(2, 2)])
    leaf = f64(1.5, 0.5).requires_grad_(True)
    value = Ragged(leaf, torch.zeros(2, dtype=torch.int64), 1)
    terms = value_clip(value, old, ret, clip=0.2)
    assert terms.loss.tolist() == pytest.approx([0.32, 1.125])
    (g,) = torch.autograd.grad(terms.loss.sum(), leaf)
    assert g.tolist() == pytest.approx([0, -1.5])
    assert terms.metrics["value_clip_share"].tolist() == [1, 0]
    assert terms.metrics["value_error"].tolist() == pytest.approx([0.25, 2.25])
    assert value_clip(value, old, ret, clip=None).loss.tolist() == pytest.approx([0.125, 1.125])


def test_kl_losses():
    """Log-ratios (.2, -.5, .1) and (.4), sums -.2 and .4: k2 (.02 + .08)/2 = .05; k3 a token."""
    l = [0.2, -0.5, 0.1, 0.4]  # noqa: E741
    ref = OLD.map(lambda v: v - f64(*l))
    terms = kl(OLD, ref)
    assert terms.loss.tolist() == pytest.approx([0.02, 0.08])
    assert total(terms).item() == pytest.approx(0.05)
    assert terms.metrics["kl"].tolist() == pytest.approx([-0.2, 0.4])
    k3 = kl(OLD, ref, estimator="k3", ratio="token")
    assert k3.loss.tolist() == pytest.approx([math.exp(-x) - 1 + x for x in l])
    # k2's slope is l itself, the whole sequence's on each of its tokens
    g = slope(OLD, lambda x: kl(x, ref))
    assert g.tolist() == pytest.approx([-0.1, -0.1, -0.1, 0.2])
    assert slope(OLD, lambda x: kl(x, ref, ratio="token")).tolist() == pytest.approx(
        [x / 4 for x in l]
    )


@pytest.mark.parametrize("per", ["token", "sequence", "constant"])
def test_k2_beside_a_surrogate_is_k1_in_its_advantage(per: Per):
    """With the surrogate's average k2's slope is that of -beta (log pi - log pi_ref) in A.

    So beta means the same whatever the average. Without it, on two answers of 3 and 1 tokens, a
    mean over the 4 tokens would stand beside a mean over the 2 answers.
    """
    ref = OLD - f64(0.2, -0.5, 0.1, 0.4)
    sampling = {"per": per, "length": 4.0}
    in_reward = OLD.expand(-(OLD - ref).sum())
    want = slope(OLD, lambda x: ppo_clip(x, OLD, in_reward, **sampling))
    torch.testing.assert_close(slope(OLD, lambda x: kl(x, ref, **sampling)), want)
    k3 = kl(OLD, ref, estimator="k3", ratio="token", **sampling)
    plain = kl(OLD, ref, estimator="k3", ratio="token")
    torch.testing.assert_close(k3.loss, plain.loss * unit_shares(OLD, **sampling)[0])


def test_weighted_kl_losses():
    """One token, l = .2, rho = e^.3: the value is rho k, the slope rho (k + dk/dl)."""
    x, ref, old = (Ragged.of([f64(v)]) for v in (-1.0, -1.2, -1.3))
    rho, k3 = math.exp(0.3), math.exp(-0.2) - 0.8
    for estimator, value, rate in (("k1", 0.2, 1.0), ("k3", k3, 1 - math.exp(-0.2))):
        sampling = {"estimator": estimator, "ratio": "token", "old": old}
        assert total(kl(x, ref, **sampling)).item() == pytest.approx(rho * value)
        g = slope(x, lambda p, sampling=sampling: kl(p, ref, **sampling))
        assert g.item() == pytest.approx(rho * (value + rate))


def test_invalid_kl_losses_are_refused_with_the_reason():
    with pytest.raises(ConfigError, match="expected gradient"):
        kl(OLD, OLD, estimator="k1")
    with pytest.raises(ConfigError, match="not the KL"):
        kl(OLD, OLD, estimator="k2", old=OLD)
    with pytest.raises(ConfigError, match="overflows"):
        kl(OLD, OLD, estimator="k3", ratio="sequence")
    with pytest.raises(ConfigError, match="k9"):
        kl(OLD, OLD, estimator="k9")  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [{"clip_low": 0.0}, {"clip_high": -0.1}, {"clip_low": 1.5}])
def test_clips_out_of_range_are_refused(bad: dict[str, float]):
    with pytest.raises(ConfigError, match="ppo_clip"):
        ppo_clip(OLD, OLD, ADV, **bad)


@pytest.mark.parametrize(
    "loss",
    [
        lambda x, a, b: ppo_clip(x, a, b),
        lambda x, a, b: ppo_clip(x, a, b, ratio="sequence", per="sequence"),
        lambda x, a, b: reinforce(x, b),
        lambda x, a, b: value_clip(x, a, b),
        lambda x, a, b: kl(x, a),
        lambda x, a, b: kl(x, a, estimator="k3", ratio="token", old=b),
    ],
)
def test_frozen_columns_get_no_gradient(loss):
    """Advantages, returns and older log-probabilities are data, also when they carry a graph."""
    live = [x.map(lambda v: (0.3 * v).requires_grad_(True)) for x in (OLD, ADV, ADV)]
    terms = loss(*live)
    terms.loss.sum().backward()
    assert live[0].values.grad is not None
    assert live[1].values.grad is None
    assert live[2].values.grad is None
    assert not any(m.requires_grad for m in terms.metrics.values())
