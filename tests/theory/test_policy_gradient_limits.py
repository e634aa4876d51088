"""Where each policy gradient ends on F1, with exact expectations and with samples.

See docs/theory/tabular.md#policy-gradients. The objectives and estimators are the ones that train
real models; an answer is one token, so a batch of answers is a table lookup.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tabular import (
    BETA,
    PI_REF,
    PI_STAR,
    R_STAR,
    descend,
    f64,
    j,
    kl_div,
    one_token,
    tilt,
    tv,
)
from tandem.batching.batch import Terms
from tandem.batching.ragged import Ragged
from tandem.objectives import kl, ppo_clip, reinforce
from tandem.objectives.advantages import group_mean, leave_one_out, whiten
from tandem.objectives.shaped_rewards import kl_shaping, kl_value

REF = one_token(PI_REF.log())


# --- the objective itself -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("beta", "pi", "reward", "divergence", "best"),
    [
        (0.25, (0.001283, 0.00711325, 0.03504013, 0.95656306), 1.95172287, 2.06506801, 1.43545587),
        (0.5, (0.04906103, 0.10002128, 0.18125735, 0.66966035), 1.57058868, 1.04277782, 1.04919977),
        (1, (0.18372404, 0.2271823, 0.24970686, 0.33938681), 1.04207162, 0.26404191, 0.77802971),
        (10, (0.37787333, 0.29793548, 0.20880731, 0.11538388), 0.58854281, 0.00194877, 0.56905515),
    ],
)  # fmt: skip
def test_pi_star(beta: float, pi: tuple[float, ...], reward: float, divergence: float, best: float):
    star = tilt(PI_REF, R_STAR, beta)
    z = float((PI_REF * torch.exp(R_STAR / beta)).sum())
    assert tv(star, f64(*pi)) < 1e-6
    assert float((star * R_STAR).sum()) == pytest.approx(reward, abs=1e-8)
    assert kl_div(star, PI_REF) == pytest.approx(divergence, abs=1e-8)
    assert j(star, beta=beta) == pytest.approx(best, abs=1e-8)
    assert beta * math.log(z) == pytest.approx(best, abs=1e-8)


def test_distance_from_the_optimum_is_a_divergence():
    """J(pi) = J* - beta KL(pi || pi*), for any pi."""
    rng = torch.Generator().manual_seed(1)
    for _ in range(20):
        pi = torch.rand(4, generator=rng, dtype=torch.float64)
        pi = pi / pi.sum()
        star = tilt(PI_REF, R_STAR, BETA)
        assert j(pi) == pytest.approx(j(star) - BETA * kl_div(pi, star), abs=1e-12)


def test_zero_variance_at_the_optimum():
    """Every answer's penalised score is beta log Z = 1.04920 under pi*."""
    star = one_token(tilt(PI_REF, R_STAR, BETA).log())
    shaped = kl_shaping(R_STAR, star, REF, BETA)
    torch.testing.assert_close(shaped.sum(), torch.full((4,), 1.04919977, dtype=torch.float64))


def test_reward_and_divergence_fall_with_beta():
    stars = [tilt(PI_REF, R_STAR, b) for b in (0.1, 0.25, 0.5, 1.0, 2.0, 10.0)]
    rewards = [float((s * R_STAR).sum()) for s in stars]
    divergences = [kl_div(s, PI_REF) for s in stars]
    assert rewards == sorted(rewards, reverse=True)
    assert divergences == sorted(divergences, reverse=True)
    assert tv(tilt(PI_REF, R_STAR, 1e6), PI_REF) < 1e-6
    assert tilt(PI_REF, R_STAR, 1e-3)[3] > 1 - 1e-12


# --- exact expectations -------------------------------------------------------------------------


def exact(terms: Terms, pi: Tensor) -> Tensor:
    """Return the expected loss over one-token answers drawn from pi."""
    return (pi * terms.loss / terms.weight).sum()


def table(logits: Tensor) -> tuple[Ragged, Ragged, Tensor]:
    """Return log-probabilities of the four answers, the same as sampled, and the policy."""
    logp = one_token(logits.log_softmax(-1))
    return logp, logp.detach(), logp.values.detach().exp()


def exact_ppo(logits: Tensor) -> Tensor:
    logp, old, pi = table(logits)
    shaped = kl_shaping(R_STAR, old, REF, BETA)
    adv = shaped - (pi * shaped.values).sum()
    return exact(ppo_clip(logp, old, adv), pi)


