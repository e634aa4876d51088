"""The record that all verbs share: a prompt, its completions, scores and preferences."""

# pyarrow ships no types
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false, reportUnknownParameterType=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.floating[Any]]
BoolArray = npt.NDArray[np.bool_]
Message = dict[str, Any]
NO_TOKENS: IntArray = np.empty(0, np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """One prompt: the text that a model answers, and what is known about it.

    >>> prompt = Prompt("q1", "What is 2 + 2?", meta={"answer": "4"})
    >>> prompt.id, prompt.meta["answer"]
    ('q1', '4')

    Attributes:
        id: unique in a collection. Seeds depend on it, so the same id gets the same draws.
        text: the prompt as the model reads it, rendered by the chat template where there is one.
        messages: the conversation it was rendered from, or None for plain text.
        tokens: [P] token ids, empty until a tokenizer has seen it.
        meta: anything JSON can hold: facts, answers, sources, topics.
    """

    id: str
    text: str
    messages: tuple[Message, ...] | None = None
    tokens: IntArray = field(default_factory=lambda: NO_TOKENS)
    meta: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True, eq=False)
class Completion:
    """One answer to a prompt, by a model or a person.

    >>> Completion("2 + 2 is 4.", author="a person").text
    '2 + 2 is 4.'

    Attributes:
        text: the answer without its end-of-sequence token.
        tokens: [T] ids including the end-of-sequence token when `stopped`.
        author: who wrote it: a policy's name, a person's pseudonym, a system.
        logp: [T] log-probabilities under the sampler that drew it, or None.
        stopped: True if it ended itself, False if it was cut at a length limit.
        mask: [T] True where a loss counts the token, or None for all of them.
        weight: its share in a weighted loss.
        turns: the messages it is made of where it is more than one plain answer (several turns
            of a conversation, tool calls), the first and the last by the assistant; else None.
    """

    text: str
    tokens: IntArray = field(default_factory=lambda: NO_TOKENS)
    author: str = ""
    logp: FloatArray | None = None
    stopped: bool = True
    mask: BoolArray | None = None
    weight: float = 1.0
    turns: tuple[Message, ...] | None = None


@dataclass(frozen=True, slots=True)
class Preference:
    """One comparison of two completions of a group, by their indices.

    >>> vote = Preference(0, 1, p=0.2, by="ann")  # completion 1 is probably better
    >>> vote.winner, vote.loser
    (1, 0)

    Attributes:
        i: index of one completion.
        j: index of the other.
        p: probability that completion i is better than j: 1 for a choice, 0.5 for a tie.
        margin: how much better the preferred one is, or None where nobody said.
        by: the judge's name.
    """

    i: int
    j: int
    p: float = 1.0
    margin: float | None = None
    by: str = ""

    @property
    def winner(self) -> int:
        """Index of the completion with the larger share."""
        return self.i if self.p >= 0.5 else self.j

    @property
    def loser(self) -> int:
        """Index of the completion with the smaller share."""
        return self.j if self.p >= 0.5 else self.i


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """A prompt with its completions, and the scores and preferences that judges gave them.

    >>> answers = (Completion("4"), Completion("5"))
    >>> group = Group(Prompt("q1", "What is 2 + 2?"), answers, preferences=(Preference(0, 1),))
    >>> len(group), group.keep([0]).completions[0].text
    (2, '4')

    Attributes:
        prompt: what is asked.
        completions: n answers.
        preferences: comparisons of two completions, by their indices.
        scores: [n] one number a completion, or None.
        clusters: [n] the same number for completions that say the same, or None.
    """

    prompt: Prompt
    completions: tuple[Completion, ...] = ()
    scores: FloatArray | None = None
    preferences: tuple[Preference, ...] = ()
    clusters: IntArray | None = None

    def __len__(self) -> int:
        return len(self.completions)

    @property
    def id(self) -> str:
        """The prompt's id."""
        return self.prompt.id

    def keep(self, indices: Sequence[int]) -> Group:
        """Return the group with these completions, in this order; columns and pairs follow."""
        where = {old: new for new, old in enumerate(indices)}
        return replace(
            self,
            completions=tuple(self.completions[i] for i in indices),
            scores=None if self.scores is None else self.scores[list(indices)],
            clusters=None if self.clusters is None else self.clusters[list(indices)],
            preferences=tuple(
                replace(p, i=where[p.i], j=where[p.j])
                for p in self.preferences
                if p.i in where and p.j in where
            ),
        )
