"""Adapters on a frozen model."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from transformers import (
    PreTrainedModel,
)

from tandem.machine import Lora
from tandem.rng import Seed


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
    with torch.random.fork_rng(), warnings.catch_warnings():
        # PEFT asks transformers a question that transformers means to rename
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`")
        torch.manual_seed(int(seed))
        return get_peft_model(model, config)  # type: ignore[arg-type]
