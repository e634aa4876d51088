"""A floor under losses that are corrected for known label noise.

The corrected loss of a click, [(1 - eps) l(z) - eps l(-z)] / (1 - 2 eps), falls for ever as z
grows, so one pair could pull for as long as it is trained on. It has a floor exactly where l has a
ceiling: l is taken at z clipped to [-bound, bound]. Averaged over flipped labels that is l of the
clipped z, so the correction stays unbiased, for clean and for wrong labels alike.

Shapes: M pairs.
"""

from __future__ import annotations

from torch import Tensor

NOISE_BOUND = 10.0
"""Log-odds from which on a noise-corrected pair pulls no more: P = .99995."""


def clip_log_odds(z: Tensor, bound: float = NOISE_BOUND) -> Tensor:
    """Return [M] log-odds within [-bound, bound], without gradient beyond; infinity clips nothing.

    >>> clip_log_odds(torch.tensor([-20.0, 3.0]))
    tensor([-10.,   3.])
    """
    return z.clamp(-bound, bound)
