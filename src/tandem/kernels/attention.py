"""Attention within groups only, for any transformers model that takes an attention function.

Every prompt is attended once, every completion behind its prompt (`attention_plan`). A window or
a soft cap is applied as the model's own layers ask for it. Registered with transformers as the
attention implementation `tandem`; without a plan it is the stock implementation.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tandem.batching.attention_plan import AttentionPlan
from tandem.kernels.cpu_attention import BlockedAttention
from tandem.kernels.flex_attention import flexible_attention

IMPLEMENTATION = "tandem"
COMPILED = "tandem-compiled"
"""The same by FlexAttention, in place of blocks."""
LONGEST = 640
"""Up to this many keys a CPU in bf16 attends by `cpu_attention`, which keeps every probability."""


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    segments: AttentionPlan | None = None,
    compiled: bool = False,
    **kwargs: object,
) -> tuple[Tensor, Tensor | None]:
    """Attend within groups when a plan is given, else as the stock implementation does.

    Args:
        query: [1, H, S, D]; key and value: [1, H', S, D] with H' dividing H.
        segments: the plan that `packing` made for this row, or for the last layer's tokens.
        compiled: attend in one call of FlexAttention.

    Returns:
        [1, S, H, D], None; zero for a token that does not ask.
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
    tokens, width = query.shape[2:]
    scale = width**-0.5 if scaling is None else scaling
    low = _compute_dtype(query)
    segments.windows.add(sliding_window)
    # the batch dimension is 1 and goes; three ways to attend give [A, H D] for the tokens that ask
    if compiled and not dropout:
        q, k, v = (x[0].to(low) for x in (query, key, value))
        out = flexible_attention(q, k, v, segments, scale, softcap, sliding_window)
    elif _short(query, low, segments) and softcap is None and not dropout:
        q, k, v = query[0], key[0], value[0]
        out = BlockedAttention.apply(q, k, v, segments, scale, sliding_window, low)
    else:
        q, k, v = (x[0].transpose(0, 1).to(low) for x in (query, key, value))
        out = attend_in_blocks(q, k, v, segments, dropout, scale, softcap, sliding_window)
    # back to all tokens of the row; those that do not ask get zeros
    if segments.asking is not None:
        out = out.new_zeros(tokens, out.shape[1]).index_copy(0, segments.asking, out)
    return out.view(1, tokens, -1, width), None


def attend_in_blocks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    segments: AttentionPlan,
    dropout: float,
    scale: float,
    softcap: float | None,
    window: int | None,
) -> Tensor:
    """q [S, H, D], k and v [S, H', D] -> [A, H D]: gathered by autograd, attended by PyTorch."""
    heads, width = q.shape[1:]
    of_q = [block.queries.shape for block in segments.blocks]
    of_k = [block.keys.shape for block in segments.blocks]
    blocks = zip(
        _blocks(q, segments.queries, of_q),
        _blocks(k, segments.keys, of_k),
        _blocks(v, segments.keys, of_k),
        strict=True,
    )
    outputs: list[Tensor] = []
    for b, (q_b, k_b, v_b) in enumerate(blocks):
        # grouped-query attention: every query head gets a copy of its key head
        if k_b.shape[1] != heads:
            k_b, v_b = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (k_b, v_b))
        if softcap is not None:
            mask = segments.mask(b, window, q_b.dtype, always=True)
            y = _explicit(q_b, k_b, v_b, mask, dropout, scale, softcap)
        else:
            mask = segments.mask(b, window, q_b.dtype)
            y = F.scaled_dot_product_attention(
                q_b, k_b, v_b, mask, dropout, is_causal=mask is None, scale=scale
            )
        outputs.append(y.transpose(1, 2).reshape(-1, heads * width))
    # blocks come in the plan's order, padding included: `back` picks each token's own place
    stacked = torch.cat(outputs) if len(outputs) > 1 else outputs[0]
    return stacked.index_select(0, segments.back)


def _blocks(x: Tensor, index: Tensor, shapes: list[torch.Size]) -> list[Tensor]:
    """Gather the rows of all blocks at once (one gradient sum); cut into [B, H, Q, D] each."""
    heads, width = x.shape[1:]
    parts = x.reshape(len(x), -1).index_select(0, index).split([shape.numel() for shape in shapes])
    return [
        part.view(*shape, heads, width).transpose(1, 2)
        for part, shape in zip(parts, shapes, strict=True)
    ]


def _compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which autocast would attend; rotary embeddings leave queries in fp32."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _short(query: Tensor, low: torch.dtype, plan: AttentionPlan) -> bool:
    """True where plain products beat the fused kernel: short rows in bf16 on a CPU."""
    longest = max((block.keys.shape[1] for block in plan.blocks), default=0)
    return query.device.type == "cpu" and low == torch.bfloat16 and longest <= LONGEST


def _explicit(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    dropout: float,
    scale: float,
    softcap: float,
) -> Tensor:
    """Attend with softcap * tanh(scores / softcap), which no fused kernel of PyTorch computes."""
    scores = softcap * torch.tanh((q * scale) @ k.transpose(2, 3) / softcap)
    if mask is not None:
        scores = scores + mask
    return F.dropout(scores.softmax(-1), dropout) @ v


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
    # by hand: grouped heads are copied, the mask becomes additive, causal where there is none
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    if mask is not None and mask.dtype == torch.bool:
        mask = _additive(mask, query.dtype)
    if mask is None and query.shape[2] > 1:
        seen = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device)
        mask = _additive(seen.tril(key.shape[2] - query.shape[2]), query.dtype)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out = _explicit(query, key, value, mask, dropout, scale, softcap)
    return out.transpose(1, 2).contiguous(), None


def _additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where a key is seen, the lowest number elsewhere."""
    return torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)


ALL_ATTENTION_FUNCTIONS.register(IMPLEMENTATION, packed_attention)
ALL_ATTENTION_FUNCTIONS.register(COMPILED, functools.partial(packed_attention, compiled=True))
ALL_MASK_ATTENTION_FUNCTIONS.register(IMPLEMENTATION, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
ALL_MASK_ATTENTION_FUNCTIONS.register(COMPILED, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
