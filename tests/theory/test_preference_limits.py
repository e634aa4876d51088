"""Where each preference loss ends with infinitely many labels.

See docs/theory/tabular.md#preference-losses.

Labels are P_ij = s(r_i - r_j), pairs come from nu x nu, and the losses are the ones that train
real models: only the expectation is taken here, as a sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from tabular import (
    BETA,
    BRADLEY_TERRY,
    PI_REF,
    PI_STAR,
    R_STAR,
    RPS,
    clicks,
    descend,
    every_pair,
    f64,
    minimise,
    preference_limit,
    tilt,
    total,
    tv,
)
from tandem.batching.batch import Terms
from tandem.data.groups import Groups
from tandem.data.record import Completion, Group, Prompt
from tandem.methods.kto import KTOConfig, imbalance_line
from tandem.objectives import PAIRWISE, hinge, ipo, kto, robust, sigmoid, sppo

CLEAN = every_pair(BRADLEY_TERRY)
FLIPPED = every_pair(0.9 * BRADLEY_TERRY + 0.1 * (1 - BRADLEY_TERRY))
UNIFORM, SKEWED = f64(0.25, 0.25, 0.25, 0.25), f64(0.7, 0.1, 0.1, 0.1)


@pytest.mark.parametrize("nu", [PI_REF, UNIFORM, SKEWED])
def test_dpo_reaches_pi_star_whatever_the_pairs(nu: Tensor):
    pi = preference_limit(lambda h: sigmoid(h, CLEAN, beta=BETA), nu)
    assert tv(pi, tilt(PI_REF, R_STAR, BETA)) < 1e-6


@pytest.mark.parametrize("nu", [PI_REF, UNIFORM, SKEWED])
def test_rdpo_reaches_pi_star_from_flipped_labels(nu: Tensor):
    pi = preference_limit(lambda h: robust(h, FLIPPED, beta=BETA, noise=0.1), nu)
    assert tv(pi, tilt(PI_REF, R_STAR, BETA)) < 1e-6


@pytest.mark.parametrize(
    ("nu", "limit"),
    [
        (PI_REF, (0.10196, 0.16552, 0.23804, 0.49448)),
        (UNIFORM, (0.10293, 0.16286, 0.23186, 0.50236)),
    ],
)
def test_cdpo_is_dpo_on_flipped_labels_and_falls_short(nu: Tensor, limit: tuple[float, ...]):
    smoothed = preference_limit(lambda h: sigmoid(h, CLEAN, beta=BETA, smoothing=0.1), nu)
    flipped = preference_limit(lambda h: sigmoid(h, FLIPPED, beta=BETA), nu)
    assert tv(smoothed, f64(*limit)) < 1e-5
    assert tv(flipped, smoothed) < 1e-7
    assert tv(smoothed, PI_STAR) > 0.16


@pytest.mark.parametrize("nu", [PI_REF, UNIFORM])
def test_ipo_tilts_by_the_win_rate_against_the_data(nu: Tensor):
    """pi_ref exp(P(y > nu)/tau)/Z: it depends on where the pairs come from."""
    pi = preference_limit(lambda h: ipo(h, CLEAN, tau=0.5), nu)
    assert tv(pi, tilt(PI_REF, BRADLEY_TERRY @ nu, 0.5)) < 1e-8
    if nu is PI_REF:
        assert tv(pi, f64(0.3028295, 0.28514994, 0.2384577, 0.17356285)) < 1e-7


def online(
    loss: Callable[[Tensor], Terms], ref: Tensor, steps: int = 1500, lr: float = 0.5
) -> Tensor:
    """Return where a loss goes on pairs from the policy itself, held fixed in each step."""

    def step(logits: Tensor) -> Tensor:
        logp = logits.log_softmax(-1)
        pi = logp.detach().exp()
        share = (pi[:, None] * pi[None, :]).reshape(-1)
        return (share * loss(logp - ref.log()).loss).sum()

    return descend(step, ref.log(), steps=steps, lr=lr).softmax(-1)


def test_online_dpo_ends_where_offline_dpo_does():
    """DPO's minimiser does not depend on where pairs come from (docs/theory/online.md)."""
    pi = online(lambda h: sigmoid(h, CLEAN, beta=BETA), PI_REF, steps=800, lr=8.0)
    assert tv(pi, tilt(PI_REF, R_STAR, BETA)) < 1e-8


def test_online_ipo_is_the_regularised_equilibrium():
    """pi = pi_ref exp(P(y > pi)/tau)/Z, its own opponent (docs/theory/nash.md#relatives)."""
    pi = online(lambda h: ipo(h, CLEAN, tau=0.5), PI_REF)
    assert tv(pi, f64(0.30438646, 0.28378653, 0.23666517, 0.17516184)) < 1e-7
    assert tv(pi, tilt(PI_REF, BRADLEY_TERRY @ pi, 0.5)) < 1e-8


def test_online_ipo_solves_rock_paper_scissors():
    """No reward explains RPS; with mu = (.6, .3, .1), tau = .5 the equilibrium is known."""
    pi = online(lambda h: ipo(h, every_pair(RPS), tau=0.5), f64(0.6, 0.3, 0.1))
    assert tv(pi, f64(0.4799076861, 0.4213052315, 0.0987870824)) < 1e-7


