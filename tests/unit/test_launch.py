"""What was asked of a launch is what runs, or it is refused before anything was made."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tandem.errors import ConfigError
from tandem.machine import Machine
from tandem.models.sharded_weights import collect_state, find_layers, spread_tensor, whole_weights
from tandem.training.distributed import ASKED, check_launch, start_accelerator
from tiny import lm

CPU = Machine(device="cpu", precision="fp32")


@pytest.mark.parametrize("variable", ASKED)
def test_an_engine_that_would_give_way_in_silence_is_refused(
    variable: str, monkeypatch: pytest.MonkeyPatch
):
    """`accelerate launch --use_fsdp` and `--use_deepspeed` set these; the advice is FSDP2."""
    monkeypatch.setenv(variable, "true")
    with pytest.raises(ConfigError, match=variable) as refused:
        start_accelerator(CPU)
    assert "--machine.sharding fsdp2" in str(refused.value)


def test_processes_that_do_not_find_each_other_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="started 2 processes, and 1 work together"):
        check_launch(CPU, 1)


def test_sharding_in_one_process_is_refused():
    with pytest.raises(ConfigError, match="fsdp2 in one process"):
        check_launch(Machine(device="cpu", sharding="fsdp2"), 1)
    check_launch(CPU, 1)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2", "neox", "gemma3", "mamba"])
def test_layers_are_found_and_none_lies_in_another(kind: str):
    layers = find_layers(lm(kind))
    assert len(layers) == 2
    assert len({type(layer) for layer in layers}) == 1
    held = sum(p.numel() for layer in layers for p in layer.parameters())
    assert held > 0


def test_whole_weights_leaves_an_ordinary_module_alone():
    module = nn.Linear(3, 3)
    with whole_weights(module):
        assert type(module) is nn.Linear
    state = {"a": [torch.ones(2), 3], "b": ("x", None)}
    assert collect_state(state, keep=True) == state
    assert spread_tensor(state["a"][0], torch.ones(2)) is state["a"][0]
