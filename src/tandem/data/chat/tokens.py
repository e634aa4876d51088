"""What a tokenizer adds around and between texts, so that joined pieces tokenise as one text does.

A tokenizer may put a BOS before a text, a space before its first word, or both; a piece that
continues a text must get neither. These facts are measured, never read from a list of names.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from typing import Any

from tandem.data.chat.clock import template_date
from tandem.data.chat.ends import closing_tokens
from tandem.data.chat.template import ChatTemplate
from tandem.errors import ModelError

Ids = list[int]
_SENTINELS = ("\n", "|", "0", "~")


@dataclass(frozen=True)
class TokenizerTraits:
    """A Hugging Face tokenizer, asked in batches; templates write `date`."""

    tokenizer: Any
    date: date = field(default_factory=template_date)

    @cached_property
    def template(self) -> ChatTemplate:
        """The tokenizer's chat template."""
        return ChatTemplate(self.tokenizer, self.date)

    def plain(self, texts: Sequence[str]) -> list[Ids]:
        """Encode texts as they stand, without special tokens around them."""
        if not texts:
            return []
        out = self.tokenizer(
            list(texts), add_special_tokens=False, return_attention_mask=False, truncation=False
        )
        return out["input_ids"]

    def continuing(self, texts: Sequence[str]) -> list[Ids]:
        """Encode texts that continue another one: no space is put before their first word.

        Raises:
            ModelError: the tokenizer has no way to encode a continuation.
        """
        if not self.adds_space:
            return self.plain(texts)
        found: dict[str, Ids] = {"": []}
        left = [t for t in dict.fromkeys(texts) if t]
        for sentinel in _SENTINELS:
            head = self.plain([sentinel])[0]
            rows = self.plain([sentinel + t for t in left])
            good = {
                t: ids[len(head) :]
                for t, ids in zip(left, rows, strict=True)
                if ids[: len(head)] == head
            }
            found |= good
            left = [t for t in left if t not in good]
            if not left:
                return [found[t] for t in texts]
        raise ModelError(
            f"the tokenizer merges {left[0][:40]!r} with whatever stands before it",
            "it puts a space before every text, and no neutral character separates a continuation",
            "use the model's fast tokenizer, or give the data as messages with a chat template",
        )

    @cached_property
    def bos(self) -> Ids:
        """Ids that the tokenizer puts before a text of its own: one BOS, or nothing."""
        bare = self.plain(["a"])[0]
        whole = self.tokenizer("a", return_attention_mask=False)["input_ids"]
        start = next((k for k in range(len(whole) + 1) if whole[k : k + len(bare)] == bare), 0)
        return list(whole[:start])

    @cached_property
    def adds_space(self) -> bool:
        """True if the tokenizer puts a space before the first word."""
        first = self.tokenizer.convert_ids_to_tokens(self.plain(["a"])[0])[0]
        return str(first)[:1] in ("▁", "Ġ")

    @cached_property
    def eos(self) -> int:
        """The end-of-sequence id.

        Raises:
            ModelError: the tokenizer has none.
        """
        eos = self.tokenizer.eos_token_id
        if eos is None:
            raise ModelError(
                "the tokenizer has no EOS token",
                "a model that is never shown an end does not learn to stop",
                'set it: tokenizer.eos_token = "<|endoftext|>" (a token of its vocabulary)',
            )
        return int(eos)

    @cached_property
    def closings(self) -> tuple[str, ...]:
        """What closes an answer, as text: the template's ends of turn, and EOS."""
        ids = [*closing_tokens(self.tokenizer), self.eos]
        return tuple(str(t) for t in self.tokenizer.convert_ids_to_tokens(ids))

    @cached_property
    def specials(self) -> tuple[str, ...]:
        """Special tokens as text, the longest first."""
        added = self.tokenizer.added_tokens_decoder.values()
        found = {t.content for t in added if t.special} | set(self.tokenizer.all_special_tokens)
        return tuple(sorted(found, key=len, reverse=True))

    @cached_property
    def templated(self) -> bool:
        """True if the tokenizer has a chat template."""
        return bool(self.tokenizer.chat_template)

    @cached_property
    def written_date(self) -> str | None:
        """The date that the chat template writes; None where it writes none."""
        dated = self.templated and self.template.reads_clock
        return self.date.isoformat() if dated else None


def tokenizer_hash(tokenizer: Any) -> str:
    """Return a hash of what a tokenizer does: vocabulary, rules, special tokens, template.

    How it was last called is left out: a call with padding or truncation stays in its state. The
    hash is written into the `meta` of prompts, so its value never changes for a tokenizer.

    Args:
        tokenizer: a Hugging Face tokenizer.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    parts = [
        _rules(backend) if backend is not None else json.dumps(tokenizer.get_vocab()),
        json.dumps({k: str(v) for k, v in tokenizer.special_tokens_map.items()}),
        str(tokenizer.chat_template),
    ]
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()


def _rules(backend: Any) -> str:
    """Write down a fast tokenizer without padding and truncation."""
    written = backend.to_str()
    if backend.padding is None and backend.truncation is None:
        return written
    plain = copy.deepcopy(backend)
    plain.no_padding()
    plain.no_truncation()
    return plain.to_str()


def decode_tokens(tokens: Sequence[int], tokenizer: Any) -> str:
    """Turn token ids into text, without special tokens."""
    return tokenizer.decode(
        [int(t) for t in tokens], skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
