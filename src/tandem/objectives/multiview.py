"""RLP-UML: the multi-view information bottleneck that regularises a reward model on policy samples.

Two samples of one prompt are two views. An encoder gives each a Gaussian N(mu, diag sigma^2), a
critic scores pairs of draws, and

    L_M = -I_JS(z1; z2) + w SKL(p(z|v1) || p(z|v2)),

pushes the representation to keep what the views share and to drop the rest. Lang et al. 2024,
arXiv:2403.19279, section 3.2; Federici et al. 2020, arXiv:2002.07017; Hjelm et al. 2019.

Shapes: B prompts with two views each, d dimensions of z.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from tandem.batching.batch import Terms
from tandem.errors import ConfigError, DataError
from tandem.objectives.setting_ranges import check_positive


def multiview(joint: Tensor, marginal: Tensor, skl: Tensor, *, skl_weight: float = 1.0) -> Terms:
    """L_M a prompt: softplus(-T_joint) + softplus(T_marginal) + skl_weight * skl.

    The first two are minus the Jensen-Shannon estimate of the mutual information, which is never
    above 0; with T = 0 everywhere they make 2 ln 2. The encoder and the critic both minimise.

    Args:
        joint: [B] critic T(z1, z2) on the two views of one prompt.
        marginal: [B] critic on views of different prompts, see `other_prompt`.
        skl: [B] symmetrised KL of the two encodings.
        skl_weight: 1 in RLP; a schedule's value in the original (`skl_schedule`).

    Returns:
        Terms over the B prompts. Metrics: `mi_js`; `mi_kl` = T_joint - e^T_marginal + 1, for
        reading only (unbounded variance); `skl`.
    """
    js = -softplus(-joint) - softplus(marginal)
    with torch.no_grad():
        mi_kl = joint - torch.exp(marginal) + 1
    metrics = {"mi_js": js.detach(), "mi_kl": mi_kl, "skl": skl.detach()}
    return Terms(skl_weight * skl - js, torch.ones_like(js), metrics)


def contrastive(joint: Tensor, marginal: Tensor) -> Terms:
    """InfoNCE a prompt with one negative: -log e^joint / (e^joint + e^marginal).

    The ablation of RLP's table 6 that keeps two views and drops the encoder's distribution.

    Args:
        joint: [B] similarity of the two views of one prompt.
        marginal: [B] similarity of views of different prompts.

    Returns:
        Terms over the B prompts. Metric: `told_apart`, how often the own view is the closer one.
    """
    gap = joint - marginal
    right = 0.5 * (1 + torch.sign(gap.detach()))
    return Terms(softplus(-gap), torch.ones_like(gap), {"told_apart": right})


def skl_closed(mu1: Tensor, sigma1: Tensor, mu2: Tensor, sigma2: Tensor) -> Tensor:
    """Return [B] (KL(p1 || p2) + KL(p2 || p1)) / 2 of diagonal Gaussians, given [B, d] each.

    1/4 sum_d [s1^2/s2^2 + s2^2/s1^2 - 2 + (m1 - m2)^2 (1/s1^2 + 1/s2^2)].
    """
    v1, v2 = sigma1**2, sigma2**2
    return 0.25 * (v1 / v2 + v2 / v1 - 2 + (mu1 - mu2) ** 2 * (1 / v1 + 1 / v2)).sum(-1)


def skl_sample(
    z1: Tensor, z2: Tensor, mu1: Tensor, sigma1: Tensor, mu2: Tensor, sigma2: Tensor
) -> Tensor:
    """Return [B] the one-draw estimate of `skl_closed`, as the original code has it.

    [(log p1(z1) - log p2(z1)) + (log p2(z2) - log p1(z2))] / 2, z1 ~ p1, z2 ~ p2.
    """
    gap1 = _log_normal(z1, mu1, sigma1) - _log_normal(z1, mu2, sigma2)
    gap2 = _log_normal(z2, mu2, sigma2) - _log_normal(z2, mu1, sigma1)
    return 0.5 * (gap1 + gap2)


def other_prompt(group: Tensor) -> Tensor:
    """Return [B] indices that give each view a partner from another prompt: a roll by one.

    Args:
        group: [B] the prompt of each entry.

    Raises:
        DataError: the batch has fewer than two prompts, or the roll would stay inside one.
    """
    order = torch.roll(torch.arange(len(group), device=group.device), 1)
    same = int((group[order] == group).sum())
    if same:
        raise DataError(
            f"{same} of {len(group)} views would be paired with a view of their own prompt",
            "the marginal of the mutual information needs independent views; views of one prompt "
            "share what is to be measured",
            "put two or more prompts into each batch, one pair of views a prompt",
        )
    return order


def skl_schedule(
    step: int, *, start: float = 1e-3, end: float = 1.0, begin: int = 50_000, steps: int = 100_000
) -> float:
    """Return the weight of the SKL: `start` until `begin`, then exponentially to `end`.

    The original's schedule: linear in the logarithm of the weight, over `steps` steps. RLP holds
    the weight at 1 instead, where an encoder can collapse at once; a warm-up over the first part
    of training is `skl_schedule(step, begin=0, steps=0.3 * total)`.

    Raises:
        ConfigError: an endpoint is not above 0.
    """
    check_positive("skl_schedule", start=start, end=end)
    if steps < 1:
        raise ConfigError(
            f"`skl_schedule` was given steps={steps}",
            "the weight rises over at least one step",
            "set steps to 1 or more",
        )
    done = min(max(step - begin, 0) / steps, 1.0)
    return start ** (1 - done) * end**done


def _log_normal(z: Tensor, mu: Tensor, sigma: Tensor) -> Tensor:
    """Return log density up to the constant, which cancels in differences."""
    return (-torch.log(sigma) - 0.5 * ((z - mu) / sigma) ** 2).sum(-1)
