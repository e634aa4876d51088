"""Rotary embeddings in few passes: the model's own function and gradient."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers.models.cohere.modeling_cohere import CohereAttention
from transformers.models.llama import modeling_llama as llama

from tandem.kernels import rotary
from tiny import close, lm

TURNED = ("llama", "qwen2", "qwen3", "neox", "mistral", "gemma2", "gemma3", "granite")


def angles(batch: int, tokens: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    angle = torch.randn(batch, tokens, width // 2).repeat(1, 1, 2)
    return angle.cos(), angle.sin()


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("heads", "own"), [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_value_and_gradient_are_the_models_own(batch, heads, own, dtype):
    torch.manual_seed(0)
    cos, sin = angles(batch, 5, 12)
    q, k = (torch.randn(batch, 5, h, 12).to(dtype).transpose(1, 2) for h in (heads, own))
    found = []
    for turn in (rotary.RotateHeads.apply, llama.apply_rotary_pos_emb):
        x, y = (z.detach().requires_grad_() for z in (q, k))
        turned = turn(x, y, cos, sin)
        assert {t.dtype for t in turned} == {torch.float32}
        d = torch.autograd.grad(turned, [x, y], [torch.sin(t.detach()) for t in turned])
        assert {t.dtype for t in d} == {dtype}
        found.append([t.detach().float() for t in (*turned, *d)])
    for mine, theirs in zip(*found, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5 if dtype == torch.float32 else 2e-2)


@pytest.mark.parametrize("kind", TURNED)
def test_a_model_says_the_same(kind):
    plain, quick = lm(kind), lm(kind)
    rotary.patch_rotary(quick)
    changed = [m for m in quick.modules() if isinstance(m, rotary._Quick)]
    assert len(changed) == 2, "one a layer"
    ids = torch.randint(3, 41, (2, 9), generator=torch.Generator().manual_seed(0))
    outs = []
    for model in (plain, quick):
        logits = model(input_ids=ids).logits
        logits.square().mean().backward()
        outs.append([logits.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])])
    for theirs, mine in zip(*outs, strict=True):
        close(mine, theirs, 1e-5)


def test_low_precision_stays_low():
    quick, plain = lm("llama").bfloat16(), lm("llama").bfloat16()
    rotary.patch_rotary(quick)
    ids = torch.arange(3, 12)[None]
    assert torch.equal(quick(input_ids=ids).logits, plain(input_ids=ids).logits)


def test_a_model_that_turns_neighbours_is_left_alone():
    """Cohere turns x by pairs of neighbours, not by halves."""
    assert not rotary._turns(CohereAttention)
    assert not rotary._turns(torch.nn.Linear)
    model = lm("gpt2")
    rotary.patch_rotary(model)
    assert not any(isinstance(m, rotary._Quick) for m in model.modules())


def test_it_is_done_once_and_copied():
    model = lm()
    rotary.patch_rotary(model)
    rotary.patch_rotary(model)
    kind = type(model.model.layers[0].self_attn)
    assert kind.__name__ == "LlamaAttention"
    assert kind.__mro__[1:3] == (rotary._Quick, llama.LlamaAttention)
    assert (
        llama.LlamaAttention.forward.__globals__[rotary.ROTARY_FUNCTION]
        is llama.apply_rotary_pos_emb
    )
    other = copy.deepcopy(model)
    assert type(other.model.layers[1].self_attn) is kind
