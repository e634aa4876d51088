"""Losses on preferences between completions: the DPO family, with and without a reference.

Every loss reads one number h a completion and sees a pair through d = h_w - h_l:

| form                | h                                              |
|---------------------|------------------------------------------------|
| with a reference    | log pi(y|x) - log pi_ref(y|x), summed over tokens |
| without one         | log pi(y|x), summed over tokens                |
| length-normalised   | either, divided by the completion's length     |

`PAIRWISE` says which form each name takes, and `Loss.h` computes it. A label is a probability:
the loss of a pair is p f(z) + (1 - p) f(-z), the expectation over a label drawn from p, with
z = beta d - margin. So p = 1 is a click, p = 1/2 a tie, and a margin is signed towards w.

Names that mean different things elsewhere:

| here               | TRL 1.16                    | elsewhere                                    |
|--------------------|-----------------------------|----------------------------------------------|
| `sigmoid`          | `sigmoid`                   | DPO; RSO's "sigmoid-norm"                    |
| `length_normalised`| `sigmoid_norm`              | not RSO's sigmoid-norm                       |
| `hinge_norm`       | `hinge`                     | RSO's hinge-norm                             |
| `hinge`            | (absent)                    | SLiC as RSO writes it, no reference          |
| `cdpo`             | (absent: `label_smoothing` no longer touches `sigmoid`) | conservative DPO |
| `ipo`              | `ipo` divided by length     | OpenRLHF and the paper sum: `length_norm`    |
| `sppo_hard`        | `sppo_hard`                 | SPPO with the win rate taken as 1            |

Shapes: N completions, M pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from tandem.batching.batch import Pairs, Terms
from tandem.batching.ragged import Ragged
from tandem.errors import ConfigError, DataError, nearest_name
from tandem.objectives.noise_bound import NOISE_BOUND, clip_log_odds
from tandem.objectives.setting_ranges import check_below_half, check_positive


def sigmoid(h: Tensor, pairs: Pairs, *, beta: float, smoothing: float = 0.0) -> Terms:
    """DPO: -log sigmoid(beta d); with smoothing eps it is cDPO.

    L = -(1 - eps) log s(u) - eps log s(-u), u = beta d - margin.
    dL/dd = beta (s(u) - (1 - eps)), zero at s(u) = 1 - eps; -beta s(-u) for eps = 0.

    Rafailov et al. 2023, arXiv:2305.18290, eq. 7; cDPO: Mitchell 2023; the margin: ODPO,
    arXiv:2402.10571. RSO calls it sigmoid-norm, "norm" meaning: divided by the reference.

    Args:
        h: [N] log-ratios, summed over tokens.
        pairs: M comparisons; p and margin are honoured.
        beta: strength of the pull to the reference, above 0.
        smoothing: share of labels taken to be wrong, in [0, 1/2).
    """
    check_positive("sigmoid", beta=beta)
    check_below_half("sigmoid", smoothing=smoothing)
    certain = (1 - 2 * smoothing) * pairs.p + smoothing
    return _terms(h, replace(pairs, p=certain), beta, _logistic, labels=pairs.p)


def robust(
    h: Tensor, pairs: Pairs, *, beta: float, noise: float, bound: float = NOISE_BOUND
) -> Terms:
    """rDPO: unbiased for the clean DPO loss when labels are flipped at a known rate.

    L = [-(1 - eps) log s(u) + eps log s(-u)] / (1 - 2 eps), u = beta d - margin.
    dL/dd = -beta [(1 - eps) s(-u) + eps s(u)] / (1 - 2 eps): never zero, so on finite data
    it would push d up for ever. Beyond |u| = `bound` it is 0.

    Chowdhury et al. 2024, arXiv:2403.00409. (1 - eps) L(u) + eps L(-u) = -log s(u) exactly.

    Args:
        h: [N] log-ratios, summed over tokens.
        pairs: M comparisons; p and margin are honoured.
        beta: strength of the pull to the reference, above 0.
        noise: flip rate eps of the labels, in [0, 1/2).
        bound: u is clipped to [-bound, bound], above 0; infinity is the paper's loss.
    """
    check_positive("robust", beta=beta, bound=bound)
    check_below_half("robust", noise=noise)

    corrected = (pairs.p - noise) / (1 - 2 * noise)
    return _terms(h, replace(pairs, p=corrected), beta, _logistic, labels=pairs.p, bound=bound)


def ipo(h: Tensor, pairs: Pairs, *, tau: float) -> Terms:
    """IPO: (d - 1/(2 tau))^2. No sigmoid, so certain labels do not send d to infinity.

    dL/dd = 2 (d - 1/(2 tau)). Azar et al. 2023, arXiv:2310.12036, eq. 17.

    Args:
        h: [N] log-ratios; `PAIRWISE["ipo"]` divides them by length, as the authors advise for
            text, and `ipo_sum` does not (the closed forms need the sum).
        pairs: M comparisons; p is honoured (the optimum of a pair is (2p - 1)/(2 tau)).
        tau: the strength of the pull to the reference; it takes beta's place. Above 0.

    Raises:
        ConfigError: pairs carry margins.
    """
    check_positive("ipo", tau=tau)
    _no_margin("ipo", pairs)
    return _terms(h, pairs, 1.0, lambda d: (d - 0.5 / tau) ** 2, scale=tau)


def hinge(h: Tensor, pairs: Pairs, *, beta: float) -> Terms:
    """max(0, 1 - beta d): with a reference RSO's hinge-norm, without one SLiC's hinge.

    dL/dd = -beta where beta d - margin < 1, else 0. RSO, arXiv:2309.06657, eq. 9, 10 (its gamma
    is our beta). SLiC's delta is 1/beta, its loss ours times delta; its regulariser
    -lambda log pi(y_ref) is a second term of the step, `nll`, with its own weight (RSO found it
    without effect).

    Args:
        h: [N] log-ratios or log-probabilities, summed over tokens.
        pairs: M comparisons; p and margin are honoured.
        beta: inverse width of the margin to be reached, above 0.
    """
    check_positive("hinge", beta=beta)
    return _terms(h, pairs, beta, lambda z: torch.relu(1 - z))


def sppo(h: Tensor, pairs: Pairs, *, beta: float) -> Terms:
    """SPPO with a hard win rate: (h_w - 1/(2 beta))^2 + (h_l + 1/(2 beta))^2.

    dL/dh_w = 2 (h_w - 1/(2 beta)), dL/dh_l = 2 (h_l + 1/(2 beta)): it fixes each log-ratio, not
    their difference alone. Wu et al. 2024, arXiv:2405.00675, eq. 4.9 with P = 1.

    Args:
        h: [N] log-ratios, summed over tokens.
        pairs: M comparisons; p is honoured.
        beta: inverse step of the multiplicative update (the paper's 1/eta), above 0.

    Raises:
        ConfigError: pairs carry margins.
    """
    check_positive("sppo", beta=beta)
    _no_margin("sppo", pairs)
    w, l, a = h[pairs.w], h[pairs.l], 0.5 / beta  # noqa: E741
    won, lost = (w - a) ** 2 + (l + a) ** 2, (w + a) ** 2 + (l - a) ** 2
    loss = pairs.p * won + (1 - pairs.p) * lost
    return Terms(loss, torch.ones_like(loss), _metrics(h, pairs, pairs.p, beta))


def simpo(h: Tensor, pairs: Pairs, *, beta: float, gamma: float) -> Terms:
    """SimPO: -log sigmoid(beta d - gamma) on mean log-probabilities, without a reference.

    dL/dd = -beta s(gamma - beta d). Meng et al. 2024, arXiv:2405.14734, eq. 6. The target
    margin gamma belongs to the winner, so with a soft label both directions carry it:
    L = -p log s(u - gamma) - (1 - p) log s(-u - gamma).

    Args:
        h: [N] log-probabilities divided by length.
        pairs: M comparisons; p and margin are honoured.
        beta: scale, 2 to 2.5 in the paper; above 0.
        gamma: target margin, 0.5 to 1.5 in the paper.
    """
    check_positive("simpo", beta=beta)
    return _terms(h, pairs, beta, lambda z: _logistic(z - gamma))


@dataclass(frozen=True, slots=True, eq=False)
class PairwiseLoss:
    """A pairwise loss by name: a function of h (one number a completion), and how h is computed.

    Attributes:
        function: the loss on h and pairs.
        settings: the settings it takes, with their defaults (the papers').
        uses_ref: h is a log-ratio to the reference.
        length_norm: h is divided by the completion's length.
        takes_margins: margins have a place in it; losses onto a fixed target have none.
    """

    function: Callable[..., Terms]
    settings: dict[str, float] = field(default_factory=dict[str, float])
    uses_ref: bool = True
    length_norm: bool = False
    takes_margins: bool = True

    def h(self, logp: Ragged, ref: Ragged | None) -> Tensor:
        """Return the [N] numbers that the function reads.

        Raises:
            DataError: the loss needs the reference's log-probabilities and has none.
        """
        if not self.uses_ref:
            return logp.mean() if self.length_norm else logp.sum()
        if ref is None:
            raise DataError(
                "the batch has no log-probabilities of the reference",
                "this loss measures each answer against the frozen reference policy",
                "compute the column `ref` before training, or take a loss without a reference "
                f"({', '.join(n for n, loss in PAIRWISE.items() if not loss.uses_ref)})",
            )
        ratio = logp - ref.detach()
        return ratio.mean() if self.length_norm else ratio.sum()

    def __call__(self, logp: Ragged, ref: Ragged | None, pairs: Pairs, **settings: float) -> Terms:
        """Compute the loss from per-token log-probabilities, with the defaults filled in.

        Args:
            logp: [T] log-probabilities under the policy.
            ref: [T] the same under the reference, or None where `uses_ref` is False.
            pairs: M comparisons between the N completions.
            settings: overrides of `self.settings`.

        Returns:
            Terms over the M pairs. Metrics: `reward_chosen`, `reward_rejected`, `margin`,
            `accuracy` (see `sigmoid`), and the summed `logp_chosen`, `logp_rejected`.

        Raises:
            ConfigError: a setting that this loss does not take.
        """
        for name in settings:
            if name not in self.settings:
                raise ConfigError(
                    f"`{self.function.__name__}` was given the setting {name!r}",
                    f"it takes {', '.join(self.settings)}, and would ignore this one",
                    f"remove it.{nearest_name(name, self.settings)}",
                )
        terms = self.function(self.h(logp, ref), pairs, **(self.settings | settings))
        chosen, rejected = _ordered(logp.sum().detach(), pairs, pairs.p)
        return terms._replace(
            metrics=terms.metrics | {"logp_chosen": chosen, "logp_rejected": rejected}
        )


PAIRWISE: dict[str, PairwiseLoss] = {
    "sigmoid": PairwiseLoss(sigmoid, {"beta": 0.1}),
    "cdpo": PairwiseLoss(sigmoid, {"beta": 0.1, "smoothing": 0.1}),
    "robust": PairwiseLoss(robust, {"beta": 0.1, "noise": 0.1, "bound": NOISE_BOUND}),
    "ipo": PairwiseLoss(ipo, {"tau": 0.1}, length_norm=True, takes_margins=False),
    "ipo_sum": PairwiseLoss(ipo, {"tau": 0.1}, takes_margins=False),
    "hinge_norm": PairwiseLoss(hinge, {"beta": 0.05}),
    "hinge": PairwiseLoss(hinge, {"beta": 0.05}, uses_ref=False),
    "sigmoid_unnormalised": PairwiseLoss(sigmoid, {"beta": 0.05}, uses_ref=False),
    "length_normalised": PairwiseLoss(sigmoid, {"beta": 0.1}, length_norm=True),
    "sppo_hard": PairwiseLoss(sppo, {"beta": 0.001}, takes_margins=False),
    "simpo": PairwiseLoss(simpo, {"beta": 2.0, "gamma": 1.0}, uses_ref=False, length_norm=True),
}


def _logistic(z: Tensor) -> Tensor:
    return -logsigmoid(z)


def _terms(
    h: Tensor,
    pairs: Pairs,
    beta: float,
    f: Callable[[Tensor], Tensor],
    *,
    scale: float | None = None,
    labels: Tensor | None = None,
    bound: float = math.inf,
) -> Terms:
    """Expect f over the label; `scale` turns h into a reward, `labels` are p before smoothing.

    `bound` is for labels that are corrected for noise, see `noise_bound`.
    """
    z = beta * (h[pairs.w] - h[pairs.l])
    z = z if pairs.margin is None else z - pairs.margin
    z = z if math.isinf(bound) else clip_log_odds(z, bound)
    loss = pairs.p * f(z) + (1 - pairs.p) * f(-z)
    p = pairs.p if labels is None else labels
    return Terms(
        loss, torch.ones_like(loss), _metrics(h, pairs, p, beta if scale is None else scale)
    )


def _metrics(h: Tensor, pairs: Pairs, p: Tensor, scale: float) -> dict[str, Tensor]:
    chosen, rejected = _ordered(scale * h.detach(), pairs, p)
    w_first = 0.5 * (1 + torch.sign(h.detach()[pairs.w] - h.detach()[pairs.l]))
    return {
        "reward_chosen": chosen,
        "reward_rejected": rejected,
        "margin": chosen - rejected,
        "accuracy": p * w_first + (1 - p) * (1 - w_first),
    }


def _ordered(x: Tensor, pairs: Pairs, p: Tensor) -> tuple[Tensor, Tensor]:
    """Return x of the completion that the label prefers, and of the other."""
    w, l = x[pairs.w], x[pairs.l]  # noqa: E741
    return torch.where(p >= 0.5, w, l), torch.where(p >= 0.5, l, w)


def _no_margin(loss: str, pairs: Pairs) -> None:
    if pairs.margin is not None:
        raise ConfigError(
            f"`{loss}` was given pairs with margins",
            "it regresses onto a fixed target, and a margin has no place in it",
            "drop the margins, or use `sigmoid` or a hinge, which honour them",
        )
