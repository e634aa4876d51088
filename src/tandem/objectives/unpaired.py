"""Losses of single answers: KTO of answers marked good or bad, SPPO of answers with a win rate.

Shapes: N completions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tandem.batching.batch import Terms
from tandem.objectives.setting_ranges import check_positive


def kto_z0(mismatched: Tensor) -> Tensor:
    """Return the reference point z0 = max(0, mean of h over mismatched pairs), without gradient.

    A mismatched pair puts the answer to another prompt behind each prompt. z0 belongs to the
    whole step: compute it over all micro-batches and ranks before the step is split.
    Ethayarajh et al. 2024, arXiv:2402.01306, section 4.1. Which neighbour an answer is taken
    from is a convention (TRL 1.16 puts y_{i-1} behind x_i) and decides parity, not meaning.

    Args:
        mismatched: [N] log-ratios of the mismatched pairs.

    Returns:
        A scalar.
    """
    return mismatched.detach().mean().clamp(min=0)


def kto(
    h: Tensor,
    desirable: Tensor,
    z0: Tensor,
    *,
    beta: float,
    lam_d: float = 1.0,
    lam_u: float = 1.0,
) -> Terms:
    """KTO: lambda_y - v, v = lambda_D s(beta (h - z0)) or lambda_U s(beta (z0 - h)).

    dL/dh = -lambda_D beta s(u) s(-u) for a desirable answer, u = beta (h - z0), and
    +lambda_U beta s(u) s(-u) for an undesirable one. z0 receives no gradient.
    arXiv:2402.01306, eq. 8.

    Args:
        h: [N] log pi - log pi_ref, summed over tokens.
        desirable: [N] bool, or 0 to 1; an answer with nan was judged by nobody, and counts for
            nothing.
        z0: scalar reference point of the whole step, from `kto_z0`.
        beta: how fast value saturates, above 0.
        lam_d: weight of desirable answers.
        lam_u: weight of undesirable ones; the paper wants lam_d n_d / (lam_u n_u) in [1, 3/2].

    Returns:
        Terms over the N completions. Metrics: `reward` = beta h; `accuracy`, the share on the
        labelled side of z0; `z0`.
    """
    check_positive("kto", beta=beta, lam_d=lam_d, lam_u=lam_u)
    judged = (~torch.isnan(desirable)).to(h)
    good = torch.nan_to_num(desirable.to(h))
    u = beta * (h - z0.detach())
    loss = lam_d * good * torch.sigmoid(-u) + lam_u * (1 - good) * torch.sigmoid(u)
    above = 0.5 * (1 + torch.sign(u.detach()))
    metrics = {
        "reward": beta * h.detach(),
        "accuracy": good * above + (1 - good) * (1 - above),
        "z0": z0.detach().expand_as(h),
    }
    return Terms(judged * loss, judged, metrics)


def sppo_regression(h: Tensor, wins: Tensor, *, eta: float) -> Terms:
    """SPPO: (h - eta (P - 1/2))^2 for each answer, P its chance to beat the policy that drew it.

    dL/dh = 2 (h - eta (P - 1/2)): at h = 0 that is a policy gradient with eta (P - 1/2) for its
    advantage. Wu et al. 2024, arXiv:2405.00675, Algorithm 1; `sppo` is its form for pairs of which
    one is taken to win always.

    Args:
        h: [N] log pi - log pi_t, summed over tokens; pi_t drew the answers.
        wins: [N] P, from 0 to 1.
        eta: step of the multiplicative update, in nats a win rate, above 0.

    Returns:
        Terms over the N answers. Metrics: `log_ratio` = |h|, in nats.
    """
    check_positive("sppo_regression", eta=eta)
    loss = (h - eta * (wins.detach() - 0.5)) ** 2
    return Terms(loss, torch.ones_like(loss), {"log_ratio": h.detach().abs()})
