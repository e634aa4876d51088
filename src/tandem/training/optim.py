"""AdamW with a schedule: the settings, and the optimiser built from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import nn
from torch.optim import AdamW

from tandem.errors import ConfigError


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

    lr: float = 1e-5
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = 0.03
    final: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip: float | None = 1.0

    def __post_init__(self) -> None:
        if not self.lr > 0 or not 0 <= self.warmup <= 1 or self.weight_decay < 0:
            raise ConfigError(
                f"optim: lr {self.lr}, warmup {self.warmup}, weight_decay {self.weight_decay}",
                "lr > 0, warmup is a share in [0, 1], weight_decay >= 0",
                "change the value that is out of range",
            )

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