def exact_reinforce(logits: Tensor) -> Tensor:
    logp, old, pi = table(logits)
    return exact(reinforce(logp, kl_shaping(R_STAR, old, REF, BETA)), pi)


def exact_k2(logits: Tensor) -> Tensor:
    logp, _, pi = table(logits)
    return exact(reinforce(logp, one_token(R_STAR)), pi) + BETA * exact(kl(logp, REF), pi)


@pytest.mark.parametrize("loss", [exact_ppo, exact_reinforce, exact_k2])
def test_exact_ascent_reaches_pi_star(loss):
    pi = descend(loss, PI_REF.log(), steps=4000, lr=0.5).softmax(-1)
    assert tv(pi, tilt(PI_REF, R_STAR, BETA)) < 1e-12


def test_every_policy_gradient_is_the_gradient_of_the_objective():
    """At a random policy all three equal -grad J, by autograd on the closed form."""
    logits = f64(0.3, -0.2, 0.9, -1.0).requires_grad_(True)
    pi = logits.softmax(-1)
    objective = (pi * R_STAR).sum() - BETA * (pi * (pi / PI_REF).log()).sum()
    (want,) = torch.autograd.grad(-objective, logits)
    for loss in (exact_ppo, exact_reinforce, exact_k2):
        (g,) = torch.autograd.grad(loss(logits), logits)
        torch.testing.assert_close(g, want, rtol=0, atol=1e-12)


def test_k1_as_a_loss_has_no_expected_gradient():
    """Why `kl` refuses it: E grad (log pi - log pi_ref) = grad 1 = 0."""
    logits = f64(0.3, -0.2, 0.9, -1.0).requires_grad_(True)
    logp, _, pi = table(logits)
    (g,) = torch.autograd.grad((pi * (logp - REF).values).sum(), logits)
    assert g.abs().max() < 1e-15


def test_k2_is_the_reverse_and_k3_the_forward_divergence():
    logits = f64(0.3, -0.2, 0.9, -1.0).requires_grad_(True)
    policy = logits.softmax(-1)
    reverse = (policy * (policy / PI_REF).log()).sum()
    forward = (PI_REF * (PI_REF / policy).log()).sum()
    for estimator, ratio, divergence in (
        ("k2", "sequence", reverse),
        ("k2", "token", reverse),  # an answer is one token
        ("k3", "token", forward),
    ):
        logp, _, pi = table(logits)
        (g,) = torch.autograd.grad(
            exact(kl(logp, REF, estimator=estimator, ratio=ratio), pi), logits
        )
        (want,) = torch.autograd.grad(divergence, logits, retain_graph=True)
        torch.testing.assert_close(g, want, rtol=0, atol=1e-12)


def test_weighted_k1_and_k3_are_the_reverse_divergence_off_policy_too():
    """E_old rho k = E_pi k = KL for k1 and k3, whatever policy sampled (DeepSeek-V3.2)."""
    logits = f64(0.3, -0.2, 0.9, -1.0).requires_grad_(True)
    policy = logits.softmax(-1)
    reverse = (policy * (policy / PI_REF).log()).sum()
    (want,) = torch.autograd.grad(reverse, logits, retain_graph=True)
    sampler = f64(0.1, 0.2, 0.3, 0.4)
    logp, old = one_token(logits.log_softmax(-1)), one_token(sampler.log())
    for estimator in ("k1", "k3"):
        loss = exact(kl(logp, REF, estimator=estimator, ratio="token", old=old), sampler)
        assert loss.item() == pytest.approx(reverse.item())
        (g,) = torch.autograd.grad(loss, logits, retain_graph=True)
        torch.testing.assert_close(g, want, rtol=0, atol=1e-12)


