"""Frozen weights in 4 bits under trained adapters (QLoRA, arXiv:2305.14314), by bitsandbytes.

    W = absmax * table[code]     16 codes of a normal distribution, one absmax a block of 64 weights

Products unpack a layer's matrix, multiply, and drop it. Embeddings, norms and heads stay as
they are. What is saved is the trained policy as it computes: dequantised weights plus adapters, in
bf16; the base that was quantised is not read again.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tandem.errors import ConfigError
from tandem.machine import Machine
from tandem.models.devices import resolve_precision


def quantisation_of(machine: Machine) -> dict[str, Any]:
    """Return what `from_pretrained` is told for this machine; nothing where it does not quantise.

    Raises:
        ConfigError: bitsandbytes is not installed.
    """
    if machine.quantise == "none":
        return {}
    check_bitsandbytes()
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=machine.quantise,
        bnb_4bit_compute_dtype=resolve_precision(machine),
    )
    return {"quantization_config": config}


def use_one_product(model: nn.Module) -> None:
    """Let packed layers compute alike with and without gradients.

    On a CPU, bitsandbytes packs a weight anew when it is read without gradients, and multiplies in
    bf16 from then on: what is sampled would be another function than what is trained.
    """
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def check_bitsandbytes() -> None:
    """Refuse where bitsandbytes cannot be imported.

    Raises:
        ConfigError: as said.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            "machine.quantise = nf4 without bitsandbytes",
            "it packs the weights, and multiplies with them",
            "pip install 'tandem-rlhf[quantise]', or leave machine.quantise out",
        )


def check_adapters(machine: Machine) -> None:
    """Refuse to train a quantised model without adapters.

    Raises:
        ConfigError: as said.
    """
    if machine.quantise != "none" and machine.lora is None:
        raise ConfigError(
            f"machine.quantise = {machine.quantise} without machine.lora",
            "weights of 4 bits have no gradient; adapters on them do",
            "add machine.lora.rank, for example 16",
        )


def is_quantised(module: nn.Module) -> bool:
    """Return True if a module holds packed weights."""
    return any(hasattr(p, "quant_state") for p in module.parameters())


def unpack_weight(weight: Tensor) -> Tensor:
    """Return a packed weight as a matrix; any other tensor as it is."""
    state = getattr(weight, "quant_state", None)
    if state is None:
        return weight
    from bitsandbytes.functional import (  # type: ignore[reportMissingImports]
        dequantize_4bit,
    )

    return dequantize_4bit(weight.data, state)


def plain_state(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield a module's persistent tensors by name, packed weights as matrices.

    A tensor that two names share comes once, under the first.
    """
    packed = {n: p for n, p in model.named_parameters() if hasattr(p, "quant_state")}
    stored, seen = model.state_dict(), set[int]()
    for name, value in stored.items():
        if any(name.startswith(f"{n}.") for n in packed):
            continue  # blocks' scales and tables
        if value.numel() and value.data_ptr() in seen:
            continue
        seen.add(value.data_ptr())
        yield name, unpack_weight(packed[name]) if name in packed else value


class TrainedPart:
    """The trained parameters of a module, as a state: what a fit over packed weights resumes."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def state_dict(self) -> dict[str, Tensor]:
        """Name -> weights."""
        return {n: p.detach() for n, p in self.module.named_parameters() if p.requires_grad}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take weights of the same names.

        Raises:
            KeyError: a name is missing.
        """
        with torch.no_grad():
            for name, own in self.state_dict().items():
                own.copy_(state[name])
