"""Inputs of linear layers are cast once: fewer bytes are kept, and no number changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers as hf
from torch import nn

from tandem.kernels.linear_inputs import cast_once, patch_linear
from tandem.machine import Lora
from tandem.models.lora import add_adapters
from tandem.rng import Seed


def model(lora: Lora | None) -> nn.Module:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    config = hf.LlamaConfig(vocab_size=50, num_hidden_layers=2, **shape)
    return add_adapters(hf.LlamaForCausalLM(config), lora, Seed(1)).train()


def gradients_and_bytes(lm: nn.Module) -> tuple[torch.Tensor, int]:
    seen: dict[int, torch.UntypedStorage] = {}

    def note(x: torch.Tensor) -> torch.Tensor:
        seen[x.untyped_storage().data_ptr()] = x.untyped_storage()
        return x.detach()

    ids = torch.arange(40)[None]
    hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda x: x)
    with torch.autocast("cpu", torch.bfloat16), hooks:
        lm(input_ids=ids, use_cache=False).logits.float().square().sum().backward()
    found = [p.grad.flatten() for p in lm.parameters() if p.grad is not None]
    return torch.cat(found), sum(x.nbytes() for x in seen.values())


@pytest.mark.parametrize("lora", [None, Lora(rank=2)])
def test_shared_copies_give_the_same_gradients_in_less_memory(lora: Lora | None):
    whole, whole_bytes = gradients_and_bytes(model(lora))
    lm = model(lora)
    patch_linear(lm)
    shared, shared_bytes = gradients_and_bytes(lm)
    assert torch.equal(whole, shared)
    # q, k, v share one copy and gate, up another: 3 x 40 x 32 numbers of 2 bytes in each layer
    assert whole_bytes - shared_bytes >= 2 * 3 * 40 * 32 * 2


def test_a_changed_tensor_is_cast_again():
    x = torch.ones(3)
    assert cast_once(x, torch.bfloat16) is cast_once(x, torch.bfloat16)
    first = cast_once(x, torch.bfloat16).clone()
    x.mul_(2)
    assert not torch.equal(first, cast_once(x, torch.bfloat16))


def test_layers_stay_linear_layers(tmp_path: Path):
    """Adapters look for them by class, and a saved folder has the same names."""
    lm = model(None)
    names = set(lm.state_dict())
    patch_linear(lm)
    layers = [m for m in lm.modules() if isinstance(m, nn.Linear)]
    assert len(layers) == 2 * 7 + 1
    assert set(lm.state_dict()) == names
