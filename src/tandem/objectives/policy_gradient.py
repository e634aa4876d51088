"""Policy gradients: one clipped objective covers PPO, GRPO, Dr. GRPO, DAPO, GSPO and RLOO.

What separates those methods is a choice of advantage (`objectives.advantages`), ratio, clip and
average:

| method   | advantage        | ratio      | clip       | per                | KL           |
|----------|------------------|------------|------------|--------------------|--------------|
| PPO      | GAE, whitened    | `token`    | .2, .2     | `token`            | k1 in reward |
| GRPO     | (r - mean) / std | `token`    | .2, .2     | `sequence`         | k3 as loss   |
| Dr. GRPO | r - mean         | `token`    | .2, .2     | `constant` longest | none         |
| DAPO     | (r - mean) / std | `token`    | .2, .28    | `token`            | none         |
| GSPO     | (r - mean) / std | `sequence` | 3e-4, 4e-4 | `sequence`         | optional     |
| RLOO     | r - mean of rest | none: `reinforce` | none | `constant` 1      | k1 in reward |

Shapes: T tokens, N completions.
"""

from __future__ import annotations

from typing import Literal

import torch

from tandem.batching.batch import Terms
from tandem.batching.ragged import Ragged
from tandem.errors import ConfigError
from tandem.objectives.setting_ranges import check_positive
from tandem.objectives.shares import Per, unit_shares

Ratio = Literal["token", "sequence"]


def ppo_clip(
    logp: Ragged,
    old: Ragged,
    adv: Ragged,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    ratio: Ratio = "token",
    per: Per = "token",
    length: float = 1.0,
) -> Terms:
    """Clipped surrogate: max(-A rho, -A clip(rho, 1 - clip_low, 1 + clip_high)).

    rho is pi/pi_old of each token (Schulman et al. 2017, arXiv:1707.06347, eq. 7), or for
    `ratio="sequence"` the geometric mean over the completion (GSPO, arXiv:2507.18071, eq. 7).
    At rho = 1 its gradient is -A grad log pi; where A > 0 and rho > 1 + clip_high, or A < 0 and
    rho < 1 - clip_low, it is 0.

    Args:
        logp: [T] log-probabilities under the policy, at the sampling temperature.
        old: [T] the same under the policy that sampled.
        adv: [T] advantages.
        clip_low: in (0, 1].
        clip_high: above 0; DAPO's "clip higher" is 0.28.
        ratio: whose probability ratio is clipped.
        per: how tokens are averaged, see `tandem.objectives.shares`.
        length: the divisor of `per="constant"`.

    Returns:
        Terms over the T tokens. Metrics: `ratio` (1 on the first pass), `clip_share` (tokens
        without gradient; healthy below 0.3), `approx_kl` = rho - 1 - log rho >= 0, an unbiased
        estimate of KL(pi_old || pi) a token.
    """
    _check_clip(clip_low, clip_high)
    log_ratio = logp - old.detach()
    if ratio == "sequence":
        log_ratio = log_ratio.expand(log_ratio.mean())
    rho, a = torch.exp(log_ratio.values), adv.values.detach()
    free, clipped = -a * rho, -a * rho.clamp(1 - clip_low, 1 + clip_high)
    factor, share = unit_shares(logp, per, length=length)
    metrics = {
        "ratio": rho,
        "clip_share": (clipped > free).to(rho.dtype),
        "approx_kl": rho - 1 - log_ratio.values,
    }
    loss = factor * torch.maximum(free, clipped)
    return Terms(loss, share, {k: v.detach() for k, v in metrics.items()})


def reinforce(logp: Ragged, adv: Ragged, *, per: Per = "constant", length: float = 1.0) -> Terms:
    """REINFORCE: -A log pi, on samples of the policy itself. Williams 1992.

    With the default average it is sum_t -A_t log pi(y_t) averaged over completions; with A =
    r - beta (log pi - log pi_ref) - leave_one_out it is RLOO (arXiv:2402.14740).

    Args:
        logp: [T] log-probabilities under the policy that sampled.
        adv: [T] advantages.
        per: how tokens are averaged, see `tandem.objectives.shares`.
        length: the divisor of `per="constant"`.

    Returns:
        Terms over the T tokens; no metrics (its value means nothing, its gradient does).
    """
    factor, share = unit_shares(logp, per, length=length)
    return Terms(-factor * adv.values.detach() * logp.values, share, {})


def value_clip(value: Ragged, old: Ragged, ret: Ragged, *, clip: float | None = 0.2) -> Terms:
    """Clipped value loss: max((V - G)^2, (V_old + clip(V - V_old, -c, c) - G)^2) / 2.

    As in OpenAI's and AlpacaFarm's PPO; see docs/theory/ppo.md#losses.

    Args:
        value: [T] value estimates of the state before each token.
        old: [T] the same at sampling time.
        ret: [T] returns.
        clip: c, above 0; None does not clip.

    Returns:
        Terms over the T tokens. Metrics: `value_error` = (V - G)^2, `value_clip_share`.
    """
    v, g = value.values, ret.values.detach()
    free = (v - g) ** 2
    worst = free
    if clip is not None:
        check_positive("value_clip", clip=clip)
        v_old = old.values.detach()
        worst = torch.maximum(free, (v_old + (v - v_old).clamp(-clip, clip) - g) ** 2)
    metrics = {"value_error": free.detach(), "value_clip_share": (worst > free).to(v.dtype)}
    return Terms(0.5 * worst, torch.ones_like(v), metrics)


