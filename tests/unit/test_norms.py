"""RMSNorm in few passes: the model's own function and gradient, and nobody else's norm touched."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from tandem.kernels.rms_norm import RMS, patch_rms_norm


def made(kind: type[torch.nn.Module], width: int = 48) -> torch.nn.Module:
    norm = kind(width, 1e-5)
    with torch.no_grad():
        norm.weight.copy_(torch.rand(width) + 0.5)
    return norm


def read(norm: torch.nn.Module, x: torch.Tensor, g: torch.Tensor) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    norm.weight.grad = None
    y = norm(x)
    y.backward(g)
    return [y.detach(), x.grad, norm.weight.grad]


@pytest.mark.parametrize("kind", [LlamaRMSNorm, Qwen3RMSNorm])
@pytest.mark.parametrize("shape", [(1, 7, 48), (3, 48), (2, 5, 4, 48)])
@pytest.mark.parametrize("scale", [1.0, 1e-3, 100.0])
def test_value_and_gradient_are_the_models_own(kind, shape, scale):
    torch.manual_seed(0)
    norm = made(kind)
    x, g = scale * torch.randn(shape), torch.randn(shape)
    own = read(norm, x, g)
    patch_rms_norm(norm)
    for mine, theirs in zip(read(norm, x, g), own, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))


def test_a_row_of_zeros_is_left_at_zero():
    norm = made(LlamaRMSNorm)
    patch_rms_norm(norm)
    y, dx, _ = read(norm, torch.zeros(1, 48), torch.ones(1, 48))
    assert y.abs().max() == 0
    assert torch.isfinite(dx).all()


def test_columns_that_do_not_lie_together_are_read_right():
    norm = made(LlamaRMSNorm)
    x, g = torch.randn(48, 6).T, torch.randn(48, 6).T
    own = read(norm, x, g)
    patch_rms_norm(norm)
    for mine, theirs in zip(read(norm, x, g), own, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)


def test_under_autocast_it_stays_in_fp32():
    norm = made(LlamaRMSNorm)
    patch_rms_norm(norm)
    x = torch.randn(2, 3, 48)
    want = read(norm, x, torch.ones(2, 3, 48))
    x = x.requires_grad_()
    norm.weight.grad = None
    with torch.autocast("cpu", torch.bfloat16):
        y = norm(x)
        y.backward(torch.ones_like(y))
    for mine, theirs in zip((y, x.grad, norm.weight.grad), want, strict=True):
        assert mine.dtype == torch.float32
        assert torch.equal(mine, theirs)


def test_other_norms_and_low_precision_are_left_to_the_model():
    for norm in (made(GemmaRMSNorm), torch.nn.LayerNorm(48), made(LlamaRMSNorm).bfloat16()):
        before = type(norm)
        patch_rms_norm(norm)
        assert type(norm) is before
    norm = made(LlamaRMSNorm)
    x = torch.randn(2, 48, dtype=torch.bfloat16)
    own = norm(x)
    patch_rms_norm(norm)
    assert torch.equal(norm(x), own)


def test_a_copy_is_a_norm_of_its_own():
    norm = made(LlamaRMSNorm)
    patch_rms_norm(norm)
    patch_rms_norm(norm)  # twice is once
    other = copy.deepcopy(norm)
    with torch.no_grad():
        other.weight.zero_()
    x = torch.randn(2, 48)
    assert other(x).abs().max() == 0
    assert norm(x).abs().max() > 0
    assert type(norm).__name__ == "LlamaRMSNorm"
    assert isinstance(norm, LlamaRMSNorm)
    assert norm.state_dict().keys() == LlamaRMSNorm(48).state_dict().keys()


def test_frozen_weights_get_no_gradient():
    x = torch.randn(2, 48, requires_grad=True)
    weight = torch.ones(48)
    RMS.apply(x, weight, 1e-6).sum().backward()
    assert weight.grad is None
    assert x.grad is not None
