"""Imitation of answers that carry a reward: the losses of ReST's Improve step.

| name       | loss of a token                               | limit on answers drawn from q     |
|------------|-----------------------------------------------|-----------------------------------|
| `nll`      | -log pi(y_t)                                  | q                                 |
| `weighted` | -exp((R - mean) / eta) log pi(y_t)            | q exp(R / eta) / Z                |
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
from tandem.objectives.nll import nll
from tandem.objectives.setting_ranges import check_positive
from tandem.objectives.shares import unit_shares

Imitation = Literal["nll", "weighted", "gold"]


def weighted(
    logp: Ragged,
    reward: Tensor,
    *,
    eta: float = 1.0,
    mean: float = 0.0,
    weight: Tensor | None = None,
    per: Literal["token", "sequence"] = "token",
) -> Terms:
    """Reward-weighted imitation: nll with the weight exp((R - mean) / eta).

    Weights are divided by their sum over the step, so `mean` changes nothing but the size of the
    numbers; give the collection's mean reward.

    Args:
        logp: [T] log-probabilities.
        reward: [N] rewards.
        eta: temperature, above 0: infinity is plain imitation, 0 keeps the best alone.
        mean: R-bar, one number for the whole collection.
        weight: [N] the completions' own weights, or None.
        per: what is averaged, tokens or completions.

    Returns:
        Terms over the T tokens; metric `nll`.
    """
    check_positive("weighted", eta=eta)
    share = torch.exp((reward.detach().to(logp.values) - mean) / eta)
    return nll(logp, weight=share if weight is None else share * weight.to(share), per=per)


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
            reward comes at the end); None is 1 for each (GOLD-delta). A negative one unlearns.
        floor: least importance weight, in [0, 1]; 1 is reward times nll.
        weight: [N] the completions' own weights, or None.
        per: what is averaged, tokens or completions.

    Returns:
        Terms over the T tokens. Metrics: `nll`, `importance`.
    """
    factor, share = unit_shares(logp, per, weight=weight)
    importance = logp.values.detach().exp().clamp(min=floor)
    gain = importance if reward is None else importance * reward.to(importance)[logp.owner]
    loss = -logp.values
    return Terms(factor * gain * loss, share, {"nll": loss.detach(), "importance": importance})
