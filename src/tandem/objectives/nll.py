"""Negative log-likelihood of completions: SFT, and every method that imitates what it selected.

Shapes: T tokens, N completions.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from tandem.batching.batch import Terms
from tandem.batching.ragged import Ragged
from tandem.objectives.shares import unit_shares


def nll(
    logp: Ragged, *, weight: Tensor | None = None, per: Literal["token", "sequence"] = "token"
) -> Terms:
    """Return -log pi(y_t | x, y_<t) of every token.

    L = -sum_n w_n sum_t log pi(y_t) / sum_n w_n |y_n| per token, or the weighted mean of the
    completions' means per sequence. See docs/theory/sft.md#loss.

    Args:
        logp: [T] log-probabilities of the completions' tokens, their EOS among them.
        weight: [N] the completions' own weights (reward-weighted imitation); None is 1 for each.
        per: what is averaged, tokens or completions.

    Returns:
        Terms over the T tokens; metric `nll`.
    """
    factor, share = unit_shares(logp, per, weight=weight)
    loss = -logp.values
    return Terms(factor * loss, share, {"nll": loss.detach()})
