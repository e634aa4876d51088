"""Rewards of tokens: a score at the end, the KL penalty on the way, rules for cut answers."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from tandem.batching.ragged import Ragged
from tandem.errors import ConfigError, DataError

Estimator = Literal["k1", "k2", "k3"]


# --- rewards ------------------------------------------------------------------------------------


def kl_shaping(
    score: Tensor,
    old: Ragged,
    ref: Ragged,
    beta: float,
    *,
    estimator: Estimator = "k1",
    floor: float | None = None,
) -> Ragged:
    """Per-token rewards -beta (log pi_old - log pi_ref)(y_t), plus the score at the last token.

    Their sum is score - beta (log pi_old(y) - log pi_ref(y)), whose optimum is
    pi_ref exp(score/beta)/Z. Stiennon et al. 2020, arXiv:2009.01325, section 3.4.

    Args:
        score: [N] rewards of whole completions.
        old: [T] log-probabilities under the policy that sampled.
        ref: [T] the same under the reference.
        beta: KL coefficient, at least 0.
        estimator: only k1 is right inside a reward.
        floor: clamps the log-ratio from below before it is penalised; 0.0 reproduces AlpacaFarm
            and moves the optimum far away (docs/theory/ppo.md#pitfalls). None, the default, does
            not.

    Raises:
        ConfigError: beta below 0, or an estimator other than k1.
        DataError: a completion without tokens, whose score would be lost.
    """
    _check_shaping(beta, estimator)
    if bool((old.count() == 0).any()):
        raise DataError(
            f"completion {int((old.count() == 0).nonzero()[0])} of the batch has no token",
            "its score is paid at its last token, and would be lost",
            "drop empty completions before scoring; an answer has at least its EOS",
        )
    gap = (old - ref).values
    reward = -beta * (gap if floor is None else gap.clamp(min=floor))
    return old.map(lambda _: reward.index_add(0, _last(old), score.to(reward)))


def missing_eos(
    score: Tensor,
    stopped: Tensor,
    *,
    replace: float | None = None,
    penalty: float | None = None,
) -> Tensor:
    """Return [N] scores in which completions that never ended are punished.

    Args:
        score: [N] rewards.
        stopped: [N] bool, True where the completion ended itself.
        replace: the score that an unfinished completion gets instead of its own (OpenAI: -1).
        penalty: what is subtracted from it (TRL); at least 0.

    Raises:
        ConfigError: both rules at once, or a penalty below 0, which would be a prize.
    """
    if replace is not None and penalty is not None:
        raise ConfigError(
            f"`missing_eos` was given replace={replace} and penalty={penalty}",
            "they are two rules for the same answers, and one would undo the other",
            "set one of them to None",
        )
    if penalty is not None and penalty < 0:
        raise ConfigError(
            f"`missing_eos` was given penalty={penalty}",
            "it is subtracted, so below 0 it rewards answers that never end",
            "set it to 0 or more",
        )
    if replace is not None:
        return torch.where(stopped, score, torch.full_like(score, replace))
    return score if penalty is None else torch.where(stopped, score, score - penalty)


def overlong_penalty(length: Tensor, *, limit: int, buffer: int) -> Tensor:
    """DAPO's soft penalty [N]: 0 up to limit - buffer tokens, falling to -1 at limit and beyond.

    arXiv:2503.14476, eq. 13.
    """
    if not 0 < buffer <= limit:
        raise ConfigError(
            f"`overlong` was given buffer={buffer} with limit={limit}",
            "the penalty falls from 0 to -1 over the last `buffer` tokens before `limit`",
            "set buffer in 1..limit",
        )
    return ((limit - buffer - length).to(torch.get_default_dtype()) / buffer).clamp(-1, 0)


def kl_value(logp: Ragged, ref: Ragged, estimator: Estimator = "k1") -> Ragged:
    """Return [T] estimates of KL(pi || pi_ref) on samples of pi, for reading, never for training.

    With l = log pi - log pi_ref: k1 = l, unbiased, may be negative; k2 = l^2/2, biased;
    k3 = e^-l - 1 + l, unbiased a token, never negative.
    """
    l = (logp - ref).detach()  # noqa: E741
    if estimator == "k1":
        return l
    return l.map(lambda x: 0.5 * x**2 if estimator == "k2" else torch.exp(-x) - 1 + x)


def _last(x: Ragged) -> Tensor:
    """Return [N] the index of each completion's last token."""
    return torch.bincount(x.owner, minlength=x.n).cumsum(0) - 1


def _check_shaping(beta: float, estimator: str) -> None:
    if beta < 0:
        raise ConfigError(
            f"`kl_shaping` was given beta={beta}",
            "below 0 it pays the policy for leaving the reference",
            "set beta to 0 or more",
        )
    wrong = {
        "k2": "its optimum collapses onto the best answer instead of pi_ref exp(r/beta)",
        "k3": "its optimum diverges once pi < pi_ref somewhere: e^-l pays for unlikely tokens",
    }
    if estimator != "k1":
        raise ConfigError(
            f"`kl_shaping` was asked for {estimator} inside the reward",
            wrong.get(estimator, "it is no estimator of the KL"),
            "use k1 here; k2 is right as a loss (`objectives.kl`), k3 for reading (`kl_value`)",
        )