def test_sppo_rounds_end_on_the_best_answer():
    """Each round fits h to (P(y > pi_t) - 1/2)/beta against the last policy: multiplicative
    weights without a reference, so a transitive preference ends in a point mass."""
    pi = PI_REF
    for _ in range(40):
        last, share = pi, (pi[:, None] * pi[None, :]).reshape(-1)

        def population(logits: Tensor, last: Tensor = last, share: Tensor = share) -> Tensor:
            h = logits.log_softmax(-1) - last.log()
            return (share * sppo(h, CLEAN, beta=0.5).loss).sum()

        pi = minimise(population, last.log(), rounds=2).softmax(-1)
        assert pi[3] > last[3]
    assert pi[3] > 0.99


def test_kto_is_not_an_exponential_tilt():
    """z0 = 0, half of the answers marked desirable by P(y > nu): the bottom two answers vanish
    and the value of the others saturates. Only order and saturation are asserted."""
    rate = BRADLEY_TERRY @ PI_REF
    zero = torch.zeros((), dtype=torch.float64)

    def population(logits: Tensor) -> Tensor:
        h = logits.log_softmax(-1) - PI_REF.log()
        good = kto(h, torch.ones(4), zero, beta=BETA).loss
        bad = kto(h, torch.zeros(4), zero, beta=BETA).loss
        return (PI_REF * (rate * good + (1 - rate) * bad)).sum()

    pi = descend(population, PI_REF.log(), steps=6000, lr=20.0).softmax(-1)
    assert pi[:2].max() < 0.01
    assert 0.40 < pi[2] < 0.50 < pi[3] < 0.60
    assert tv(pi, PI_STAR) > 0.1


def test_hinge_norm_is_content_beyond_its_margin():
    """With certain labels the loss is 0 wherever every d >= 1/gamma, and has no gradient there;
    descent from the reference stops at the edge, where DPO would go on."""
    pairs, gamma = clicks([3, 3, 3, 2, 2, 1], [2, 1, 0, 1, 0, 0]), 0.5

    def loss(h: Tensor) -> Tensor:
        return total(hinge(h, pairs, beta=gamma))

    inside = f64(0, 2.1, 4.2, 6.3).requires_grad_(True)
    value = loss(inside)
    (g,) = torch.autograd.grad(value, inside)
    assert value.item() == 0
    assert g.abs().max() == 0
    h = descend(loss, f64(0, 0, 0, 0), steps=3000, lr=0.01)
    d = h[pairs.w] - h[pairs.l]
    assert d.min().item() == pytest.approx(1 / gamma, abs=0.1)
    assert loss(h).item() < 0.03


def test_certain_labels_send_dpo_to_infinity_and_cdpo_to_its_label():
    """h grows like ln(steps) for DPO; cDPO rests at ln((1 - eps)/eps)/beta = 4.394."""
    pair, start = clicks([1], [0]), f64(0, 0)

    def difference(name: str, steps: int) -> float:
        function = PAIRWISE[name].function
        settings = PAIRWISE[name].settings | {"beta": BETA}
        h = descend(lambda x: total(function(x, pair, **settings)), start, steps=steps, lr=2.0)
        return float(h[1] - h[0])

    grown = [difference("sigmoid", n) for n in (30, 300, 3000)]
    assert grown[1] - grown[0] == pytest.approx(math.log(10) / BETA, rel=0.1)
    assert grown[2] - grown[1] == pytest.approx(math.log(10) / BETA, rel=0.05)
    assert difference("cdpo", 1000) == pytest.approx(math.log(9) / BETA, abs=1e-6)


def test_dpo_on_two_hundred_thousand_clicks():
    """Finite data: TV falls like n^-1/2, below .03 at 2e5 pairs from pi_ref."""
    rng = torch.Generator().manual_seed(0)
    n = 200_000
    w = torch.multinomial(PI_REF, n, replacement=True, generator=rng)
    l = torch.multinomial(PI_REF, n, replacement=True, generator=rng)  # noqa: E741
    won = torch.rand(n, generator=rng, dtype=torch.float64) < BRADLEY_TERRY[w, l]
    counts = torch.zeros(4, 4, dtype=torch.float64).index_put(
        (torch.where(won, w, l), torch.where(won, l, w)),
        torch.ones(n, dtype=torch.float64),
        accumulate=True,
    )
    labelled = counts + counts.T
    p = every_pair(torch.where(labelled > 0, counts / labelled, 0.5))

    def population(logits: Tensor) -> Tensor:
        h = logits.log_softmax(-1) - PI_REF.log()
        return (labelled.reshape(-1) / n * sigmoid(h, p, beta=BETA).loss).sum()

    pi = minimise(population, PI_REF.log()).softmax(-1)
    assert tv(pi, PI_STAR) < 0.03


def test_kto_says_when_one_mark_outweighs_the_other():
    def marked(good: int, bad: int) -> Groups:
        marks = np.array([1.0] * good + [0.0] * bad)
        return Groups.of([Group(Prompt("a", "?"), tuple(Completion("x") for _ in marks), marks)])

    assert imbalance_line(marked(9, 3), KTOConfig()) == ""
    assert "--kto.lam_u 9" in imbalance_line(marked(9, 1), KTOConfig())
    assert "--kto.lam_d 9" in imbalance_line(marked(1, 9), KTOConfig())
    assert imbalance_line(marked(9, 1), KTOConfig(lam_u=9.0)) == ""
