"""Attention within groups only, for any transformers model that takes an attention function.

Every prompt is attended once and every completion behind its prompt (see `layout`). A window or
a soft cap is applied as the model's own layers ask for it. Registered with transformers as the
attention implementation `tandem`; without a plan it is the stock implementation.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tandem.layout import Plan

IMPLEMENTATION = "tandem"


def attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    segments: Plan | None = None,
    **kwargs: object,
) -> tuple[Tensor, Tensor | None]:
    """Attend within groups when a plan is given, else as the stock implementation does.

    Args:
        query: [1, H, S, D]; key and value: [1, H', S, D] with H' dividing H.
        segments: the plan that `packing` made for this row.

    Returns:
        [1, S, H, D], None.
    """
    if segments is None:
        return _stock(
            module,
            query,
            key,
            value,
            attention_mask,
            dropout,
            scaling,
            softcap,
            sliding_window,
            kwargs,
        )
    heads, width = query.shape[1], query.shape[3]
    q, k, v = (x[0].transpose(0, 1).reshape(x.shape[2], -1) for x in (query, key, value))
    outputs: list[Tensor] = []
    for b, block in enumerate(segments.blocks):
        q_b = _gather(q, block.queries, width)
        k_b, v_b = _gather(k, block.keys, width), _gather(v, block.keys, width)
        if k_b.shape[1] != heads:
            k_b, v_b = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (k_b, v_b))
        mask = segments.mask(b, sliding_window, q_b.dtype)
        causal = block.causal and mask is None
        if softcap is None:
            y = F.scaled_dot_product_attention(
                q_b, k_b, v_b, mask, dropout, is_causal=causal, scale=scaling
            )
        else:
            y = _soft_capped(q_b, k_b, v_b, mask, causal, dropout, scaling, softcap)
        outputs.append(y.transpose(1, 2).reshape(-1, y.shape[1] * y.shape[3]))
    stacked = torch.cat(outputs) if len(outputs) > 1 else outputs[0]
    out = stacked.index_select(0, segments.back)
    return out.view(1, out.shape[0], heads, -1), None


def _gather(x: Tensor, index: Tensor, width: int) -> Tensor:
    rows = x.index_select(0, index.reshape(-1))
    return rows.view(*index.shape, -1, width).transpose(1, 2)


def _soft_capped(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    causal: bool,
    dropout: float,
    scaling: float | None,
    softcap: float,
) -> Tensor:
    scores = (q @ k.transpose(2, 3)) * (q.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = softcap * torch.tanh(scores / softcap)
    if causal:
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
        scores = scores.masked_fill(~seen, torch.finfo(scores.dtype).min)
    if mask is not None:
        scores = scores + mask
    return F.dropout(scores.softmax(-1, dtype=torch.float32).to(q.dtype), dropout) @ v


def _stock(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout: float,
    scaling: float | None,
    softcap: float | None,
    window: int | None,
    rest: dict[str, object],
) -> tuple[Tensor, Tensor | None]:
    """The stock implementation; a soft cap, which it lacks, is computed by hand."""
    if softcap is None:
        return sdpa_attention_forward(
            module,
            query,
            key,
            value,
            mask,
            dropout=dropout,
            scaling=scaling,
            sliding_window=window,
            **rest,  # type: ignore[arg-type]
        )
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    if mask is not None and mask.dtype == torch.bool:
        lowest = torch.finfo(query.dtype).min
        mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, lowest)
    causal = mask is None and query.shape[2] > 1
    out = _soft_capped(query, key, value, mask, causal, dropout, scaling, softcap)
    return out.transpose(1, 2).contiguous(), None


ALL_ATTENTION_FUNCTIONS.register(IMPLEMENTATION, attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(IMPLEMENTATION, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
