"""A model in another precision is the same function, also far from its beginning."""

from __future__ import annotations

import copy

import pytest
import torch

from tandem.machine import Machine
from tandem.models.devices import cast_model, resolve_device
from tiny import lm

FAR = 200


@pytest.mark.parametrize("kind", ["llama", "qwen3", "neox", "gemma3"])
def test_rotary_frequencies_are_not_rounded(kind: str):
    model = lm(kind)
    low = cast_model(copy.deepcopy(model), torch.bfloat16)
    known = dict(model.named_buffers())
    exact = [name for name in known if name.endswith("inv_freq")]
    assert exact
    for name, buffer in low.named_buffers():
        if name in exact:
            assert torch.equal(buffer, known[name])
    assert {p.dtype for p in low.parameters()} == {torch.bfloat16}


def test_far_tokens_are_read_as_they_were_trained():
    """In fp32 with the same rounded weights, only the frequencies could differ: they do not."""
    model = lm("llama")
    low = cast_model(copy.deepcopy(model), torch.bfloat16)
    with torch.no_grad():
        for own, rounded in zip(model.parameters(), low.parameters(), strict=True):
            own.copy_(rounded)
        ids = torch.arange(FAR)[None] % 20 + 3
        again = cast_model(low, torch.float32)
        assert torch.equal(model(input_ids=ids).logits, again(input_ids=ids).logits)
        plain = copy.deepcopy(model).to(torch.bfloat16).to(torch.float32)
        assert not torch.allclose(
            model(input_ids=ids).logits, plain(input_ids=ids).logits, atol=1e-4
        )


def test_each_process_takes_the_gpu_of_its_number(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert resolve_device(Machine(device="cuda")) == torch.device("cuda", 2)
    assert resolve_device(Machine(device="cuda:1")) == torch.device("cuda", 1)
    assert resolve_device(Machine(device="cpu")) == torch.device("cpu")
