"""Worlds so small that every expectation is a sum: one prompt, a handful of one-token answers.

Fixture F1 (docs/theory/tabular.md#fixture-f1) has four answers, F2's soft values are elsewhere; RPS
is the rock-paper-scissors preference of docs/theory/nash.md#exact-values. All in float64.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tandem.batching.batch import Pairs, Terms
from tandem.batching.ragged import Ragged


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


PI_REF = f64(0.4, 0.3, 0.2, 0.1)
R_STAR = f64(0, 0.5, 1, 2)
BETA = 0.5
PI_STAR = f64(0.04906103, 0.10002128, 0.18125735, 0.66966035)  # at BETA
RPS = torch.tensor([[0.5, 0.1, 0.9], [0.9, 0.5, 0.1], [0.1, 0.9, 0.5]], dtype=torch.float64)
BRADLEY_TERRY = torch.sigmoid(R_STAR[:, None] - R_STAR[None, :])  # P(i > j) on F1


def tilt(ref: Tensor, r: Tensor, beta: float) -> Tensor:
    """Return pi_ref exp(r/beta)/Z."""
    return torch.softmax(torch.log(ref) + r / beta, -1)


def tv(p: Tensor, q: Tensor) -> float:
    """Return the total variation distance."""
    return 0.5 * float((p - q).abs().sum())


def kl_div(p: Tensor, q: Tensor) -> float:
    """Return KL(p || q)."""
    return float((p * torch.log(p / q)).sum())


def j(pi: Tensor, r: Tensor = R_STAR, ref: Tensor = PI_REF, beta: float = BETA) -> float:
    """Return E r - beta KL(pi || ref)."""
    return float((pi * r).sum()) - beta * kl_div(pi, ref)


def one_token(values: Tensor) -> Ragged:
    """Every number is the only token of a completion of its own."""
    return Ragged(values, torch.arange(len(values)), len(values))


def every_pair(p: Tensor) -> Pairs:
    """All ordered pairs of answers, labelled by the matrix P(i > j)."""
    i, k = torch.meshgrid(torch.arange(len(p)), torch.arange(len(p)), indexing="ij")
    return Pairs(i.reshape(-1), k.reshape(-1), p.reshape(-1))


def clicks(w: list[int], l: list[int]) -> Pairs:  # noqa: E741
    """Return pairs with certain labels."""
    return Pairs(torch.tensor(w), torch.tensor(l), torch.ones(len(w), dtype=torch.float64))


def total(terms: Terms) -> Tensor:
    """Return the loss of a step, as the loop computes it."""
    return terms.loss.sum() / terms.weight.sum()


def minimise(loss: Callable[[Tensor], Tensor], start: Tensor, rounds: int = 20) -> Tensor:
    """Return the minimiser of a smooth loss, by L-BFGS to the precision of float64."""
    x = start.clone().requires_grad_(True)
    optim = torch.optim.LBFGS(
        [x],
        max_iter=200,
        tolerance_grad=1e-12,
        tolerance_change=1e-16,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optim.zero_grad()
        value = loss(x)
        value.backward()
        return value

    for _ in range(rounds):
        optim.step(closure)
    return x.detach()


def descend(
    loss: Callable[[Tensor], Tensor], start: Tensor, steps: int = 4000, lr: float = 0.5
) -> Tensor:
    """Return where plain gradient descent goes; the loss may hold part of its input fixed."""
    x = start.clone().requires_grad_(True)
    for _ in range(steps):
        (g,) = torch.autograd.grad(loss(x), x)
        with torch.no_grad():
            x -= lr * g
    return x.detach()


def preference_limit(loss: Callable[[Tensor], Terms], nu: Tensor) -> Tensor:
    """Return the policy on F1 that minimises a loss on h over pairs drawn from nu x nu."""
    share = (nu[:, None] * nu[None, :]).reshape(-1)

    def population(logits: Tensor) -> Tensor:
        h = torch.log_softmax(logits, -1) - torch.log(PI_REF)
        return (share * loss(h).loss).sum()

    return torch.softmax(minimise(population, torch.log(PI_REF)), -1)