def kl(
    logp: Ragged,
    ref: Ragged,
    *,
    estimator: Literal["k1", "k2", "k3"] = "k2",
    ratio: Ratio = "sequence",
    per: Per | None = None,
    length: float = 1.0,
    old: Ragged | None = None,
) -> Terms:
    """KL penalty as a differentiable loss, to be scaled by beta.

    With l = log pi - log pi_ref, on samples of the very policy that is trained:

    - k1 = l is refused: the expectation of its gradient is exactly 0.
    - k2 = l^2/2 has the gradient of KL(pi || pi_ref). Over sequences of several tokens this
      holds for `ratio="sequence"`, l summed over the completion; token by token it drops the
      effect of a token on the KL of later ones.
    - k3 = e^-l - 1 + l has the gradient of the *forward* KL(pi_ref || pi): with a reward its
      optimum is pi_ref beta/(beta + E r - r), not the exponential tilt. It is here to reproduce
      GRPO (arXiv:2402.03300, eq. 4), which takes it a token at a time.

    With `old` the penalty is weighted by rho = pi/pi_old, through which the gradient flows too:
    rho k1 and rho k3 are unbiased for KL(pi || pi_ref) on samples of pi_old, and so are their
    gradients (DeepSeek-V3.2, arXiv:2512.02556; TRL 1.16's GRPO does this unless told not to).
    rho k2 is refused: its mean is not the KL.

    Args:
        logp: [T] log-probabilities under the policy.
        ref: [T] the same under the reference.
        estimator: see above.
        ratio: `sequence`, one penalty a completion, or `token`.
        per: how tokens are averaged, see `tandem.objectives.shares`. A penalty that stands beside
            a surrogate needs the surrogate's own average, or beta means something else: with
            `ratio="sequence"` a completion then has the factor and the weight of its tokens. None
            is the mean over tokens (`token`), or over completions (`sequence`).
        length: the divisor of `per="constant"`.
        old: [T] log-probabilities under the policy that sampled; None: no weighting, and the
            samples must be of this very step.

    Returns:
        Terms over the N completions (`sequence`) or T tokens (`token`). Metric `kl`: l, whose
        mean is the unbiased k1 estimate.

    Raises:
        ConfigError: an estimator whose gradient is not what it seems, or k3 of whole sequences,
            whose e^-l overflows.
    """
    _check_estimator(estimator, ratio, corrected=old is not None)
    gap = logp - ref.detach()
    drift = None if old is None else logp - old.detach()
    if ratio == "sequence":
        l, move = gap.sum(), None if drift is None else drift.sum()  # noqa: E741
        factor, share = unit_shares(logp, per or "constant", length=length)
        factor, share = logp.map(lambda _: factor).mean(), logp.map(lambda _: share).sum()
    else:
        l, move = gap.values, None if drift is None else drift.values  # noqa: E741
        factor, share = unit_shares(logp, per or "token", length=length)
    penalty = {"k1": l, "k2": 0.5 * l**2, "k3": torch.exp(-l) - 1 + l}[estimator]
    penalty = penalty if move is None else torch.exp(move) * penalty
    return Terms(factor * penalty, share, {"kl": l.detach()})


def _check_clip(low: float, high: float) -> None:
    check_positive("ppo_clip", clip_low=low, clip_high=high)
    if low > 1:
        raise ConfigError(
            f"`ppo_clip` was given clip_low={low}",
            "a ratio is never below 0, so a lower bound of 1 - clip_low < 0 clips nothing",
            "set clip_low in (0, 1]; 1 leaves the lower side free",
        )


def _check_estimator(estimator: str, ratio: str, *, corrected: bool) -> None:
    if estimator not in ("k1", "k2", "k3"):
        raise ConfigError(
            f"`kl` was asked for the estimator {estimator!r}",
            "estimators of the KL are k1, k2 and k3",
            "use k2, or k3 to reproduce GRPO",
        )
    if estimator == "k1" and not corrected:
        raise ConfigError(
            "`kl` was asked for k1 as a loss",
            "the expected gradient of log pi - log pi_ref on the policy's own samples is exactly "
            "0: it would penalise nothing and add noise",
            "use k2 here, or put k1 into the reward (`objectives.shaped_rewards.kl_shaping`)",
        )
    if estimator == "k2" and corrected:
        raise ConfigError(
            "`kl` was asked for k2 weighted by pi/pi_old",
            "the mean of l^2/2 is not the KL, so the gradient through the weight is wrong",
            "leave out `old` on fresh samples, or use k3 with it",
        )
    if estimator == "k3" and ratio == "sequence":
        raise ConfigError(
            "`kl` was asked for k3 of whole sequences",
            "e^-l of a summed log-ratio overflows, and no paper uses it",
            'use k2, or ratio="token" to reproduce GRPO',
        )
