"""The DPO family against values derived by hand (docs/theory/dpo.md#exact-values).

The worked example: logp = (-1.2, -.7), ref = (-1.0, -.9), so h = (-.2, .2), d = -.4 and, at
beta = .1, u = -.04.
"""

from __future__ import annotations

import math

import pytest
import torch

from tabular import clicks, f64, tilt
from tandem.batching.batch import Pairs
from tandem.batching.ragged import Ragged
from tandem.errors import ConfigError, DataError
from tandem.objectives import PAIRWISE, hinge, ipo, robust, sigmoid, simpo, sppo

LOGP, REF = Ragged.of([f64(-1.2), f64(-0.7)]), Ragged.of([f64(-1.0), f64(-0.9)])
H = (LOGP - REF).sum()
PAIR = clicks([0], [1])


def gradient(loss, d: float, p: float = 1.0) -> float:
    """Return dL/dd of a pair with h = (d, 0)."""
    h = f64(d, 0).requires_grad_(True)
    pairs = Pairs(torch.tensor([0]), torch.tensor([1]), f64(p))
    (g,) = torch.autograd.grad(loss(h, pairs).loss.sum(), h)
    return g[0].item()


def test_worked_example():
    """-ln s(-.04) = .713347; slope .1 s(.04) = .0510; (-.4 - 5)^2 = 29.16; 1 + .04 = 1.04."""
    assert sigmoid(H, PAIR, beta=0.1).loss.item() == pytest.approx(0.713347, abs=1e-6)
    assert gradient(lambda h, p: sigmoid(h, p, beta=0.1), -0.4) == pytest.approx(-0.0510, abs=1e-5)
    assert ipo(H, PAIR, tau=0.1).loss.item() == pytest.approx(29.16, abs=1e-9)
    assert hinge(H, PAIR, beta=0.1).loss.item() == pytest.approx(1.04, abs=1e-9)


def test_worked_example_metrics():
    """Rewards .1 * (-.2, .2); the pair is ranked wrongly; summed log-probs as given."""
    m = PAIRWISE["sigmoid"](LOGP, REF, PAIR, beta=0.1).metrics
    want = {
        "reward_chosen": -0.02,
        "reward_rejected": 0.02,
        "margin": -0.04,
        "accuracy": 0.0,
        "logp_chosen": -1.2,
        "logp_rejected": -0.7,
    }
    assert {k: v.item() for k, v in m.items()} == pytest.approx(want)


def test_at_the_reference():
    """h = 0: ln 2 with slope -beta/2, hinge 1, IPO 1/(4 tau^2), SPPO 2/(4 beta^2)."""
    h = f64(0, 0)
    assert sigmoid(h, PAIR, beta=0.3).loss.item() == pytest.approx(math.log(2))
    assert gradient(lambda h, p: sigmoid(h, p, beta=0.3), 0.0) == pytest.approx(-0.15)
    assert hinge(h, PAIR, beta=0.3).loss.item() == 1.0
    assert ipo(h, PAIR, tau=0.3).loss.item() == pytest.approx(1 / (4 * 0.09))
    assert sppo(h, PAIR, beta=0.3).loss.item() == pytest.approx(2 / (4 * 0.09))


