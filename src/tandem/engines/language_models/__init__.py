"""Asking a language model: how likely is each of a few labels next, and what would it say.

One small protocol, two ways to reach a model behind it:

    LocalModel(checkpoint)    local.py: labels by a forward pass, text by the torch engine
    Server("name", url)       openai.py: any OpenAI-compatible server

    lm = LocalModel(pi).open(Machine())
    lm.label(prompts, (("(A)", " (A)"), ("(B)", " (B)")))    # log P of A and of B
    lm.complete(prompts, Sampling(max_tokens=64), seed)

A label is several spellings of one word; which of them a model prefers depends on its tokenizer,
so their mass is summed. No torch here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from tandem.data.record import Completion, FloatArray, Prompt
from tandem.engines import Sampling
from tandem.machine import Machine
from tandem.rng import Seed

Labels = tuple[tuple[str, ...], ...]
"""For each label the ways to write it."""

Tokens = tuple[int, ...]


class OpenLanguageModel(Protocol):
    """A language model that is open. Answers come in the order of the prompts."""

    def label(self, prompts: Iterable[Prompt], labels: Labels) -> Iterator[FloatArray]:
        """Yield [L] log-probabilities, in nats, that each label comes next.

        They need not sum to 1: what is missing is the mass of everything else. A question that
        failed has nan.
        """
        ...

    def complete(
        self, prompts: Iterable[Prompt], sampling: Sampling, seed: Seed
    ) -> Iterator[Completion | None]:
        """Yield one completion of each prompt; draws depend on (seed, prompt id) alone.

        None stands for a question that failed: a server did not answer it as it was asked.
        """
        ...


@runtime_checkable
class LanguageModel(Protocol):
    """A handle on a language model: a frozen value, nothing is open."""

    @property
    def name(self) -> str:
        """The model's name in tables and in `Preference.by`."""
        ...

    def open(self, machine: Machine) -> OpenLanguageModel:
        """Open it on this machine."""
        ...


def messages_of(prompt: Prompt) -> list[dict[str, Any]]:
    """Return the prompt as a conversation; plain text is one turn of the user."""
    if prompt.messages is None:
        return [{"role": "user", "content": prompt.text}]
    return [dict(m) for m in prompt.messages]


def label_masses(spelled: Mapping[Tokens, float], labels: Sequence[Sequence[Tokens]]) -> FloatArray:
    """Sum the mass of each label's spellings; return [L] log-masses, -inf where there is none.

    Args:
        spelled: P(the answer begins with these tokens), for every spelling of every label.
        labels: the spellings of each label.

    An answer that begins with "1", "0" begins with "1" too: from the mass of a spelling that of
    every longer one behind it is taken away, so each answer counts for one label, once.
    """
    own = {tokens: _stops_at(tokens, spelled) for tokens in spelled}
    masses = [sum(own[t] for t in dict.fromkeys(texts)) for texts in labels]
    return np.array([math.log(m) if m > 0 else -math.inf for m in masses])


def _stops_at(tokens: Tokens, spelled: Mapping[Tokens, float]) -> float:
    longer = [t for t in spelled if _begins(t, tokens)]
    nearest = [t for t in longer if not any(_begins(t, between) for between in longer)]
    return max(0.0, spelled[tokens] - sum(spelled[t] for t in nearest))


def _begins(long: Tokens, short: Tokens) -> bool:
    return len(short) < len(long) and long[: len(short)] == short
