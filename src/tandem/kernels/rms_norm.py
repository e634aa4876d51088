"""RMSNorm on a CPU in a few passes over memory, where transformers takes one an operation.

    y = x r w,  r = (mean x^2 + eps)^(-1/2)          g = dL/dy,  d the width

    dL/dx = r (g w - x r mean(g w x r))              dL/dw = sum g x r

PyTorch has a fused backward pass of LayerNorm, which is the same but for r mean(g w) that it takes
off; that is put back. `benchmarks/norms.py` measures it.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

NORM_TOLERANCE = 1e-5


class RMS(torch.autograd.Function):
    """[..., d] -> [..., d]; weight [d]; all in fp32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Normalise, and keep x and r."""
        rows = x.reshape(-1, x.shape[-1])
        r = torch.linalg.vector_norm(rows, dim=-1, keepdim=True).square_()
        r = r.div_(rows.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(rows, r, weight)
        return (rows * r).mul_(weight).view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor | None, None]:  # type: ignore[override]
        """LayerNorm's, with a mean of 0, and what it takes off put back."""
        x, r, weight = ctx.saved_tensors
        d, rows = x.shape[-1], g.reshape(x.shape)
        wanted = [True, ctx.needs_input_grad[1], False]
        with torch.autocast("cpu", enabled=False):
            dx, dw, _ = torch.ops.aten.native_layer_norm_backward(
                rows, x, [d], torch.zeros_like(r), r, weight, None, wanted
            )
            dx.add_(torch.mv(rows, weight).div_(d).unsqueeze_(-1).mul_(r))
        return dx.view_as(g), dw, None


class _Quick:
    """Mixed into a model's own RMSNorm: the same function, by `RMS` where that is the faster."""

    weight: Tensor
    variance_epsilon: float

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[..., d] -> [..., d]."""
        x = hidden_states
        if x.device.type == "cpu" and x.dtype == self.weight.dtype == torch.float32:
            return RMS.apply(x, self.weight, self.variance_epsilon)  # type: ignore[no-any-return]
        return super().forward(x)  # type: ignore[misc]


def patch_rms_norm(lm: nn.Module) -> None:
    """Let every norm of a model that computes x r w compute it faster; others stay as they are."""
    for module in lm.modules():
        if not isinstance(module, _Quick) and _is_rms(module):
            module.__class__ = _quick(type(module))


@functools.cache
def _quick(own: type[nn.Module]) -> type[nn.Module]:
    return type(own.__name__, (_Quick, own), {"__module__": own.__module__})


@functools.cache
def _takes_one(own: type[nn.Module]) -> bool:
    """True for a forward of one input; a gated norm is given a gate as well."""
    return len(inspect.signature(own.forward).parameters) == 2


def _is_rms(module: nn.Module) -> bool:
    """True for a module that has a weight and an epsilon, and on some numbers computes x r w."""
    weight, eps = getattr(module, "weight", None), getattr(module, "variance_epsilon", None)
    if eps is None or weight is None or weight.dim() != 1 or weight.device.type != "cpu":
        return False
    if weight.dtype != torch.float32 or not _takes_one(type(module)):
        return False
    x = torch.linspace(-2, 3, 3 * len(weight)).sin().view(3, -1)
    with torch.no_grad():
        return torch.allclose(
            module(x), RMS.apply(x, weight, eps), rtol=NORM_TOLERANCE, atol=NORM_TOLERANCE
        )
