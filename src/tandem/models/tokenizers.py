"""Tokenizers of model folders, and when two of them read the same tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

from tandem.data.chat.template_limits import check_template
from tandem.data.chat.tokens import tokenizer_hash
from tandem.data.record import IntArray
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
        tokenizer.decode(tokenizer("a").input_ids)  # settings of a wrong type are found here
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


def same_tokens(a: Source, b: Source) -> bool:
    """Return True if two models read the same tokens."""
    return tokenizer_hash(load_tokenizer(a)) == tokenizer_hash(load_tokenizer(b))


class UnknownTokens:
    """Counts tokens that a tokenizer has no name for: rows of a table that was made longer.

    A model can draw them, and they vanish from the text that is shown and judged.

    Args:
        tokenizer: a Hugging Face tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        ids = list(tokenizer.get_vocab().values())
        self.known = np.zeros(max(ids, default=0) + 1, np.bool_)
        self.known[ids] = True
        self.found = self.seen = 0

    def count_in(self, tokens: IntArray) -> None:
        """Count the tokens of one answer."""
        inside = tokens[tokens < len(self.known)]
        self.seen += len(tokens)
        self.found += len(tokens) - int(self.known[inside].sum())
