"""Agreement: which of a prompt's completions say the same. It writes `clusters`, and no score.

What makes two answers the same is a backend, one interface for all: it is given prompts with
their texts and returns a cluster number for each text. Here are those that read the texts alone;
`judges.meaning` has those that ask a model (entailment, embeddings).

The share of the largest cluster is a prompt's confidence (`operators.confidence`), as in
self-consistency (arXiv:2203.11171); RLP-SPG prefers what the majority says (arXiv:2403.19279).
A cluster below 0 means that no answer was found: it counts among the n, and is never a majority.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import numpy as np

from tandem.data.record import Group, Prompt
from tandem.data.verifiable import AnswerParser, StatedAnswer
from tandem.judges import ScoringFunction
from tandem.machine import Machine
from tandem.rng import Seed

NO_ANSWER = -1
GROUPS_PER_CLUSTERING = 64

PromptAnswers = tuple[Prompt, Sequence[str]]
Clusterer = Callable[[Sequence[PromptAnswers], Seed], list[list[int]]]
"""(prompts with their texts, seed) -> a cluster number for each text of each prompt."""


@runtime_checkable
class Equivalence(Protocol):
    """What makes two completions of a prompt the same: a frozen value that opens lazily."""

    def open(self, machine: Machine) -> Clusterer:
        """Load what it needs, once."""
        ...


@dataclass(frozen=True)
class SameText:
    """Completions are the same if their texts are, but for white space."""

    def open(self, machine: Machine) -> Clusterer:
        """Nothing to load."""
        return cluster_by_key(lambda _, text: " ".join(text.split()))


@dataclass(frozen=True)
class SameAnswer:
    """Completions are the same if the answers that they state are: self-consistency.

    Attributes:
        read: how an answer is read from a text.
    """

    read: AnswerParser = field(default_factory=StatedAnswer)

    def open(self, machine: Machine) -> Clusterer:
        """Nothing to load."""
        return cluster_by_key(lambda _, text: self.read(text) or None)


@dataclass(frozen=True)
class Agreement:
    """A judge that says which completions of a prompt mean the same; it writes `clusters`.

    >>> from tandem import Completion
    >>> texts = ("the answer is 4", "the answer is 5", "so the answer is 4")
    >>> group = Group(Prompt("q1", "2 + 2?"), tuple(Completion(t) for t in texts))
    >>> next(Agreement()([group])).clusters.tolist()
    [0, 1, 0]

    Attributes:
        same: what makes two completions the same.
        seed: orders the completions where the order matters (greedy clustering).
    """

    same: Equivalence = SameAnswer()
    seed: Seed = Seed()
    name: str = "agreement"
    machine: Machine = field(default=Machine(), compare=False)

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        """Yield the groups with `clusters`."""
        return self.open()(groups)

    def open(self) -> ScoringFunction:
        """Open the backend once and return the judge that keeps it."""
        clustered = self.same.open(self.machine)

        def judge(groups: Iterable[Group]) -> Iterator[Group]:
            stream = iter(groups)
            while chunk := list(itertools.islice(stream, GROUPS_PER_CLUSTERING)):
                asked = [(g.prompt, [c.text for c in g.completions]) for g in chunk]
                for group, labels in zip(chunk, clustered(asked, self.seed), strict=True):
                    yield replace(group, clusters=np.array(labels, np.int32))

        return judge


def cluster_texts(
    same: Equivalence,
    prompt: Prompt,
    texts: Sequence[str],
    seed: Seed = Seed(),
    machine: Machine = Machine(),
) -> list[int]:
    """Return a cluster number for each of one prompt's texts."""
    return same.open(machine)([(prompt, texts)], seed)[0]


def cluster_by_key(key: Callable[[Prompt, str], Hashable | None]) -> Clusterer:
    """Put texts with equal keys together; None is no answer."""

    def clustered(asked: Sequence[PromptAnswers], seed: Seed) -> list[list[int]]:
        return [number_keys([key(prompt, text) for text in texts]) for prompt, texts in asked]

    return clustered


def number_keys(keys: Sequence[Hashable | None]) -> list[int]:
    """Return 0, 1, ... by first appearance, and -1 for None."""
    known: dict[Hashable, int] = {}
    return [NO_ANSWER if k is None else known.setdefault(k, len(known)) for k in keys]


Comparing = Generator[list[tuple[str, str]], list[bool], list[int]]
"""Asks whether pairs of texts are the same, is sent the verdicts, returns the clusters."""


def cluster_greedily(
    texts: Sequence[str | None], order: Sequence[int], floor: float = 0.0
) -> Comparing:
    """Cluster texts one after the other, each against the first member of every cluster.

    It joins the first cluster whose first member is the same, or opens one. Equal texts are never
    compared. The result depends on the order where sameness is not transitive.

    Args:
        texts: the texts; None is no answer.
        order: who comes first.
        floor: stop when no cluster can hold this share any more; what is left is no answer.
    """
    left = {i: texts[i] for i in order if texts[i] is not None}
    heads: list[str] = []
    members: list[list[int]] = []
    while left:
        largest = max(map(len, members), default=0)
        if largest + len(left) < floor * len(texts):
            break
        text = next(iter(left.values()))
        assert text is not None
        equal = [i for i, other in left.items() if other == text]
        left = {i: other for i, other in left.items() if other != text}
        verdicts = (yield [(head, text) for head in heads]) if heads else []
        if True in verdicts:
            members[verdicts.index(True)] += equal
        else:
            heads.append(text)
            members.append(equal)
    where = {i: k for k, group in enumerate(members) for i in group}
    return number_keys([where.get(i) for i in range(len(texts))])


def run_clusterings(
    running: Sequence[Comparing],
    verdicts: Callable[[Sequence[tuple[int, str, str]]], list[bool]],
) -> list[list[int]]:
    """Run many clusterings in step, so that their comparisons fill batches.

    Args:
        running: one for each prompt.
        verdicts: answers (which clustering, text, text).
    """
    done: dict[int, list[int]] = {}
    sent: dict[int, list[bool] | None] = dict.fromkeys(range(len(running)))
    while sent:
        wanted: dict[int, list[tuple[str, str]]] = {}
        for k, answers in sent.items():
            try:
                wanted[k] = running[k].send(answers)  # type: ignore[arg-type]
            except StopIteration as end:
                done[k] = end.value
        replies = iter(verdicts([(k, *pair) for k, pairs in wanted.items() for pair in pairs]))
        sent = {k: list(itertools.islice(replies, len(pairs))) for k, pairs in wanted.items()}
    return [done[k] for k in range(len(running))]
