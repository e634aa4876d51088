"""Fitting rewards and preference models to comparisons.

Shapes: N completions, M pairs.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from tandem.batching.batch import Pairs, Terms
from tandem.errors import ConfigError
from tandem.objectives.noise_bound import NOISE_BOUND, clip_log_odds
from tandem.objectives.setting_ranges import check_below_half, check_positive


def bradley_terry(
    score: Tensor,
    pairs: Pairs,
    *,
    smoothing: float = 0.0,
    noise: float = 0.0,
    centring: float = 0.0,
    bound: float = NOISE_BOUND,
    weight: Tensor | None = None,
) -> Terms:
    """Bradley-Terry: -p log s(z) - (1 - p) log s(-z), z = r_w - r_l - margin.

    dL/dz = s(z) - p. The population minimiser is z = logit(p). Options:
    the margin of Llama 2 (arXiv:2307.09288, eq. 2); `smoothing` eps replaces p by
    (1 - eps) p + eps (1 - p); `noise` eps gives the loss that is unbiased for clean labels when
    labels are flipped at that rate, [(1 - eps) l(z) - eps l(-z)] / (1 - 2 eps), bounded where it
    would fall for ever; `centring` c adds c (r_w + r_l)^2 (arXiv:2312.09244), which fixes the
    constant that the plain loss leaves free.
    See docs/theory/reward_models.md#losses.

    Args:
        score: [N] rewards, fp32.
        pairs: M comparisons; soft labels and margins are honoured.
        smoothing: in [0, 1/2).
        noise: flip rate, in [0, 1/2).
        centring: c, at least 0; 0.01 is usual.
        bound: with `noise`, z is clipped to [-bound, bound] in the likelihood. Without it a pair's
            loss falls for ever, at slope -eps/(1 - 2 eps). inf is no bound.
        weight: [M] weights; `rank_weight` for K-way rankings. None is 1 for each pair.

    Returns:
        Terms over the M pairs. Metrics: `accuracy` (ties count one half), `margin` (the reward
        of the preferred answer minus the other's), `reward` (mean of the two).

    Raises:
        ConfigError: smoothing or noise out of range, or both at once; centring below 0.
    """
    _check(smoothing, noise, centring)
    check_positive("bradley_terry", bound=bound)
    r_w, r_l, p = score[pairs.w], score[pairs.l], pairs.p
    z = r_w - r_l if pairs.margin is None else r_w - r_l - pairs.margin
    # one soft label covers all three: smoothing moves it to 1/2, the correction away from it
    soft = (1 - 2 * smoothing) * p + smoothing if noise == 0 else (p - noise) / (1 - 2 * noise)
    loss = two_argument(clip_log_odds(z, bound) if noise else z, soft).loss
    if centring:
        loss = loss + centring * (r_w + r_l) ** 2
    share = torch.ones_like(loss) if weight is None else weight.to(loss)
    return Terms(share * loss, share, _metrics(r_w.detach(), r_l.detach(), p))


def two_argument(logit: Tensor, p: Tensor) -> Terms:
    """Cross-entropy of a preference model: -p log s(f) - (1 - p) log s(-f), f its logit.

    Args:
        logit: [M] log-odds that the first answer is better; make it antisymmetric first
            (`antisymmetric`), so that P(a > b) + P(b > a) = 1.
        p: [M] labels, soft ones allowed.

    Returns:
        Terms over the M pairs; metric `accuracy`, ties count one half.
    """
    loss = -p * logsigmoid(logit) - (1 - p) * logsigmoid(-logit)
    first = 0.5 * (1 + torch.sign(logit.detach()))
    accuracy = p * first + (1 - p) * (1 - first)
    return Terms(loss, torch.ones_like(loss), {"accuracy": accuracy})


def antisymmetric(forward: Tensor, backward: Tensor) -> Tensor:
    """Return [M] log-odds (f(a, b) - f(b, a)) / 2 from the logits of both orders."""
    return 0.5 * (forward - backward)


def cyclic_log_odds(score: Tensor, embedding: Tensor, pairs: Pairs) -> Tensor:
    """Return [M] log-odds of a scalar plus cyclic model, antisymmetric by construction.

    s_w - s_l + sum_k (e_w[2k] e_l[2k+1] - e_w[2k+1] e_l[2k]): a reward's difference, and a
    skew-symmetric form that can go in circles (general preference model, arXiv:2410.02197).

    Args:
        score: [N] rewards.
        embedding: [N, 2k].
        pairs: M comparisons.
    """
    w, l = embedding[pairs.w], embedding[pairs.l]  # noqa: E741
    around = (w[:, 0::2] * l[:, 1::2] - w[:, 1::2] * l[:, 0::2]).sum(1)
    return score[pairs.w] - score[pairs.l] + around


def rank_weight(pairs: Pairs, group: Tensor) -> Tensor:
    """Return [M] one over the number of pairs of each pair's group: 1/C(K, 2) for a K-way ranking.

    InstructGPT, arXiv:2203.02155, eq. 1: all pairs of a prompt count as one. Groups must be whole.

    Args:
        pairs: M comparisons.
        group: [N] the group of each completion.
    """
    found = torch.unique(group[pairs.w], return_inverse=True, return_counts=True)  # pyright: ignore
    _, which, count = cast("tuple[Tensor, Tensor, Tensor]", found)
    return 1.0 / count[which]


def _metrics(r_w: Tensor, r_l: Tensor, p: Tensor) -> dict[str, Tensor]:
    first = 0.5 * (1 + torch.sign(r_w - r_l))
    return {
        "accuracy": p * first + (1 - p) * (1 - first),
        "margin": torch.where(p >= 0.5, r_w - r_l, r_l - r_w),
        "reward": 0.5 * (r_w + r_l),
    }


def _check(smoothing: float, noise: float, centring: float) -> None:
    check_below_half("bradley_terry", smoothing=smoothing, noise=noise)
    if smoothing and noise:
        raise ConfigError(
            f"`bradley_terry` was given smoothing={smoothing} and noise={noise}",
            "smoothing pulls labels towards 1/2 and the noise correction pushes them away from it",
            "set one of them to 0",
        )
    if centring < 0:
        raise ConfigError(
            f"`bradley_terry` was given centring={centring}",
            "below 0 the loss falls without bound as all rewards grow",
            "set centring to 0 or more, for example 0.01",
        )
