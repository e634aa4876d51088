"""Stop strings are found by decoding the end alone, where the whole text would have found them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tandem.engines.running_batch import StopCondition
from vocabularies import TEXT, byte_bpe
from worlds import letters


class Counting:
    """A tokenizer that notes how much it is asked to decode."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.longest = tokenizer, 0

    def decode(self, tokens: list[int], **sampling: Any) -> str:
        self.longest = max(self.longest, len(tokens))
        return self.tokenizer.decode(tokens, **sampling)


def first_end(tokens: np.ndarray, ends: StopCondition) -> int | None:
    """Grow the row token by token, as a flight does; return the length at which it ends."""
    for t in range(1, len(tokens) + 1):
        if ends(tokens[None], np.array([t]))[0]:
            return t
    return None


def whole_end(tokens: np.ndarray, tokenizer: Any, stop: tuple[str, ...]) -> int | None:
    for t in range(1, len(tokens) + 1):
        text = tokenizer.decode(tokens[:t].tolist(), skip_special_tokens=True)
        if any(s in text for s in stop):
            return t
    return None


@pytest.mark.parametrize(
    "stop",
    [("Human",), (" the", "zz"), ("é",), ("\n\n",), ("and said hello to the dog",)],
    ids=repr,
)
def test_the_end_of_the_text_is_enough(stop: tuple[str, ...]):
    """Real byte-level BPE: letters of two to four bytes, and special tokens that are no text."""
    tokenizer = byte_bpe()
    rng = np.random.default_rng(0)
    ended = 0
    for _ in range(30):
        parts = rng.permutation([*TEXT, "naïve café é", "🚢🚢", "\n\n", "</s>" * 9, "<pad>" * 20])
        ids = tokenizer("".join(parts), add_special_tokens=False)["input_ids"]
        tokens = np.array([t for t in ids if t != tokenizer.eos_token_id], np.int64)
        got = first_end(tokens, StopCondition(tokenizer, [], stop))
        assert got == whole_end(tokens, tokenizer, stop)
        ended += got is not None
    assert ended >= 10


def test_a_long_text_is_not_decoded_again_and_again():
    counting = Counting(letters(41))
    tokens = np.random.default_rng(0).integers(3, 41, 400)
    assert first_end(tokens, StopCondition(counting, [], ("AAAA",))) is None
    assert counting.longest <= 16
