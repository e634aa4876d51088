"""Imitation of answers that carry a reward: the losses of ReST's Improve step.

| name       | loss of a token                               | limit on answers drawn from q     |
|------------|-----------------------------------------------|-----------------------------------|
| `nll`      | -log pi(y_t)                                  | q                                 |
| `weighted` | -exp((R - level) / eta) log pi(y_t)           | q exp(R / eta) / Z                |
| `gold`     | -[max(pi(y_t), floor)] R log pi(y_t)          | at each token the largest q R     |

In brackets: held fixed. `nll` is behaviour cloning, ReST's best. `weighted` is the simplest
relative of offline V-MPO (reward-weighted regression, Peters and Schaal 2007): with q = pi_ref
and eta = beta its limit is pi*. GOLD (Pang and He 2021, arXiv:2009.07839) is an off-policy policy
gradient whose importance weight, for demonstrations of unknown law, is pi itself.

Shapes: T tokens, N completions.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from tandem.batching.batch import Terms
from tandem.batching.ragged import Ragged
from tandem.objectives.setting_ranges import check_positive
from tandem.objectives.shares import unit_shares

Imitation = Literal["nll", "weighted", "gold"]


def weighted(
    logp: Ragged,
    reward: Tensor,
    *,
    eta: float = 1.0,
    level: float = 0.0,
    weight: Tensor | None = None,
    per: Literal["token", "sequence"] = "token",
) -> Terms:
    """Reward-weighted imitation: nll times exp((R - level) / eta).

    The step is divided by its tokens (or completions), not by these weights: a step in which all
    rewards are low moves the policy less. So the limit is the same for steps of any size.

    Args:
        logp: [T] log-probabilities.
        reward: [N] rewards; a completion with nan was scored by nobody, and counts for nothing.
        eta: temperature, above 0: infinity is plain imitation, 0 keeps the best alone.
        level: the reward whose weight is 1, one number for the whole collection: `soft_mean` of
            its rewards makes the weights 1 on average.
        weight: [N] the completions' own weights, or None.
        per: what is averaged, tokens or completions.

    Returns:
        Terms over the T tokens; metric `nll`.
    """
    check_positive("weighted", eta=eta)
    scored = ~torch.isnan(reward)
    own = scored.to(logp.values) if weight is None else scored * weight.to(logp.values)
    factor, share = unit_shares(logp, per, weight=own)
    gain = torch.exp((torch.nan_to_num(reward.detach().to(logp.values)) - level) / eta)
    loss = -logp.values
    return Terms(factor * gain[logp.owner] * loss, share, {"nll": loss.detach()})


def soft_mean(reward: Tensor, eta: float, weight: Tensor | None = None) -> float:
    """Return eta log mean exp(R / eta): the level at which `weighted`'s weights are 1 on average.

    >>> soft_mean(torch.tensor([0.0, 0.0]), eta=0.5)
    0.0

    Args:
        reward: [N] rewards of a whole collection.
        eta: the temperature, above 0; towards infinity it is the mean, towards 0 the largest.
        weight: [N] the completions' own weights, or None.
    """
    check_positive("soft_mean", eta=eta)
    own = torch.ones_like(reward) if weight is None else weight.to(reward)
    return float(eta * (torch.logsumexp(reward / eta + own.log(), 0) - own.sum().log()))


def gold(
    logp: Ragged,
    reward: Tensor | None = None,
    *,
    floor: float = 0.0,
    weight: Tensor | None = None,
    per: Literal["token", "sequence"] = "token",
) -> Terms:
    """GOLD: imitation of a token in proportion to what the policy already gives it.

    With `floor` 0 and without rewards the gradient is that of -pi(y_t): unlikely demonstrations
    are let go, not chased. Where pi(y_t) is near 0 so is the gradient; `floor` keeps it alive.

    Args:
        logp: [T] log-probabilities.
        reward: [N] the return of each completion, at each of its tokens (no discount, the
            reward comes at the end); None is 1 for each (GOLD-delta). A negative one unlearns; a
            completion with nan was scored by nobody, and counts for nothing.
        floor: least importance weight, in [0, 1]; 1 is reward times nll.
        weight: [N] the completions' own weights, or None.
        per: what is averaged, tokens or completions.

    Returns:
        Terms over the T tokens. Metrics: `nll`, `importance`.
    """
    importance = logp.values.detach().exp().clamp(min=floor)
    gain = importance
    if reward is not None:
        scored = (~torch.isnan(reward)).to(importance)
        weight = scored if weight is None else scored * weight.to(scored)
        gain = importance * torch.nan_to_num(reward.to(importance))[logp.owner]
    factor, share = unit_shares(logp, per, weight=weight)
    loss = -logp.values
    return Terms(factor * gain * loss, share, {"nll": loss.detach(), "importance": importance})
