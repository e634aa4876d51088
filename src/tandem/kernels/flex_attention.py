"""The layout's attention as one FlexAttention call: what a GPU has in place of blocks.

    token i sees token j  <=>  j is of i's segment or of its prompt's,
                               and 0 <= position_i - position_j < window

Blocks (`batching.attention_plan`) gather a row's tokens into dense pieces, which a CPU multiplies
best. PyTorch's FlexAttention compiles the sentence above into one kernel that reads the row as it
lies and skips tiles in which it is nowhere true. On a CPU it is slow, and gradients are those of
its definition: enough for tests to hold the rule against blocks. On a GPU it was not run yet, for
want of one: `machine.compiled` asks for it, and the probe at load compares log-probabilities with
the model's own before it is trusted.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from tandem.batching.attention_plan import AttentionPlan

COMPILED_DEVICES = {"cuda"}
"""Kinds of devices for which the call is compiled."""
VARIANTS = {"recompile_limit": 64, "fail_on_recompile_limit_hit": True}
"""Heads, widths, dtypes and gradients each compile anew; PyTorch gives up after 8 in silence."""
Rule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Batch, head, query and key, as numbers, to whether the query sees the key."""


def flexible_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    plan: AttentionPlan,
    scale: float,
    softcap: float | None,
    window: int | None,
) -> Tensor:
    """Attend within groups: q [H, S, D], k and v [H', S, D] -> [A, H D], A tokens that ask."""
    if plan.asking is not None:
        q = q.index_select(1, plan.asking)
    if q.device.type == "cpu" and torch.is_grad_enabled():
        return _plainly(q, k, v, _sees(plan, window), scale, softcap)
    cap = None if softcap is None else torch.full((), softcap, device=q.device)
    with torch._dynamo.config.patch(VARIANTS):
        out = _attend(q.device.type in COMPILED_DEVICES)(
            q[None],
            k[None],
            v[None],
            score_mod=None if cap is None else lambda score, *_: _capped(cap, score),
            block_mask=_mask(plan, window),
            scale=scale,
            enable_gqa=len(q) != len(k),
        )
    return out[0].transpose(0, 1).flatten(1)


def _plainly(
    q: Tensor, k: Tensor, v: Tensor, sees: Rule, scale: float, softcap: float | None
) -> Tensor:
    """The definition, for gradients on a CPU, which FlexAttention does not have."""
    k, v = (x.repeat_interleave(len(q) // len(x), 0) for x in (k, v))
    score = (q * scale) @ k.transpose(1, 2)
    score = score if softcap is None else _capped(softcap, score)
    i, j = torch.arange(q.shape[1])[:, None], torch.arange(k.shape[1])
    seen = sees(i, i, i, j)
    p = score.masked_fill(~seen, -torch.inf).softmax(-1)
    return (p @ v).transpose(0, 1).flatten(1)


def _mask(plan: AttentionPlan, window: int | None) -> BlockMask:
    """Which tiles of [A, S] hold anything; made once for all layers."""
    if window not in plan.tiles:
        plan.tiles[window] = _tiles(plan.back.device.type in COMPILED_DEVICES)(
            _sees(plan, window),
            B=None,
            H=None,
            Q_LEN=len(plan.back),
            KV_LEN=len(plan.row.positions),
            device=plan.back.device,
        )
    return plan.tiles[window]


def _sees(plan: AttentionPlan, window: int | None) -> Rule:
    """The sentence of the module's head, of indices among those that ask and among all."""
    sizes = [len(span) for span in plan.row.spans]
    prompt = [n if parent < 0 else parent for n, parent in enumerate(plan.row.parent)]
    segment, before, position = (
        torch.from_numpy(np.asarray(x, np.int64)).to(plan.back.device)
        for x in (np.repeat(range(len(sizes)), sizes), np.repeat(prompt, sizes), plan.row.positions)
    )
    own, near, now = (
        x if plan.asking is None else x[plan.asking] for x in (segment, before, position)
    )

    far = len(position) if window is None else window
    # filled there: a number would be compiled in, and a copy would wait for the device
    limit = torch.full((), far, device=position.device)

    def sees(_: Tensor, __: Tensor, i: Tensor, j: Tensor) -> Tensor:
        behind = now[i] - position[j]
        known = (segment[j] == own[i]) | (segment[j] == near[i])
        return known & (behind >= 0) & (behind < limit)

    return sees


def _capped(cap: float | Tensor, score: Tensor) -> Tensor:
    return cap * torch.tanh(score / cap)


@functools.cache
def _attend(compiled: bool) -> Callable[..., Any]:
    """FlexAttention: compiled once for rows of any length, or run as it is written."""
    return torch.compile(flex_attention, dynamic=True) if compiled else _interpreted


@functools.cache
def _tiles(compiled: bool) -> Callable[..., BlockMask]:
    return torch.compile(create_block_mask, dynamic=True) if compiled else create_block_mask


def _interpreted(*args: Any, **kwargs: Any) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
        return flex_attention(*args, **kwargs)
