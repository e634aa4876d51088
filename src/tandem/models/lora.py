"""Adapters on a frozen model."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import (
    PreTrainedModel,
)

from tandem.errors import ConfigError
from tandem.machine import Lora
from tandem.models.quantised import plain_state
from tandem.rng import Seed

_BY_PEFT = re.compile(r"\.base_layer\.|\.modules_to_save\.[^.]+\.")
"""What PEFT puts into the names of the layers that it wraps."""


@contextlib.contextmanager
def without_peft_warnings() -> Iterator[None]:
    """Keep one warning off the screen: PEFT asks transformers what transformers means to rename."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`")
        yield


def check_targets(model: Any, lora: Lora) -> None:
    """Refuse adapters on layers that a model does not have.

    Raises:
        ConfigError: naming the layers that it has.
    """
    layers = [name for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    kinds = sorted({name.rpartition(".")[2] for name in layers})
    named = [lora.targets] if isinstance(lora.targets, str) else list(lora.targets)
    modules = [name for name, _ in model.named_modules()]
    unknown = [
        target
        for target in named
        if target != "all-linear" and not any(_targets(name, target, lora) for name in modules)
    ]
    if unknown or not named:
        raise ConfigError(
            f"machine.lora.targets = {named}",
            f"{type(model).__name__} has no layer {unknown[0]!r}"
            if unknown
            else "no layer is named",
            f"give all-linear, or some of: {', '.join(kinds)}",
        )
    _check_tables(model, lora)


def _check_tables(model: Any, lora: Lora) -> None:
    """Refuse adapters on the language head, and on embeddings that share its table."""
    named = [lora.targets] if isinstance(lora.targets, str) else list(lora.targets)
    tied = bool(getattr(model.config.get_text_config(), "tie_word_embeddings", False))
    tables = [model.get_output_embeddings(), *([model.get_input_embeddings()] if tied else [])]
    hit = [
        name
        for name, module in model.named_modules()
        if any(module is table for table in tables if table is not None)
        and any(t != "all-linear" and _targets(name, t, lora) for t in named)
    ]
    if hit:
        why = (
            "this model's embeddings and language head are one table: an adapter on one of them "
            "cannot be merged into it, and the saved model would not be the trained one"
            if tied
            else "the language head is read where an answer is alone, past any adapter on it"
        )
        raise ConfigError(
            f"machine.lora.targets names {', '.join(hit)}",
            why,
            "leave the tables out: --machine.lora.targets all-linear",
        )


def _targets(name: str, target: str, lora: Lora) -> bool:
    """Whether PEFT would take a module: one text is a pattern, several are ends of names."""
    if isinstance(lora.targets, str):
        try:
            return re.fullmatch(target, name) is not None
        except re.error:
            return False
    return name == target or name.endswith(f".{target}")


def add_adapters(model: PreTrainedModel, lora: Lora | None, seed: Seed) -> Any:
    """Put trainable adapters, drawn by the seed, on a frozen model; or return it as it is."""
    if lora is None:
        return model
    from peft import LoraConfig, get_peft_model

    heads = ["score"] if hasattr(model, "score") else None
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha,  # type: ignore[arg-type]
        target_modules=lora.targets if isinstance(lora.targets, str) else list(lora.targets),
        modules_to_save=heads,
        lora_dropout=0.0,
    )
    with torch.random.fork_rng(), without_peft_warnings():
        torch.manual_seed(int(seed))
        return get_peft_model(model, config)  # type: ignore[arg-type]


def unwrap_adapters(model: Any) -> Any:
    """Return the model inside an adapter's wrapper, whose layers carry the adapters, or itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@torch.no_grad()
def merged_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the names and weights of a model as it would be saved, adapters added to their layers.

    The model is not changed, and only one layer's sum exists at a time. A tensor that two names
    share comes once, under the first.

    Args:
        model: a model of transformers, with PEFT adapters or without.
    """
    inner = unwrap_adapters(model)
    layers = dict(inner.named_modules())
    for name, value in plain_state(inner):
        owner, _, kind = name.rpartition(".base_layer.")
        if ".lora_" in name or ".original_module." in name:
            continue
        if owner and kind == "weight":
            layer: Any = layers[owner]
            for adapter in layer.active_adapters:
                value = value + layer.get_delta_weight(adapter).to(value.dtype)
        yield _BY_PEFT.sub(".", name), value.detach()
