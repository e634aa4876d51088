"""What holds for every objective: order does not matter, nor where a step is split."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tandem.batching.batch import Pairs, Terms
from tandem.batching.ragged import Ragged
from tandem.objectives import (
    PAIRWISE,
    bradley_terry,
    kl,
    kto,
    nll,
    ppo_clip,
    rank_weight,
    reinforce,
    value_clip,
)
from tandem.objectives.advantages import gae, group_mean, leave_one_out, whiten

lengths = st.lists(st.integers(1, 6), min_size=4, max_size=8)
seeds = st.integers(0, 2**31)


def ragged(size: list[int], rng: torch.Generator, scale: float = 1.0) -> Ragged:
    return Ragged.of([scale * torch.randn(n, generator=rng, dtype=torch.float64) for n in size])


# name -> loss of log-probabilities, given three more ragged columns
PER_TOKEN: dict[str, Callable[[Ragged, Ragged, Ragged, Ragged], Terms]] = {
    "nll": lambda x, *_: nll(x),
    "nll sequence": lambda x, *_: nll(x, per="sequence"),
    "ppo token": lambda x, a, b, c: ppo_clip(x, a, b),
    "ppo sequence": lambda x, a, b, c: ppo_clip(x, a, b, per="sequence"),
    "ppo constant": lambda x, a, b, c: ppo_clip(x, a, b, per="constant", length=9),
    "gspo": lambda x, a, b, c: ppo_clip(x, a, b, ratio="sequence", per="sequence"),
    "reinforce": lambda x, a, b, c: reinforce(x, b),
    "kl k2": lambda x, a, b, c: kl(x, a),
    "kl k3": lambda x, a, b, c: kl(x, a, estimator="k3", ratio="token", per="sequence"),
    "value": lambda x, a, b, c: value_clip(x, a, b),
}


def step(parts: list[Terms]) -> Tensor:
    """Return the loss of a step cut into micro-batches, as the loop adds it up."""
    loss = torch.stack([t.loss.sum() for t in parts]).sum()
    return loss / torch.stack([t.weight.sum() for t in parts]).sum()


def gradient(loss: Tensor, leaf: Tensor) -> Tensor:
    return torch.autograd.grad(loss, leaf)[0]


@pytest.mark.parametrize("name", PER_TOKEN)
@settings(max_examples=6, deadline=None)
@given(size=lengths, seed=seeds, cut=st.integers(1, 3))
def test_splits_and_orders_of_completions_do_not_matter(
    name: str, size: list[int], seed: int, cut: int
):
    rng, loss = torch.Generator().manual_seed(seed), PER_TOKEN[name]
    x, *columns = (ragged(size, rng, 0.3) for _ in range(4))
    leaf = x.values.requires_grad_(True)
    whole = step([loss(x, *columns)])
    order = torch.randperm(len(size), generator=rng)
    parts = [
        loss(x.select(some), *(c.select(some) for c in columns))
        for some in (order[:cut], order[cut:])
    ]
    torch.testing.assert_close(step(parts), whole, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        gradient(step(parts), leaf), gradient(whole, leaf), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("name", PAIRWISE)
@settings(max_examples=6, deadline=None)
@given(size=lengths, seed=seeds)
def test_splits_and_orders_of_pairs_do_not_matter(name: str, size: list[int], seed: int):
    rng = torch.Generator().manual_seed(seed)
    logp, ref = ragged(size, rng), ragged(size, rng)
    leaf = logp.values.requires_grad_(True)
    m = len(size) // 2
    order = torch.randperm(2 * m, generator=rng)
    p = torch.rand(m, generator=rng, dtype=torch.float64)
    pairs = Pairs(order[:m], order[m : 2 * m], p)
    loss = PAIRWISE[name]
    whole = step([loss(logp, ref, pairs)])
    parts = []
    for k in range(m):
        some = torch.stack([pairs.w[k], pairs.l[k]])
        one = Pairs(torch.tensor([0]), torch.tensor([1]), p[k : k + 1])
        parts.append(loss(logp.select(some), ref.select(some), one))
    torch.testing.assert_close(step(parts), whole)
    torch.testing.assert_close(gradient(step(parts), leaf), gradient(whole, leaf))


@pytest.mark.parametrize("name", PAIRWISE)
@settings(max_examples=6, deadline=None)
@given(seed=seeds)
def test_swapping_a_pair_and_its_label_changes_nothing(name: str, seed: int):
    rng = torch.Generator().manual_seed(seed)
    logp, ref = ragged([2, 3, 1, 4], rng), ragged([2, 3, 1, 4], rng)
    w, l = torch.tensor([0, 2]), torch.tensor([1, 3])  # noqa: E741
    p = torch.rand(2, generator=rng, dtype=torch.float64)
    a = PAIRWISE[name](logp, ref, Pairs(w, l, p))
    b = PAIRWISE[name](logp, ref, Pairs(l, w, 1 - p))
    torch.testing.assert_close(a.loss, b.loss)
    for key in a.metrics:
        torch.testing.assert_close(a.metrics[key], b.metrics[key])


@settings(max_examples=6, deadline=None)
@given(seed=seeds)
def test_kto_and_rewards_split(seed: int):
    rng = torch.Generator().manual_seed(seed)
    h = torch.randn(6, generator=rng, dtype=torch.float64).requires_grad_(True)
    good, z0 = torch.tensor([1, 0, 1, 1, 0, 0]), torch.tensor(0.2, dtype=torch.float64)
    halves = (torch.tensor([4, 1]), torch.tensor([0, 5, 2, 3]))
    parts = [kto(h[i], good[i], z0, beta=0.3) for i in halves]
    whole = step([kto(h, good, z0, beta=0.3)])
    torch.testing.assert_close(gradient(step(parts), h), gradient(whole, h))
    # two rankings, of three and of two answers, in one batch or in two
    one = torch.ones(4, dtype=torch.float64)
    pairs = Pairs(torch.tensor([0, 0, 1, 3]), torch.tensor([1, 2, 2, 4]), one)
    group = torch.tensor([0, 0, 0, 1, 1, 2])
    weight = rank_weight(pairs, group)
    whole = step([bradley_terry(h, pairs, weight=weight)])
    parts = [
        bradley_terry(h, Pairs(pairs.w[i], pairs.l[i], one[i]), weight=weight[i])
        for i in (slice(0, 3), slice(3, 4))
    ]
    torch.testing.assert_close(gradient(step(parts), h), gradient(whole, h))


@settings(max_examples=10, deadline=None)
@given(size=lengths, seed=seeds)
def test_estimators_do_not_see_the_order_of_completions(size: list[int], seed: int):
    rng = torch.Generator().manual_seed(seed)
    reward, value = ragged(size, rng), ragged(size, rng)
    order = torch.randperm(len(size), generator=rng)
    for plain, moved in zip(
        gae(reward, value, 0.9, 0.8),
        gae(reward.select(order), value.select(order), 0.9, 0.8),
        strict=True,
    ):
        torch.testing.assert_close(plain.select(order).values, moved.values)
    torch.testing.assert_close(
        whiten(reward).select(order).values, whiten(reward.select(order)).values
    )
    score = reward.sum()
    group = torch.arange(len(size)) // 2 % 2  # two groups, two members or more
    for baseline in (group_mean, leave_one_out):
        torch.testing.assert_close(
            baseline(score, group)[order], baseline(score[order], group[order])
        )


@settings(max_examples=10, deadline=None)
@given(size=lengths, seed=seeds, gamma=st.floats(0, 1), lam=st.floats(0, 1))
def test_gae_is_its_definition(size: list[int], seed: int, gamma: float, lam: float):
    """A_t = sum_k (gamma lam)^k delta_{t+k}, by a plain loop over each completion."""
    rng = torch.Generator().manual_seed(seed)
    reward, value = ragged(size, rng), ragged(size, rng)
    adv, ret = gae(reward, value, gamma, lam)
    for r, v, a, g in zip(reward.rows(), value.rows(), adv.rows(), ret.rows(), strict=True):
        after = torch.cat([v[1:], v.new_zeros(1)])
        delta = r + gamma * after - v
        for t in range(len(r)):
            powers = (gamma * lam) ** torch.arange(len(r) - t, dtype=torch.float64)
            torch.testing.assert_close(a[t], (powers * delta[t:]).sum())
        torch.testing.assert_close(g, a + v)
