"""Log-probabilities of chosen tokens from hidden states, without the whole [T, V] in fp32.

Only the positions that predict a trained token arrive here. Logits are made in chunks, sums over
the vocabulary are taken in fp32 on pieces that stay in cache, and the backward pass either uses
the kept logits (when they fit) or makes them again.

Shapes: T trained tokens, V vocabulary, d width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

KEEP_BYTES = 1 << 30
"""Logits up to this size are kept for the backward pass; above it they are made again."""
CHUNK_BYTES = 256 << 20
"""Size of a chunk of logits when they are not kept."""
CACHE_BYTES = 2 << 20
"""Size in fp32 of the piece on which sums over the vocabulary are taken."""


@contextmanager
def recompute_logits() -> Iterator[None]:
    """Keep no logits inside the block, however few they are."""
    global KEEP_BYTES
    before, KEEP_BYTES = KEEP_BYTES, 0
    try:
        yield
    finally:
        KEEP_BYTES = before


@dataclass(frozen=True, slots=True)
class Logits:
    """What becomes of h W: scale * cap * tanh(h W / cap), or scale * h W without a cap.

    Attributes:
        scale: factor on the logits, the model's own and 1/temperature together.
        cap: soft cap, or None.
    """

    scale: float = 1.0
    cap: float | None = None

    def apply(self, raw: Tensor) -> Tensor:
        """Turn h W^T into logits."""
        if self.cap is not None:
            raw = self.cap * torch.tanh(raw / self.cap)
        return raw * self.scale if self.scale != 1.0 else raw


def token_logp(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    logits: Logits,
    entropy: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Return log softmax(logits)[target] for each row, and the entropy when asked.

    Args:
        hidden: [T, d] states that predict the targets; their dtype is the compute dtype.
        weight: [V, d] the output embedding, in any dtype.
        bias: [V] or None.
        target: [T] token ids.
        logits: the architecture's scale and cap; the temperature belongs in the scale.
        entropy: also return each row's entropy in nats, without gradient.

    Returns:
        logp [T] in fp32, entropy [T] in fp32 or None.
    """
    logp, ent = _TokenLogp.apply(hidden, weight, bias, target, logits, entropy)
    return logp, ent if entropy else None


class _TokenLogp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        logits: Logits,
        entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        w = weight.to(hidden.dtype)
        b = None if bias is None else bias.to(hidden.dtype)
        rows, vocabulary = len(hidden), len(weight)
        bytes_per_row = vocabulary * hidden.element_size()
        learns = any(ctx.needs_input_grad)
        keep = learns and rows * bytes_per_row <= KEEP_BYTES
        step = max(1, rows if keep else CHUNK_BYTES // bytes_per_row)
        logp = torch.empty(rows, device=hidden.device)
        lse = torch.empty(rows, device=hidden.device)
        ent = torch.empty(rows if entropy else 0, device=hidden.device)
        kept: list[Tensor] = []
        for a in range(0, rows, step):
            z = _raw(hidden[a : a + step], w, b)
            for r in _pieces(len(z), vocabulary):
                at = slice(a + r.start, a + r.stop)
                full = logits.apply(z[r].float())
                lse[at] = torch.logsumexp(full, -1)
                logp[at] = full.gather(1, target[at, None])[:, 0] - lse[at]
                if entropy:
                    log_p = full - lse[at, None]
                    ent[at] = -(log_p.exp() * log_p).sum(-1)
            if keep:
                kept.append(z)
        ctx.save_for_backward(hidden, weight, bias, target, lse, *kept)
        ctx.logits, ctx.step = logits, step
        ctx.mark_non_differentiable(ent)
        return logp, ent

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden, weight, bias, target, lse, *kept = ctx.saved_tensors
        logits, step = ctx.logits, ctx.step
        need_h, need_w, need_b = ctx.needs_input_grad[:3]
        w = weight.to(hidden.dtype)
        b = None if bias is None else bias.to(hidden.dtype)
        d_hidden = torch.empty_like(hidden) if need_h else None
        d_weight = torch.zeros(weight.shape, device=weight.device) if need_w else None
        d_bias = None if bias is None or not need_b else torch.zeros(bias.shape, device=bias.device)
        for i, a in enumerate(range(0, len(hidden), step)):
            h = hidden[a : a + step]
            z = kept[i] if kept else _raw(h, w, b)
            for r in _pieces(len(z), len(weight)):
                at = slice(a + r.start, a + r.stop)
                z[r] = _d_raw(z[r], logits, lse[at], target[at], grad[at])
            if d_hidden is not None:
                torch.mm(z, w, out=d_hidden[a : a + step])
            if d_weight is not None:
                d_weight += z.T @ h
            if d_bias is not None:
                d_bias += z.sum(0, dtype=torch.float32)
        return (
            d_hidden,
            None if d_weight is None else d_weight.to(weight.dtype),
            None if d_bias is None or bias is None else d_bias.to(bias.dtype),
            None,
            None,
            None,
        )


def _raw(h: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    return h @ w.T if b is None else torch.addmm(b, h, w.T)


def _pieces(rows: int, vocabulary: int) -> list[slice]:
    step = max(1, CACHE_BYTES // (4 * vocabulary))
    return [slice(r, min(r + step, rows)) for r in range(0, rows, step)]


def _d_raw(z: Tensor, logits: Logits, lse: Tensor, target: Tensor, grad: Tensor) -> Tensor:
    """Slope of sum grad * logp by h W^T: grad * (1[target] - softmax), times inner slopes."""
    raw = z.float()
    slope: Tensor | float = logits.scale
    if logits.cap is not None:
        t = torch.tanh(raw / logits.cap)
        slope = logits.scale * (1 - t * t)
        full = logits.cap * t * logits.scale
    else:
        full = raw.mul_(logits.scale) if logits.scale != 1.0 else raw
    d = full.sub_(lse[:, None]).exp_().mul_(-grad[:, None])
    d[torch.arange(len(d), device=d.device), target] += grad
    return d.mul_(slope) if isinstance(slope, Tensor) or slope != 1.0 else d
