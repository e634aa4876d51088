"""Inputs of linear layers in the compute dtype, cast once for all layers that read them.

Under autocast every linear layer casts its own input. Queries, keys and values read one tensor,
gate and up another, and each adapter the input of its layer once more: seven layers keep eleven
copies for the backward pass, where four tensors are different. Here those that read one tensor
share one copy. Gradients are still added in the input's dtype, so no number changes.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

COPY = "_tandem_low_copy"
"""Where a tensor holds its copy, as (version, copy); it goes with the tensor."""


class SharedCast(torch.autograd.Function):
    """x in its own dtype, and its copy in a lower one -> the copy, with x's gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: Tensor) -> Tensor:
        """Return the copy; nothing is kept."""
        ctx.dtype = x.dtype
        return low.view_as(low)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        """Cast the gradient back."""
        return g.to(ctx.dtype), None


def cast_once(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return x in a lower dtype: the copy that another layer made, where it is still x's."""
    version, low = getattr(x, COPY, (None, None))
    if low is None or version != x._version or low.dtype != dtype:
        low = x.detach().to(dtype)
        setattr(x, COPY, (x._version, low))
    return SharedCast.apply(x, low) if x.requires_grad else low  # type: ignore[return-value]


class _Quick:
    """Mixed into a linear layer of a model."""

    def forward(self, input: Tensor) -> Tensor:
        """[..., d] -> [..., d']."""
        kind = input.device.type
        if (
            input.dtype == torch.float32
            and torch.is_grad_enabled()
            and not torch.is_inference_mode_enabled()
            and torch.is_autocast_enabled(kind)
        ):
            input = cast_once(input, torch.get_autocast_dtype(kind))
        return super().forward(input)  # type: ignore[misc]


def patch_linear(lm: nn.Module) -> None:
    """Let the linear layers of a model share the copies of their inputs.

    An adapter of PEFT casts what it reads to the dtype of its weights, which autocast then undoes:
    under autocast it takes its input as it is.
    """
    for module in lm.modules():
        if type(module) is nn.Linear:
            module.__class__ = _quick(nn.Linear)  # type: ignore[assignment]
        if hasattr(module, "lora_A"):
            module.cast_input_dtype_enabled = False  # type: ignore[assignment]


@functools.cache
def _quick(own: type[nn.Module]) -> type[nn.Module]:
    return type(own.__name__, (_Quick, own), {"__module__": own.__module__})