def test_k2_of_sequences_is_exact_and_token_by_token_is_not():
    """Two tokens of a binary alphabet, all four sequences enumerated."""
    first = f64(0.4, -0.3).requires_grad_(True)
    second = torch.tensor([[0.2, -0.5], [1.0, 0.3]], dtype=torch.float64, requires_grad=True)
    ref_first, ref_second = (
        f64(0.6, 0.4).log(),
        torch.tensor([[0.7, 0.3], [0.2, 0.8]]).double().log(),
    )
    a, b = first.log_softmax(-1), second.log_softmax(-1)
    x, y = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    owner = torch.arange(4).repeat_interleave(2)
    logp = Ragged(torch.stack([a[x], b[x, y]], 1).reshape(-1), owner, 4)
    ref = Ragged(torch.stack([ref_first[x], ref_second[x, y]], 1).reshape(-1), owner, 4)
    pi = logp.sum().exp()
    divergence = (pi * (logp - ref).sum()).sum()
    want = torch.autograd.grad(divergence, [first, second], retain_graph=True)
    whole = (pi.detach() * kl(logp, ref).loss).sum()
    for g, w in zip(
        torch.autograd.grad(whole, [first, second], retain_graph=True), want, strict=True
    ):
        torch.testing.assert_close(g, w, rtol=0, atol=1e-12)
    tokens = kl(logp, ref, ratio="token").loss
    (g,) = torch.autograd.grad((pi.detach()[owner] * tokens).sum(), [first])
    assert (g - want[0]).abs().max() > 0.01


def test_grpo_with_k3_has_a_rational_limit():
    """pi_ref beta/(beta + E r - r), not the exponential tilt (docs/theory/relatives.md#grpo)."""

    def grpo(logits: Tensor) -> Tensor:
        logp, old, pi = table(logits)
        adv = one_token(R_STAR - (pi * R_STAR).sum())
        penalty = kl(logp, REF, estimator="k3", ratio="token", per="sequence")
        return exact(ppo_clip(logp, old, adv, per="sequence"), pi) + BETA * exact(penalty, pi)

    pi = descend(grpo, PI_REF.log(), steps=6000, lr=0.5).softmax(-1)
    assert tv(pi, f64(0.09662, 0.09554, 0.09346, 0.71438)) < 1e-5
    law = PI_REF * BETA / (BETA + (pi * R_STAR).sum() - R_STAR)
    assert tv(pi, law) < 1e-9
    assert tv(pi, PI_STAR) > 0.04


def test_grpo_with_weighted_k3_goes_to_pi_star():
    """What TRL 1.16 does by default is therefore another method than GRPO as published."""

    def weighted(logits: Tensor) -> Tensor:
        logp, old, pi = table(logits)
        adv = one_token(R_STAR - (pi * R_STAR).sum())
        penalty = kl(logp, REF, estimator="k3", ratio="token", old=old)
        return exact(ppo_clip(logp, old, adv), pi) + BETA * exact(penalty, pi)

    pi = descend(weighted, PI_REF.log(), steps=4000, lr=0.5).softmax(-1)
    assert tv(pi, tilt(PI_REF, R_STAR, BETA)) < 1e-9


def test_alpacafarm_clamp_goes_elsewhere():
    """A regression test that the default is *not* this: the clamp's limit is TV .149 from pi*."""

    def clamped(logits: Tensor) -> Tensor:
        logp, old, pi = table(logits)
        shaped = kl_shaping(R_STAR, old, REF, BETA, floor=0.0)
        return exact(ppo_clip(logp, old, shaped - (pi * shaped.values).sum()), pi)

    pi = descend(clamped, PI_REF.log(), steps=4000, lr=4.0).softmax(-1)
    assert tv(pi, f64(0.0, 0.0001, 0.2129, 0.7869)) < 1e-3
    assert tv(pi, PI_STAR) == pytest.approx(0.149, abs=1e-3)


def test_k2_in_the_reward_collapses():
    """Why `kl_shaping` refuses it: with l^2/2 as a cost the best answer takes everything."""

    def wrong(logits: Tensor) -> Tensor:
        logp, old, pi = table(logits)
        cost = BETA * kl_value(old, REF, "k2").values
        return exact(reinforce(logp, one_token(R_STAR - cost)), pi)

    assert descend(wrong, PI_REF.log(), steps=4000, lr=0.5).softmax(-1)[3] > 0.99


def test_large_beta_stays_at_the_reference():
    def heavy(logits: Tensor) -> Tensor:
        logp, old, pi = table(logits)
        shaped = kl_shaping(R_STAR, old, REF, 1e4)
        return exact(reinforce(logp, shaped - (pi * shaped.values).sum()), pi) / 1e4

    pi = descend(heavy, f64(0.3, -0.2, 0.9, -1.0), steps=2000, lr=0.5).softmax(-1)
    assert tv(pi, PI_REF) < 1e-4


