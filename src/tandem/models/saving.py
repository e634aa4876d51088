"""A trained model becomes a plain Hugging Face folder."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path
from typing import Any

import torch
from transformers import (
    PreTrainedTokenizerBase,
)

from tandem.data.chat.ends import end_tokens, named_ends
from tandem.machine import process_rank
from tandem.models.folders import without_warnings
from tandem.models.lora import merged_weights
from tandem.models.quantised import is_quantised


def save_model(model: Any, tokenizer: PreTrainedTokenizerBase, out: Path, card: str = "") -> None:
    """Write a plain Hugging Face folder; adapters are merged, and kept beside it in `adapter/`.

    In a launch of several processes rank 0 writes, the others do nothing.
    """
    if process_rank() > 0:
        return
    out.mkdir(parents=True, exist_ok=True)
    _mend_generation(model, tokenizer)
    if hasattr(model, "merge_and_unload"):
        with without_warnings():
            model.save_pretrained(out / "adapter")
        _same_everywhere(out / "adapter")
        model = _without_packing(model) if is_quantised(model) else model.merge_and_unload()
    with without_warnings():
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
    if card:
        (out / "README.md").write_text(card, encoding="utf-8")


def _without_packing(model: Any) -> Any:
    """Return a model in bf16 that computes what one of packed weights and adapters does."""
    inner = model.get_base_model()
    config = copy.deepcopy(inner.config)
    del config.quantization_config
    with torch.device("meta"):
        whole = type(inner)(config)
    state = {name: value.to(torch.bfloat16) for name, value in merged_weights(model)}
    whole.load_state_dict(state, strict=False, assign=True)
    whole.tie_weights()
    whole.generation_config = inner.generation_config
    return whole


def _mend_generation(model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """List every end of an answer in the generation settings, and mend what cannot be saved."""
    settings = getattr(model, "generation_config", None)
    if settings is None:
        return
    named = named_ends(settings)
    ends = end_tokens(tokenizer, named)
    if not ends <= {*named, *named_ends(model.config)}:
        settings.eos_token_id = sorted(ends)
    try:
        with without_warnings():
            settings.validate(strict=True)
    except ValueError as error:
        settings.do_sample = True
        note = "%s; do_sample is saved as true, so that the other settings mean something"
        logging.getLogger("tandem").warning(note, " ".join(str(error).split()))


def _same_everywhere(adapter: Path) -> None:
    """Take out where the base lay and the order of sets: the same adapter is the same bytes."""
    path = adapter / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = None
    config = {k: sorted(v) if isinstance(v, list) else v for k, v in config.items()}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (adapter / "README.md").unlink(missing_ok=True)
