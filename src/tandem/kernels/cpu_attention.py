"""Attention by plain matrix products on a CPU, with its gradient written out.

    P = softmax(scale Q K' + mask)      O = P V
    dV = P' dO      dS = P (dO V' - rowsum(P dO V'))      dQ = scale dS K      dK = scale dS' Q

Blocks of a plan are gathered, multiplied and put back within one function: autograd would copy
more, and give every gather a gradient of the whole row. The softmax is taken in fp32, which is
the faster kernel on a CPU. `benchmarks/attention.py` measures it.

Shapes: S tokens of the row, A that ask, H heads, D head width; a block has B pieces, Q queries, K
keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tandem.batching.attention_plan import AttentionPlan, PlanBlock

SCORES = 1 << 24
"""Scores that are held in fp32 at once: 64 MB."""


class BlockedAttention(torch.autograd.Function):
    """q [H, S, D], k and v [H', S, D] with H' dividing H -> [A, H D], in `dtype`."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        plan: AttentionPlan,
        scale: float,
        window: int | None,
        dtype: torch.dtype,
    ) -> Tensor:
        """Attend block by block; Q, K, V and P of every block are kept."""
        heads, tokens, width = q.shape
        ctx.plan, ctx.scale, ctx.tokens = plan, scale, tokens
        ctx.like = [(len(x), x.dtype) for x in (q, k, v)]
        q = (q * scale).to(dtype).contiguous()
        k, v = (_all_heads(x, heads, dtype) for x in (k, v))
        out = q.new_empty(len(plan.queries), heads * width)
        kept: list[Tensor] = []
        for b, (block, asked, _) in enumerate(_places(plan)):
            Q, K, V = _take(q, block.queries), _take(k, block.keys), _take(v, block.keys)
            mask = plan.mask(b, window, torch.float32, always=True)
            P = _softmax(Q, K, mask)
            _put(P @ V, out[asked], block.queries.shape)
            kept += [Q, K, V, P]
        ctx.save_for_backward(*kept)
        return out.index_select(0, plan.back)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Go through the blocks again: a padded query has no gradient, a key adds up its own."""
        plan, kept = ctx.plan, ctx.saved_tensors
        queries, keys, width = len(plan.queries), len(plan.keys), g.shape[1]
        dO = g.new_zeros(queries, width, dtype=kept[0].dtype)
        dO.index_copy_(0, plan.back, g.to(dO.dtype))
        dq = g.new_empty(queries, width, dtype=torch.float32)
        dk, dv = (g.new_empty(keys, width, dtype=torch.float32) for _ in range(2))
        for b, (block, asked, there) in enumerate(_places(plan)):
            Q, K, V, P = kept[4 * b : 4 * b + 4]
            dO_b = _cut(dO[asked], Q, block.queries.shape)
            dS = torch.ops.aten._softmax_backward_data(dO_b @ V.mT, P, -1, P.dtype)
            _put(dS @ K, dq[asked], block.queries.shape)
            _put(dS.mT @ Q, dk[there], block.keys.shape)
            _put(P.mT @ dO_b, dv[there], block.keys.shape)
        dq = dq.index_select(0, plan.back).mul_(ctx.scale)
        if plan.asking is not None:
            dq = dq.new_zeros(ctx.tokens, width).index_copy_(0, plan.asking, dq)
        dk, dv = (x.new_zeros(ctx.tokens, width).index_add_(0, plan.keys, x) for x in (dk, dv))
        heads = ctx.like[0][0]
        d = (_own_heads(x, heads, *like) for x, like in zip((dq, dk, dv), ctx.like, strict=True))
        return *d, None, None, None, None


def _places(plan: AttentionPlan) -> Iterator[tuple[PlanBlock, slice, slice]]:
    """Yield each block with where its queries and its keys lie in the plan's."""
    q = k = 0
    for block in plan.blocks:
        asked, there = slice(q, q + block.queries.numel()), slice(k, k + block.keys.numel())
        yield block, asked, there
        q, k = asked.stop, there.stop


def _all_heads(x: Tensor, heads: int, dtype: torch.dtype) -> Tensor:
    """[H', S, D] -> [H, S, D]: a head for each of the queries'."""
    x = x.to(dtype).contiguous()
    return x if len(x) == heads else x.repeat_interleave(heads // len(x), dim=0)


def _own_heads(d: Tensor, heads: int, own: int, dtype: torch.dtype) -> Tensor:
    """[S, H D] -> [H', S, D], summed over the heads that shared one."""
    d = d.view(len(d), own, heads // own, -1)
    return (d[:, :, 0] if own == heads else d.sum(2)).transpose(0, 1).to(dtype)


def _take(x: Tensor, index: Tensor) -> Tensor:
    """[H, S, D] by [B, n] -> [H B, n, D]."""
    return x.index_select(1, index.flatten()).view(-1, index.shape[1], x.shape[2])


def _put(y: Tensor, out: Tensor, shape: torch.Size) -> None:
    """Write [H B, n, D] as [B n, H D]."""
    pieces, n = shape
    y = y.view(-1, pieces, n, y.shape[2]).permute(1, 2, 0, 3)
    out.view(y.shape).copy_(y)


def _cut(rows: Tensor, like: Tensor, shape: torch.Size) -> Tensor:
    """[B Q, H D] -> [H B, Q, D]."""
    pieces, n = shape
    return rows.view(pieces, n, -1, like.shape[2]).permute(2, 0, 1, 3).reshape(like.shape)


def _softmax(Q: Tensor, K: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(Q K' + mask) [H B, Q, K] with a mask [B, 1, Q, K]; in fp32, some heads at a time."""
    assert mask is not None
    P = Q.new_empty(len(Q), Q.shape[1], K.shape[1])
    step = len(mask) * max(1, SCORES // mask.numel())
    for rows in (slice(a, a + step) for a in range(0, len(Q), step)):
        scores = (Q[rows] @ K[rows].mT).float()
        scores.view(-1, len(mask), *P.shape[1:]).add_(mask.transpose(0, 1))
        P[rows] = scores.softmax(-1)
    return P