# --- samples ------------------------------------------------------------------------------------


def sampled(update, seed: int, steps: int = 400, batch: int = 256, inner: int = 1) -> Tensor:
    """Return the policy after training on samples: Adam .1 falling linearly to 0."""
    rng = torch.Generator().manual_seed(seed)
    logits = PI_REF.log().clone().requires_grad_(True)
    optim = torch.optim.Adam([logits], lr=0.1)
    for step in range(steps):
        optim.param_groups[0]["lr"] = 0.1 * (1 - step / steps)
        old_policy = logits.detach().log_softmax(-1)
        y = torch.multinomial(old_policy.exp(), batch, replacement=True, generator=rng)
        old, ref = one_token(old_policy[y]), one_token(PI_REF.log()[y])
        for _ in range(inner):
            terms = update(one_token(logits.log_softmax(-1)[y]), old, ref, R_STAR[y])
            optim.zero_grad()
            sum(t.loss.sum() / t.weight.sum() for t in terms).backward()
            optim.step()
    return logits.detach().softmax(-1)


def ppo_update(logp: Ragged, old: Ragged, ref: Ragged, score: Tensor) -> list[Terms]:
    shaped = kl_shaping(score, old, ref, BETA)
    return [ppo_clip(logp, old, shaped - shaped.values.mean())]


def whitened_update(logp: Ragged, old: Ragged, ref: Ragged, score: Tensor) -> list[Terms]:
    return [ppo_clip(logp, old, whiten(kl_shaping(score, old, ref, BETA)))]


def rloo_update(logp: Ragged, old: Ragged, ref: Ragged, score: Tensor) -> list[Terms]:
    penalised = kl_shaping(score, old, ref, BETA).sum()
    group = torch.arange(len(score)) // 4
    adv = logp.expand(penalised - leave_one_out(penalised, group))
    return [reinforce(logp, adv)]


def k2_update(logp: Ragged, old: Ragged, ref: Ragged, score: Tensor) -> list[Terms]:
    group = torch.zeros(len(score), dtype=torch.int64)
    adv = logp.expand(score - group_mean(score, group))
    penalty = kl(logp, ref)
    return [reinforce(logp, adv), penalty._replace(loss=BETA * penalty.loss)]


@pytest.mark.parametrize("seed", [0, 1])
def test_sampled_ppo_converges_because_the_noise_vanishes(seed: int):
    """Two inner epochs, mean baseline, no whitening: TV < 1e-6 in 400 steps."""
    pi = sampled(ppo_update, seed, inner=2)
    assert tv(pi, tilt(PI_REF, R_STAR, BETA)) < 1e-6


def test_sampled_rloo_converges():
    assert tv(sampled(rloo_update, 0), tilt(PI_REF, R_STAR, BETA)) < 1e-6


def test_sampled_k2_converges_as_far_as_its_noise_lets_it():
    """The noise of a k2 *loss* does not vanish at pi*: score and penalty are drawn apart."""
    assert tv(sampled(k2_update, 0), tilt(PI_REF, R_STAR, BETA)) < 0.02


def test_whitened_ppo_stays_near():
    """Whitening divides by a vanishing spread; the decay of the step size holds it: TV < 5e-4."""
    assert tv(sampled(whitened_update, 0, inner=2), tilt(PI_REF, R_STAR, BETA)) < 5e-4


def test_leave_one_out_is_unbiased():
    """All pairs of answers (K = 2) enumerated: the expected RLOO gradient is that of J."""
    logits = f64(0.3, -0.2, 0.9, -1.0).requires_grad_(True)
    policy = logits.softmax(-1)
    (want,) = torch.autograd.grad(-(policy * R_STAR).sum(), logits)
    y = torch.cartesian_prod(torch.arange(4), torch.arange(4)).reshape(-1)
    group = torch.arange(16).repeat_interleave(2)
    score = R_STAR[y]
    logp = one_token(logits.log_softmax(-1)[y])
    terms = reinforce(logp, logp.expand(score - leave_one_out(score, group)))
    chance = policy.detach()[y].reshape(16, 2).prod(1)[group]
    (g,) = torch.autograd.grad((chance * terms.loss).sum() / 2, logits)
    torch.testing.assert_close(g, want, rtol=0, atol=1e-12)
