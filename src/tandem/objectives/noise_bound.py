"""A floor under losses that are corrected for known label noise.

The correction makes a label p to (p - eps) / (1 - 2 eps), which is above 1 for a click and below 0
for a click on the other side. With such a label the logistic loss -p log s(z) - (1 - p) log s(-z)
falls for ever as z goes to the side of the label, so one pair could pull for as long as it is
trained on.

Shapes: M pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor

NOISE_BOUND = 5.0
"""Log-odds at which a noise-corrected pair stops to pull: P = .9933."""


def bound_falling_side(z: Tensor, label: Tensor, bound: float = NOISE_BOUND) -> Tensor:
    """Return [M] z, held at `bound` on the side to which the loss of its label falls for ever.

    On the other side nothing is held, so a pair that the model orders wrongly keeps its gradient.

    Args:
        z: [M] log-odds of the first answer.
        label: [M] corrected labels; those in [0, 1] have a loss with a floor, and are left alone.
        bound: above 0; infinity holds nothing.
    """
    held = torch.where(label > 1, z.clamp(max=bound), z)
    return torch.where(label < 0, held.clamp(min=-bound), held)
