"""A language model in a local folder: labels by a forward pass, text by the sampling engine."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tandem.data.chat.tokens import TokenizerTraits
from tandem.data.chat.transcripts import render_transcript
from tandem.data.record import Completion, FloatArray, Group, IntArray, Prompt
from tandem.engines import Sampling
from tandem.engines.language_models import Labels, label_masses, messages_of
from tandem.engines.open_engine import open_engine
from tandem.errors import EngineError
from tandem.machine import Machine
from tandem.models.folders import context_length
from tandem.models.forward import GROUPS_PER_CHUNK, forward_groups
from tandem.models.opening import open_policy
from tandem.models.packed import PackedModel
from tandem.models.tokenise import tokenise
from tandem.models.tokenizers import load_tokenizer
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint


@dataclass(frozen=True)
class LocalModel:
    """A language model in a Hugging Face folder on this machine, for `Labeller` and `Rater`.

    >>> LocalModel(Checkpoint(Path("models/judge"), "judge")).name
    'judge'

    Attributes:
        checkpoint: the folder.
    """

    checkpoint: Checkpoint

    @property
    def name(self) -> str:
        """The checkpoint's name."""
        return str(self.checkpoint)

    def open(self, machine: Machine) -> LocalSession:
        """Load weights and tokenizer."""
        trunk = open_policy(self.checkpoint.path, replace(machine, lora=None))
        tokenizer = load_tokenizer(self.checkpoint.path)
        return LocalSession(trunk, tokenizer, context_length(self.checkpoint.path), machine)


class LocalSession:
    """An open local model.

    Args:
        trunk: the model.
        tokenizer: its tokenizer, and chat template where it has one.
        context: its positions.
        machine: unique tokens per forward pass, and how to sample.
    """

    def __init__(self, trunk: PackedModel, tokenizer: Any, context: int, machine: Machine) -> None:
        self.trunk, self.tokenizer, self.context = trunk, tokenizer, context
        self.tokens = machine.tokens
        self.engine = open_engine(trunk, tokenizer, machine)

    def label(self, prompts: Iterable[Prompt], labels: Labels) -> Iterator[FloatArray]:
        """Yield [L] log-probabilities of the labels; see `OpenLanguageModel`.

        Raises:
            EngineError: a prompt with a label behind it is longer than the model's context.
        """
        ids = TokenizerTraits(self.tokenizer)
        spelled = [[tuple(row) for row in ids.continuing(texts)] for texts in labels]
        continuations = list(dict.fromkeys(itertools.chain.from_iterable(spelled)))
        behind = tuple(Completion("", np.array(c, np.int32)) for c in continuations)
        asked = (
            replace(group, completions=behind)
            for group in self._asked(prompts, max(map(len, continuations)))
        )
        for _, reading in forward_groups(self.trunk, asked, self.tokens):
            logp = [float(x.sum(dtype=np.float64)) for x in reading.logp or ()]
            mass = {c: math.exp(lp) for c, lp in zip(continuations, logp, strict=True)}
            yield label_masses(mass, spelled)

    def complete(
        self, prompts: Iterable[Prompt], sampling: Sampling, seed: Seed
    ) -> Iterator[Completion]:
        """Yield one completion of each prompt; see `OpenLanguageModel`."""
        for group in self.engine.sample(self._asked(prompts, 0), 1, sampling, seed):
            yield group.completions[0]

    def _asked(self, prompts: Iterable[Prompt], room: int) -> Iterator[Group]:
        """The prompts in tokens; special tokens that were written as text are taken out."""
        specials = TokenizerTraits(self.tokenizer).specials
        stream = iter(prompts)
        while chunk := list(itertools.islice(stream, GROUPS_PER_CHUNK)):
            clean = [_without(p, specials) for p in chunk]
            for group in tokenise((Group(p) for p in clean), self.tokenizer):
                _fits(group.id, group.prompt.tokens, room, self.context)
                yield group


def _without(prompt: Prompt, specials: tuple[str, ...]) -> Prompt:
    """The conversation without anything that the tokenizer would read as a special token."""
    said = [{**m, "content": _cut(str(m["content"]), specials)} for m in messages_of(prompt)]
    return Prompt(prompt.id, render_transcript(said, open_end=True), tuple(said))


def _cut(text: str, specials: tuple[str, ...]) -> str:
    while found := next((s for s in specials if s in text), None):
        text = text.replace(found, "")
    return text


def _fits(name: str, tokens: IntArray, room: int, context: int) -> None:
    if len(tokens) + room > context:
        raise EngineError(
            f"question `{name}` has {len(tokens)} tokens, its label up to {room} more",
            f"the model reads {context}, and a question that is cut is another question",
            "shorten the template or the answers, or ask a model with a longer context",
        )