def s(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("d", [-3.0, -0.4, 0.0, 1.7, 6.0])
def test_slopes_are_the_closed_forms(d: float):
    """dL/dd of docs/theory/dpo.md#slopes, at beta = .7, eps = .1, tau = .4, gamma = .7."""
    b, e, u = 0.7, 0.1, 0.7 * d
    cases = {
        "dpo": (lambda h, p: sigmoid(h, p, beta=b), -b * s(-u)),
        "cdpo": (lambda h, p: sigmoid(h, p, beta=b, smoothing=e), b * (s(u) - (1 - e))),
        "robust": (
            lambda h, p: robust(h, p, beta=b, noise=e),
            -b * ((1 - e) * s(-u) + e * s(u)) / (1 - 2 * e),
        ),
        "ipo": (lambda h, p: ipo(h, p, tau=0.4), 2 * (d - 1 / 0.8)),
        "hinge": (lambda h, p: hinge(h, p, beta=b), -b if u < 1 else 0.0),
        "sppo": (lambda h, p: sppo(h, p, beta=b), 2 * (d - 1 / (2 * b))),
        "simpo": (lambda h, p: simpo(h, p, beta=b, gamma=0.5), -b * s(0.5 - u)),
    }
    for name, (loss, slope) in cases.items():
        assert gradient(loss, d) == pytest.approx(slope, abs=1e-12), name


def test_gradient_reaches_both_log_probabilities():
    """-beta s(r_l - r_w) (grad log pi(w) - grad log pi(l)): equal and opposite."""
    h = H.clone().requires_grad_(True)
    (g,) = torch.autograd.grad(sigmoid(h, PAIR, beta=0.1).loss.sum(), h)
    assert g[0].item() == -g[1].item() == pytest.approx(-0.1 * s(0.04))


def test_without_noise_all_three_are_dpo():
    h = f64(0.3, -1.1)
    dpo = sigmoid(h, PAIR, beta=0.5).loss
    assert torch.equal(sigmoid(h, PAIR, beta=0.5, smoothing=0.0).loss, dpo)
    assert torch.equal(robust(h, PAIR, beta=0.5, noise=0.0).loss, dpo)


@pytest.mark.parametrize("u", [-4.0, -0.3, 0.0, 2.5])
@pytest.mark.parametrize("eps", [0.05, 0.1, 0.4])
def test_robust_is_unbiased_for_the_clean_loss(u: float, eps: float):
    """(1 - eps) L(u) + eps L(-u) = -log s(u), for every example."""
    straight = robust(f64(u, 0), PAIR, beta=1.0, noise=eps).loss
    flipped = robust(f64(-u, 0), PAIR, beta=1.0, noise=eps).loss
    assert ((1 - eps) * straight + eps * flipped).item() == pytest.approx(-math.log(s(u)))


def test_robust_stops_to_pull_at_its_bound():
    """Without one the slope tends to -beta eps/(1 - 2 eps) = -.0625, at beta .5 and eps .1."""

    def pull(u: float, **settings: float) -> float:
        return gradient(lambda h, p: robust(h, p, beta=0.5, noise=0.1, **settings), u / 0.5)

    assert pull(60, bound=math.inf) == pytest.approx(-0.5 * 0.1 / 0.8)
    assert pull(10.1) == pull(-10.1) == 0
    assert pull(9.9) < -0.06
    assert pull(-9.9) == pytest.approx(-0.5 * 0.9 / 0.8, abs=1e-3)


def test_cdpo_stops_at_its_label():
    """The gradient is 0 where s(u) = 1 - eps: d = ln((1 - eps)/eps)/beta."""
    d = math.log(0.9 / 0.1) / 0.5
    assert gradient(lambda h, p: sigmoid(h, p, beta=0.5, smoothing=0.1), d) == pytest.approx(0)


def test_far_below_hinge_and_dpo_agree():
    """d -> -inf: both slopes -> -beta."""
    assert gradient(lambda h, p: sigmoid(h, p, beta=0.5), -200.0) == pytest.approx(-0.5)
    assert gradient(lambda h, p: hinge(h, p, beta=0.5), -200.0) == -0.5


def test_uniform_reference_makes_the_reference_irrelevant():
    ref = Ragged.of([f64(-2.3), f64(-2.3)])
    for plain, normed in (("sigmoid_unnormalised", "sigmoid"), ("hinge", "hinge_norm")):
        a = PAIRWISE[plain](LOGP, None, PAIR, beta=0.4).loss
        b = PAIRWISE[normed](LOGP, ref, PAIR, beta=0.4).loss
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_soft_label_is_the_expectation_over_labels():
    """p = .7: .7 of the loss of (w, l) plus .3 of the loss of (l, w), for every loss."""
    soft = Pairs(torch.tensor([0]), torch.tensor([1]), f64(0.7))
    back = clicks([1], [0])
    for name, loss in PAIRWISE.items():
        mixed = 0.7 * loss(LOGP, REF, PAIR).loss + 0.3 * loss(LOGP, REF, back).loss
        assert loss(LOGP, REF, soft).loss.item() == pytest.approx(mixed.item()), name


def test_a_tie_pulls_to_the_reference():
    """p = 1/2 and h = 0: no gradient for losses on the difference, and accuracy one half."""
    for loss in (lambda h, p: sigmoid(h, p, beta=0.3), lambda h, p: ipo(h, p, tau=0.3)):
        assert gradient(loss, 0.0, p=0.5) == 0.0
    tie = Pairs(torch.tensor([0]), torch.tensor([1]), f64(0.5))
    assert sigmoid(H, tie, beta=0.3).metrics["accuracy"].item() == 0.5


def test_label_zero_is_the_reversed_pair():
    lost = Pairs(torch.tensor([0]), torch.tensor([1]), f64(0.0))
    terms, reversed_terms = sigmoid(H, lost, beta=0.3), sigmoid(H, clicks([1], [0]), beta=0.3)
    assert terms.loss.item() == reversed_terms.loss.item()
    assert {k: v.item() for k, v in terms.metrics.items()} == {
        k: v.item() for k, v in reversed_terms.metrics.items()
    }


def test_both_orders_of_one_pair_cancel_at_the_reference():
    h = f64(0, 0).requires_grad_(True)
    (g,) = torch.autograd.grad(sigmoid(h, clicks([0, 1], [1, 0]), beta=0.3).loss.sum(), h)
    assert g.abs().max() == 0


def test_margin_moves_the_optimum():
    """z = beta d - m: -ln s(.2 - .5) at beta d = .2, m = .5; hinge 1 - (.2 - .5) = 1.3."""
    pairs = Pairs(torch.tensor([0]), torch.tensor([1]), f64(1.0), f64(0.5))
    h = f64(0.2, 0)
    assert sigmoid(h, pairs, beta=1.0).loss.item() == pytest.approx(-math.log(s(-0.3)))
    assert hinge(h, pairs, beta=1.0).loss.item() == pytest.approx(1.3)


def test_margin_is_refused_where_it_has_no_place():
    pairs = Pairs(torch.tensor([0]), torch.tensor([1]), f64(1.0), f64(0.5))
    for name in ("ipo", "ipo_sum", "sppo_hard"):
        with pytest.raises(ConfigError, match="margin"):
            PAIRWISE[name](LOGP, REF, pairs)


def test_length_normalisation_divides_each_answer_by_its_own_length():
    """Answers of 2 and 1 tokens: mean log-ratios (.3 + .1)/2 = .2 and -.4, so d = .6."""
    logp, ref = Ragged.of([f64(-0.7, -0.9), f64(-1.4)]), Ragged.of([f64(-1, -1), f64(-1)])
    for name in ("ipo", "length_normalised"):
        h = PAIRWISE[name].h(logp, ref)
        torch.testing.assert_close(h, f64(0.2, -0.4))
    torch.testing.assert_close(PAIRWISE["ipo_sum"].h(logp, ref), f64(0.4, -0.4))
    torch.testing.assert_close(PAIRWISE["simpo"].h(logp, None), f64(-0.8, -1.4))
    loss = PAIRWISE["ipo"](logp, ref, PAIR, tau=0.5).loss
    assert loss.item() == pytest.approx((0.6 - 1) ** 2)


def test_ipo_two_answers_certain_label():
    """Uniform reference, p = 1: d = 1/(2 tau), so pi(y1) = s(1/(2 tau)) = .73106 at tau = .5.

    L-BFGS is not needed: the tilt of a uniform reference by (1/(2 tau), 0) has that d, and there
    the gradient vanishes.
    """
    pi = tilt(f64(0.5, 0.5), f64(1.0, 0.0), 1.0)
    assert pi[0].item() == pytest.approx(0.73106, abs=1e-5)
    h = (torch.log(pi) - math.log(0.5)).requires_grad_(True)
    (g,) = torch.autograd.grad(ipo(h, PAIR, tau=0.5).loss.sum(), h)
    assert g.abs().max() < 1e-12


def test_a_missing_reference_is_refused_with_the_way_out():
    with pytest.raises(DataError, match="simpo"):
        PAIRWISE["sigmoid"](LOGP, None, PAIR)


def test_unknown_settings_are_refused():
    with pytest.raises(ConfigError, match=r"(?s)betta.*Did you mean `beta`"):
        PAIRWISE["sigmoid"](LOGP, REF, PAIR, betta=0.2)


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        ("sigmoid", "beta", 0.0),
        ("sigmoid", "beta", -0.1),
        ("cdpo", "smoothing", 0.5),
        ("robust", "noise", 0.5),
        ("robust", "noise", -0.1),
        ("ipo", "tau", 0.0),
        ("hinge", "beta", float("nan")),
    ],
)
def test_settings_out_of_range_are_refused(name: str, setting: str, value: float):
    with pytest.raises(ConfigError, match=f"{setting}={value}"):
        PAIRWISE[name](LOGP, REF, PAIR, **{setting: value})


def test_no_loss_sends_a_gradient_to_the_reference():
    ref = REF.map(lambda v: v.clone().requires_grad_(True))
    logp = LOGP.map(lambda v: v.clone().requires_grad_(True))
    PAIRWISE["sigmoid"](logp, ref, PAIR).loss.sum().backward()
    assert ref.values.grad is None
    assert logp.values.grad is not None
