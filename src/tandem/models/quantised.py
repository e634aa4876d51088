"""Frozen weights in 4 bits under trained adapters (QLoRA, arXiv:2305.14314), by bitsandbytes.

    W = absmax * table[code]     16 codes of a normal distribution, one absmax a block of 64 weights

A product unpacks its matrix, multiplies in the dtype of the moment (autocast's, else the input's),
and drops it. Embeddings, norms and heads stay as they are. What is saved is the trained policy as
it computes: unpacked weights plus adapters. The base that was packed is not read again.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tandem.errors import ConfigError
from tandem.kernels.linear_inputs import cast_once
from tandem.machine import Machine
from tandem.models.devices import resolve_device, resolve_precision

# It recommends, when it is imported, a product for sampling that is not used here.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

BLOCK = 64
"""Weights that share a scale."""
PACKED_BYTES = 0.5 + 4 / BLOCK
"""Bytes of a packed weight: half a byte of code, and its share of a scale in fp32."""
INSTALL = "pip install 'tandem-rlhf[quantise]'"


def quantisation_of(machine: Machine, stored: bool = False) -> dict[str, Any]:
    """Return what `from_pretrained` is told for this machine; nothing where it does not quantise.

    Args:
        machine: its settings.
        stored: the folder's weights are packed already, and say how.

    Raises:
        ConfigError: bitsandbytes is not installed.
    """
    if machine.quantise == "none" and not stored:
        return {}
    check_bitsandbytes()
    place = {"device_map": {"": resolve_device(machine)}}
    if stored:
        return place
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=machine.quantise,
        bnb_4bit_compute_dtype=resolve_precision(machine),
    )
    return {"quantization_config": config, **place}


class _FollowsAutocast:
    """Mixed into a packed layer: it multiplies as a plain layer would at that moment.

    A packed layer of bitsandbytes multiplies in a dtype of its own, whatever autocast says, rounds
    its bias to that dtype for good, and on some CPUs packs its weight anew once it is read without
    gradients. What is probed, sampled and saved would be other functions than what is trained.
    """

    weight: Any
    bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        """[..., d] -> [..., d']."""
        from bitsandbytes import matmul_4bit  # type: ignore[reportMissingImports]

        kind, dtype = x.device.type, x.dtype
        if torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
        if x.dtype != dtype:
            shared = torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
            x = cast_once(x, dtype) if shared else x.to(dtype)
        bias = None if self.bias is None else self.bias.to(dtype)
        return matmul_4bit(x, self.weight.t(), bias=bias, quant_state=self.weight.quant_state)


def patch_packed_layers(model: nn.Module) -> None:
    """Let packed layers follow autocast, and unpack to fp32 where nothing else is asked for."""
    for layer in model.modules():
        state = getattr(getattr(layer, "weight", None), "quant_state", None)
        if state is not None and not isinstance(layer, _FollowsAutocast):
            layer.__class__ = _following(type(layer))  # type: ignore[assignment]
            state.dtype = torch.float32


@functools.cache
def _following(own: type[nn.Module]) -> type[nn.Module]:
    return type(own.__name__, (_FollowsAutocast, own), {"__module__": own.__module__})


def has_bitsandbytes() -> bool:
    """Return True if bitsandbytes is installed."""
    return importlib.util.find_spec("bitsandbytes") is not None


def check_bitsandbytes() -> None:
    """Refuse where bitsandbytes is not installed.

    Raises:
        ConfigError: as said.
    """
    if not has_bitsandbytes():
        raise ConfigError(
            "machine.quantise = nf4 without bitsandbytes",
            "it packs the weights, and multiplies with them",
            f"{INSTALL}, or leave machine.quantise out",
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


def check_quantise(machine: Machine) -> None:
    """Refuse, before anything is read, 4-bit weights that could not be trained here.

    Raises:
        ConfigError: there are no adapters to train, or bitsandbytes is not installed.
    """
    check_adapters(machine)
    if machine.quantise != "none":
        check_bitsandbytes()


def is_quantised(module: nn.Module) -> bool:
    """Return True if a module holds packed weights."""
    return any(hasattr(p, "quant_state") for p in module.parameters())


def unpack_weight(weight: Tensor) -> Tensor:
    """Return a packed weight as a matrix in fp32; any other tensor as it is."""
    state = getattr(weight, "quant_state", None)
    if state is None:
        return weight
    from bitsandbytes.functional import (  # type: ignore[reportMissingImports]
        dequantize_4bit,
    )

    if state.dtype != torch.float32:
        state = copy.copy(state)
        state.dtype = torch.float32
    return dequantize_4bit(weight.data, state)


def weight_count(weight: Tensor) -> int:
    """Return how many weights a tensor stands for: of a packed one, those of its matrix."""
    state = getattr(weight, "quant_state", None)
    return weight.numel() if state is None else int(state.shape.numel())


def weight_bytes(weight: Tensor) -> int:
    """Return the bytes of a tensor, of a packed one with its scales."""
    scales = PACKED_BYTES - 0.5 if hasattr(weight, "quant_state") else 0.0
    return int(weight.numel() * weight.element_size() + scales * weight_count(weight))


def packable_weights(lm: Any) -> set[int]:
    """Return the ids of the weights of a model that would be packed: its linear layers', no head's.

    Args:
        lm: a model of transformers, also one without memory.
    """
    heads = {id(lm.get_output_embeddings()), id(getattr(lm, "score", None))}
    linear = (m for m in lm.modules() if isinstance(m, nn.Linear) and id(m) not in heads)
    return {id(m.weight) for m in linear}


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


def what_is_trained(module: nn.Module) -> Any:
    """Return what of a module has to be kept to go on with a fit: all, or its trained parameters.

    Frozen weights, under adapters for example, are in the folder that the fit started from.
    """
    return module if all(p.requires_grad for p in module.parameters()) else TrainedPart(module)


class TrainedPart:
    """The trained parameters of a module, as a state."""

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
