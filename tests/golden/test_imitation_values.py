"""Imitation weighted by rewards, against values derived by hand."""

from __future__ import annotations

import math

import pytest
import torch

from tabular import PI_REF, PI_STAR, R_STAR, f64, minimise, one_token, total, tv
from tandem.batching.ragged import Ragged
from tandem.errors import ConfigError
from tandem.objectives import gold, nll, soft_mean, weighted


def test_weights_are_exponentials_of_the_reward():
    """Costs (1, 2, 3) and (8), rewards 0 and ln 2, eta 1: weight 2, (6 + 2*8)/(3 + 1).

    With eta = 1/2 the weight is 4: (6 + 4*8)/4. A level of ln 2 halves what eta = 1 gives.
    """
    logp, r = Ragged.of([-f64(1, 2, 3), -f64(8)]), f64(0, math.log(2))
    assert total(weighted(logp, r)).item() == pytest.approx(22 / 4)
    assert total(weighted(logp, r, eta=0.5)).item() == pytest.approx(38 / 4)
    assert total(weighted(logp, r, level=math.log(2))).item() == pytest.approx(11 / 4)
    assert total(weighted(logp, r, per="sequence")).item() == pytest.approx((2 + 2 * 8) / 2)
    assert total(weighted(logp, r, weight=f64(2, 1))).item() == pytest.approx(28 / 7)


def test_the_soft_mean_makes_weights_one_on_average():
    """eta ln mean e^{r / eta}: with rewards 0 and ln 3 at eta 1 it is ln 2, weights 1/2 and 3/2.

    With own weights 3 and 1 it is ln (6/4). Large rewards do not overflow.
    """
    r = f64(0, math.log(3))
    assert soft_mean(r, 1.0) == pytest.approx(math.log(2))
    assert soft_mean(r, 1.0, f64(3, 1)) == pytest.approx(math.log(1.5))
    assert soft_mean(1000 * r, 0.01) == pytest.approx(1000 * math.log(3) - 0.01 * math.log(2))
    assert soft_mean(r, 1e6) == pytest.approx(math.log(3) / 2, abs=1e-5)


def test_a_high_temperature_is_imitation():
    logp, r = Ragged.of([-f64(1, 2, 3), -f64(8)]), f64(5, -5)
    plain = total(nll(logp)).item()
    assert total(weighted(logp, r, eta=1e9)).item() == pytest.approx(plain)


def test_reward_weighting_reaches_the_optimum():
    """Answers with the shares of pi_ref and weights e^{r / beta}: pi* of F1, exactly."""

    def population(logits: torch.Tensor) -> torch.Tensor:
        logp = one_token(torch.log_softmax(logits, -1))
        return total(weighted(logp, R_STAR, eta=0.5, level=0.5, weight=PI_REF))

    assert tv(torch.softmax(minimise(population, torch.zeros_like(PI_REF)), -1), PI_STAR) < 1e-6


@pytest.mark.parametrize("size", [1, 2, 5, 10])
def test_reward_weighting_has_its_limit_with_steps_of_any_size(size: int):
    """Ten answers with exactly the shares of pi_ref, in steps of `size`: pi* of F1.

    Divided by a step's own weights, one answer a step would weigh 1 whatever its reward: the limit
    was pi_ref, at a distance of .57.
    """
    answers = torch.repeat_interleave(torch.arange(4), torch.tensor([4, 3, 2, 1]))
    order = answers[torch.randperm(10, generator=torch.Generator().manual_seed(0))]
    level = soft_mean(R_STAR[answers], 0.5)

    def epoch(logits: torch.Tensor) -> torch.Tensor:
        steps = [
            total(
                weighted(
                    one_token(torch.log_softmax(logits, -1)[y]), R_STAR[y], eta=0.5, level=level
                )
            )
            for y in order.split(size)
        ]
        return torch.stack(steps).mean()

    limit = torch.softmax(minimise(epoch, torch.zeros_like(PI_REF)), -1)
    assert tv(PI_REF, PI_STAR) == pytest.approx(0.57, abs=0.01)
    assert tv(limit, PI_STAR) < 1e-6


def test_gold_by_hand():
    """Tokens of probability 1/2 and 1/4, reward 3: (3/2) ln 2 and (3/4) ln 4, averaged.

    With floor .4 the second weighs .4. The metric is the importance weight.
    """
    logp = Ragged.of([f64(1 / 2, 1 / 4).log()])
    terms = gold(logp, f64(3))
    assert total(terms).item() == pytest.approx((1.5 * math.log(2) + 0.75 * math.log(4)) / 2)
    assert terms.metrics["importance"].tolist() == pytest.approx([0.5, 0.25])
    floored = total(gold(logp, f64(3), floor=0.4)).item()
    assert floored == pytest.approx((1.5 * math.log(2) + 1.2 * math.log(4)) / 2)


def test_gold_climbs_the_probability_itself():
    """pi grad log pi = grad pi: the gradient is that of -sum R pi(y_t) over the tokens."""
    logits = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    logits.requires_grad_(True)
    logp = logits.log_softmax(-1)[:, 0]
    owner, r = torch.tensor([0, 0, 0, 1, 1]), f64(2, -1)
    (found,) = torch.autograd.grad(
        total(gold(Ragged(logp, owner, 2), r)), logits, retain_graph=True
    )
    (wanted,) = torch.autograd.grad(-(r[owner] * logp.exp()).sum() / 5, logits)
    torch.testing.assert_close(found, wanted)


def test_gold_with_full_floor_is_reward_times_nll():
    logp, r = Ragged.of([-f64(1, 2, 3), -f64(8)]), f64(2, 0.5)
    assert total(gold(logp, r, floor=1.0)).item() == pytest.approx((2 * 6 + 0.5 * 8) / 4)
    assert total(gold(logp, floor=1.0)).item() == pytest.approx(total(nll(logp)).item())


def test_nothing_pulls_at_what_the_threshold_left_out():
    """1[R > tau] as a weight: no gradient for r <= tau, and the limit is the restricted law.

    tau = .7 on F1: (0, 0, 2/3, 1/3), at a divergence of -ln P(r > .7) = 1.20397.
    """
    kept = (R_STAR > 0.7).double() * PI_REF
    values = torch.log(PI_REF).requires_grad_(True)
    (pull,) = torch.autograd.grad(total(nll(one_token(values), weight=kept)), values)
    assert pull.tolist() == pytest.approx([0, 0, -2 / 3, -1 / 3])
    assert -math.log(float(kept.sum())) == pytest.approx(1.20397, abs=5e-6)


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(ConfigError, match="eta"):
        weighted(Ragged.of([f64(-1)]), f64(1), eta=0.0)
