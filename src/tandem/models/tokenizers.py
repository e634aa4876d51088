"""Tokenizers of model folders, and when two of them read the same tokens."""

from __future__ import annotations

import hashlib
import json

from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

from tandem.data.chat.template_limits import check_template
from tandem.errors import ModelError
from tandem.models.folders import UNREADABLE, Source, check_exists, first_line


def load_tokenizer(source: Source, *, ends: bool = True) -> PreTrainedTokenizerBase:
    """Load a tokenizer.

    Args:
        source: the model's folder.
        ends: ask for an end-of-sequence token, which every policy needs, and an encoder does not.

    Raises:
        ModelError: there is none, it has no end-of-sequence token, or its chat template needs too
            much time or memory.
    """
    check_exists(source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except UNREADABLE as error:
        raise ModelError(
            f"no tokenizer can be loaded from {source}: {first_line(error)}",
            "prompts and completions are tokenised with the model's own tokenizer",
            "put tokenizer.json and tokenizer_config.json into the model's folder",
        ) from error
    check_template(tokenizer)
    if ends and tokenizer.eos_token_id is None:
        raise ModelError(
            f"the tokenizer of {source} has no end-of-sequence token",
            "without one no completion can end, and the model never learns to stop",
            "set eos_token in tokenizer_config.json",
        )
    return tokenizer


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a hash of what a tokenizer does: vocabulary, rules, special tokens, template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    parts = [
        backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab()),
        json.dumps({k: str(v) for k, v in tokenizer.special_tokens_map.items()}),
        str(tokenizer.chat_template),
    ]
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()


def same_tokens(a: Source, b: Source) -> bool:
    """Return True if two models read the same tokens."""
    return tokenizer_hash(load_tokenizer(a)) == tokenizer_hash(load_tokenizer(b))
