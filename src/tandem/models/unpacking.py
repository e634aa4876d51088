"""Packed weights become whole again: in memory, in a folder, and for a look at what was saved.

    merged = unpacked + alpha / r * B A        in fp32, one matrix at a time

A folder of several GiB is written piece by piece: beside the packed model there is never more in
memory than one file's weights.
"""

from __future__ import annotations

import copy
import json
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from tandem.models.lora import merged_weights, unwrap_adapters
from tandem.models.quantised import unpack_weight
from tandem.runs.weight_files import INDEX, SINGLE

FILE_BYTES = 2**30
"""Of one file of weights, about."""


def unpack_model(model: Any) -> Any:
    """Return a model in fp32 that computes what one of packed weights, and its adapters, does."""
    inner = unwrap_adapters(model)
    whole = _without_memory(inner)
    state = {name: value.float() for name, value in merged_weights(model)}
    whole.load_state_dict(state, strict=False, assign=True)
    for name, buffer in list(whole.named_buffers()):
        if buffer.is_meta:  # angles and the like, which are not stored
            owner, _, leaf = name.rpartition(".")
            setattr(whole.get_submodule(owner), leaf, inner.get_buffer(name))
    whole.tie_weights()
    return whole.eval()


def write_unpacked(model: Any, out: Path, dtype: torch.dtype) -> None:
    """Write a packed model and its adapters as a folder of whole weights.

    Args:
        model: with or without adapters; it is not changed.
        out: the folder, made when missing.
        dtype: of the weights.
    """
    out.mkdir(parents=True, exist_ok=True)
    whole = _without_memory(unwrap_adapters(model))
    pieces = ((name, _cast(value, dtype)) for name, value in merged_weights(model))
    if not _is_stored_by_its_names(whole):
        whole.save_pretrained(out, state_dict=dict(pieces))
        return
    whole.config.architectures = [type(whole).__name__]
    whole.config.save_pretrained(out)
    if whole.can_generate():
        whole.generation_config.save_pretrained(out)
    _write_files(pieces, out)


def merge_products(model: Any, dtype: torch.dtype = torch.float32) -> None:
    """Let every packed layer multiply by its merged matrix from now on, as a saved folder would.

    Args:
        model: a model that is not trained any more.
        dtype: in which matrices are rounded; other weights are rounded in place.
    """
    for layer in model.modules():
        packed = getattr(layer, "base_layer", layer)
        if getattr(getattr(packed, "weight", None), "quant_state", None) is not None:
            layer.forward = _MergedProduct(weakref.proxy(layer), dtype)
    if dtype != torch.float32:
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.is_floating_point() and ".lora_" not in name:
                    weight.copy_(weight.to(dtype))


class _MergedProduct:
    """The product of a packed layer with its adapters added, rounded as it is saved."""

    def __init__(self, layer: Any, dtype: torch.dtype) -> None:
        self.layer, self.dtype = layer, dtype

    def __call__(self, x: Tensor) -> Tensor:
        """[..., d] -> [..., d']."""
        packed = getattr(self.layer, "base_layer", self.layer)
        weight = unpack_weight(packed.weight)
        for adapter in getattr(self.layer, "active_adapters", ()):
            weight = weight + self.layer.get_delta_weight(adapter)
        return functional.linear(x, weight.to(self.dtype).to(x.dtype), packed.bias)


def _without_memory(inner: Any) -> Any:
    """Return a model of the same class with whole layers, none of them allocated."""
    config = copy.deepcopy(inner.config)
    del config.quantization_config
    with torch.device("meta"):
        whole = type(inner)(config)
    if hasattr(inner, "generation_config"):
        whole.generation_config = inner.generation_config
    return whole


def _is_stored_by_its_names(whole: nn.Module) -> bool:
    """False where transformers stores weights under other names than a module's, or cut."""
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:
        return False
    state = whole.state_dict()
    return revert_weight_conversion(whole, dict(state)).keys() == state.keys()  # type: ignore[arg-type]


def _cast(value: Tensor, dtype: torch.dtype) -> Tensor:
    return (value.to(dtype) if value.is_floating_point() else value).contiguous().cpu()


def _write_files(pieces: Iterator[tuple[str, Tensor]], out: Path) -> None:
    """Write weights into files of about `FILE_BYTES`, and an index where there are several."""
    files: list[list[str]] = []
    held: dict[str, Tensor] = {}
    sizes: list[int] = []

    def close() -> None:
        save_file(held, out / f"part-{len(files)}.safetensors", {"format": "pt"})
        files.append(list(held))
        held.clear()

    for name, value in pieces:
        size = value.numel() * value.element_size()
        if held and sum(v.numel() * v.element_size() for v in held.values()) + size > FILE_BYTES:
            close()
        held[name] = value
        sizes.append(size)
    close()
    if len(files) == 1:
        (out / "part-0.safetensors").rename(out / SINGLE)
        return
    index: dict[str, str] = {}
    for k, names in enumerate(files):
        file = f"model-{k + 1:05}-of-{len(files):05}.safetensors"
        (out / f"part-{k}.safetensors").rename(out / file)
        index |= dict.fromkeys(names, file)
    table = {"metadata": {"total_size": sum(sizes)}, "weight_map": index}
    (out / INDEX).write_text(json.dumps(table, indent=2, sort_keys=True) + "\n", encoding="utf-8")
