"""Rotary embeddings of queries and keys in few passes over memory.

    y = (x1 cos - x2 sin, x2 cos + x1 sin),  x1 and x2 the halves of x        dL/dx: the same, -sin

transformers writes it as x cos + turn(x) sin, an operation each for turning, joining, multiplying
and adding; and again in the backward pass. A model's attention calls it by a name of its module;
attention that reads that name gets `RotateHeads` under it, if the two agree. Angles in low
precision, or of a part of the width, are left to the model's own function: a model in bf16 stays
in bf16.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Rotary = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
ROTARY_FUNCTION = "apply_rotary_pos_emb"
ROTARY_TOLERANCE = 1e-5


class RotateHeads(torch.autograd.Function):
    """q [B, H, S, D], k [B, H', S, D], cos and sin [B, S, D] of two like halves -> q, k in fp32."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """Turn both by the angles of their positions."""
        half = sin.shape[-1] // 2
        sin = torch.cat([-sin[..., :half], sin[..., half:]], -1).unsqueeze_(2)
        cos = cos.unsqueeze(2)
        ctx.save_for_backward(cos, sin)
        ctx.dtypes = q.dtype, k.dtype
        return _turned(q, cos, sin), _turned(k, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dq: Tensor, dk: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Turn back."""
        cos, sin = ctx.saved_tensors
        back = (_turned(d, cos, -sin).to(x) for d, x in zip((dq, dk), ctx.dtypes, strict=True))
        return *back, None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [B, H, S, D], cos and signed sin [B, S, 1, D]; laid out token by token."""
    half = x.shape[-1] // 2
    with torch.autocast(x.device.type, enabled=False):
        x = x.transpose(1, 2).float()
        y = x * cos
        y[..., :half].addcmul_(x[..., half:], sin[..., :half])
        y[..., half:].addcmul_(x[..., :half], sin[..., half:])
    return y.transpose(1, 2)


def rotate_heads(
    own: Callable[..., tuple[Tensor, Tensor]],
    q: Tensor,
    k: Tensor,
    cos: Tensor,
    sin: Tensor,
    *args: Any,
    **more: Any,
) -> tuple[Tensor, Tensor]:
    """Turn queries and keys by their positions' angles, by the model's own function if need be."""
    whole = cos.shape[-1] == q.shape[-1] and not args and not more
    if not whole or cos.dtype != torch.float32 or q.device.type != "cpu":
        return own(q, k, cos, sin, *args, **more)
    return RotateHeads.apply(q, k, cos, sin)  # type: ignore[no-any-return]


def patch_rotary(lm: nn.Module) -> None:
    """Let every attention of a model turn by `RotateHeads` where that is what it computes."""
    for module in lm.modules():
        own = type(module)
        if not isinstance(module, _Quick) and _turns(own):
            module.__class__ = _quick(own)


class _Quick:
    """Mixed into a model's own attention."""


@functools.cache
def _quick(own: type[nn.Module]) -> type[nn.Module]:
    """Return the class with its own forward, in which the name means `turn`."""
    old: Any = own.forward
    names = {
        **old.__globals__,
        ROTARY_FUNCTION: functools.partial(rotate_heads, old.__globals__[ROTARY_FUNCTION]),
    }
    new = types.FunctionType(old.__code__, names, old.__name__, old.__defaults__, old.__closure__)
    new.__kwdefaults__ = old.__kwdefaults__
    fields = {"__module__": own.__module__, "forward": new}
    return type(own.__name__, (_Quick, own), fields)


@functools.cache
def _turns(own: type[nn.Module]) -> bool:
    """True for a class whose forward calls, by the name, something that `turn` agrees with."""
    old: Any = own.forward
    if not isinstance(old, types.FunctionType) or ROTARY_FUNCTION not in old.__code__.co_names:
        return False
    theirs = old.__globals__.get(ROTARY_FUNCTION)
    if not callable(theirs):
        return False
    draw = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, heads, 3, 8, generator=draw) for heads in (4, 2))
    angle = torch.randn(2, 3, 4, generator=draw).repeat(1, 1, 2)
    try:
        found = (f(q, k, angle.cos(), angle.sin()) for f in (theirs, RotateHeads.apply))
        pairs = zip(*found, strict=True)
        return all(
            torch.allclose(a, b, rtol=ROTARY_TOLERANCE, atol=ROTARY_TOLERANCE) for a, b in pairs
        )
    except (TypeError, ValueError, RuntimeError):
        return False
