"""A trained model becomes a plain Hugging Face folder."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import (
    PreTrainedTokenizerBase,
)

from tandem.data.chat.ends import end_tokens, named_ends
from tandem.machine import process_rank
from tandem.models.folders import without_warnings
from tandem.models.packed_folder import PACKED
from tandem.models.quantised import is_quantised
from tandem.models.unpacking import write_unpacked
from tandem.runs.weight_files import loaded_weights

STORED: Mapping[str, torch.dtype] = {
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
"""Dtypes by the names of safetensors and of `machine.save_dtype`."""


def save_model(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    out: Path,
    card: str = "",
    *,
    dtype: torch.dtype | None = None,
) -> tuple[str, ...]:
    """Write a plain Hugging Face folder; adapters are merged, and kept beside it in `adapter/`.

    In a launch of several processes rank 0 writes, the others do nothing.

    Args:
        model: with or without adapters.
        tokenizer: is saved with it.
        out: the folder, made when missing.
        card: the folder's README.md, or nothing.
        dtype: of the saved weights; the model's own if not given.

    Returns:
        What had to be mended in its generation settings, as sentences.
    """
    if process_rank() > 0:
        return ()
    out.mkdir(parents=True, exist_ok=True)
    mended = _mend_generation(model, tokenizer)
    if hasattr(model, "merge_and_unload"):
        with without_warnings():
            model.save_pretrained(out / "adapter", save_embedding_layers=False)
        _same_everywhere(out / "adapter")
        model = model if is_quantised(model) else model.merge_and_unload()
    with without_warnings():
        if is_quantised(model):
            write_unpacked(model, out, dtype or torch.float32)
        else:
            weights = {} if dtype is None else {"state_dict": _weights_in(model, dtype)}
            model.save_pretrained(out, **weights)
        tokenizer.save_pretrained(out)
    if dtype is not None:
        _write_dtype(out / "config.json", dtype)
    if card:
        (out / "README.md").write_text(card, encoding="utf-8")
    return mended


def stored_dtype(folder: Path) -> torch.dtype:
    """Return the dtype in which most of a folder's weights are stored; fp32 where it is unusual.

    Of packed weights, that of the others.
    """
    sizes = Counter[str]()
    for file in loaded_weights(folder):
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118  it is no mapping
                part = weights.get_slice(name)
                if part.get_dtype() == "U8" or name.endswith(PACKED):
                    continue
                count = 1
                for length in part.get_shape():
                    count *= int(length)
                sizes[str(part.get_dtype())] += count
    most = max(sizes, key=lambda name: sizes[name], default="F32")
    return STORED.get(most, torch.float32)


def round_weights(model: Any, dtype: torch.dtype) -> None:
    """Round floating weights to a dtype, in place; they stay in the dtype that they have."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.is_floating_point() and weight.dtype != dtype:
                weight.copy_(weight.to(dtype))


def _weights_in(model: Any, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the weights in a dtype; those that share their memory still do."""
    done: dict[tuple[int, torch.Size], Tensor] = {}
    weights: dict[str, Tensor] = {}
    for name, weight in model.state_dict().items():
        key = (weight.data_ptr(), weight.shape)
        if key not in done:
            done[key] = weight.to(dtype) if weight.is_floating_point() else weight
        weights[name] = done[key]
    return weights


def _write_dtype(path: Path, dtype: torch.dtype) -> None:
    """Write the weights' dtype into a configuration, where transformers wrote the model's."""
    config, name = json.loads(path.read_text(encoding="utf-8")), str(dtype).removeprefix("torch.")
    if config.get("dtype") == name:
        return
    config["dtype"] = name
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _mend_generation(model: Any, tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """List every end of an answer in the generation settings, and mend what cannot be saved."""
    settings = getattr(model, "generation_config", None)
    if settings is None:
        return ()
    named = named_ends(settings)
    ends = end_tokens(tokenizer, named)
    if not ends <= {*named, *named_ends(model.config)}:
        settings.eos_token_id = sorted(ends)
    fault = _generation_fault(settings)
    if not fault:
        return ()
    settings.do_sample = True
    text = f"{fault}; do_sample is saved as true, so that the other settings mean something"
    if again := _generation_fault(settings):
        pad = settings.pad_token_id
        model.generation_config = type(settings)(
            bos_token_id=settings.bos_token_id,
            eos_token_id=settings.eos_token_id,
            pad_token_id=pad if isinstance(pad, int) and pad >= 0 else None,
        )
        text = f"{again}; the generation settings are saved with their special tokens alone"
    return (text,)


def _generation_fault(settings: Any) -> str:
    try:
        with without_warnings():
            settings.validate(strict=True)
    except ValueError as error:
        return " ".join(str(error).split())
    return ""


def _same_everywhere(adapter: Path) -> None:
    """Take out where the base lay and the order of sets: the same adapter is the same bytes."""
    path = adapter / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = None
    config = {k: sorted(v) if isinstance(v, list) else v for k, v in config.items()}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (adapter / "README.md").unlink(missing_ok=True)
