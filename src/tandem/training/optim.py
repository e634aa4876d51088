"""AdamW with a schedule: the settings, and the optimiser built from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import nn
from torch.optim import AdamW

from tandem.errors.ranges import Decay, NotNegative, Positive, Share, check_ranges


@dataclass(frozen=True, slots=True)
class Optim:
    """AdamW with a schedule.

    Attributes:
        lr: peak learning rate.
        schedule: shape after the warm-up, down to `final` of the peak.
        warmup: share of all steps spent rising linearly from 0.
        final: where cosine and linear schedules end, as a share of the peak.
        betas: decay of the two moments.
        eps: added to the root of the second moment.
        weight_decay: decoupled, on matrices only.
        clip: largest gradient norm; None does not clip.
    """

    lr: Positive = 1e-5
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: Share = 0.03
    final: Share = 0.0
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: Positive = 1e-8
    weight_decay: NotNegative = 0.0
    clip: Positive | None = 1.0

    def __post_init__(self) -> None:
        check_ranges(self, "optim")

    def factor(self, step: int, total: int) -> float:
        """Learning rate at a step as a share of the peak."""
        rise = max(1, round(self.warmup * total))
        if self.warmup > 0 and step < rise:
            return (step + 1) / rise
        done = min(1.0, (step - rise) / max(1, total - rise)) if step > rise else 0.0
        fall = {
            "constant": 1.0,
            "linear": 1 - done,
            "cosine": 0.5 * (1 + math.cos(math.pi * done)),
        }[self.schedule]
        return fall if self.schedule == "constant" else self.final + (1 - self.final) * fall


def build_optimizer(module: nn.Module, optim: Optim) -> AdamW:
    """Return AdamW over the trained parameters; only matrices and larger decay."""
    learn = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learn if p.ndim >= 2], "weight_decay": optim.weight_decay},
        {"params": [p for p in learn if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [g for g in groups if g["params"]]
    return AdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True)
