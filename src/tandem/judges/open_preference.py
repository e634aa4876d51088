"""P(a is better than b) of any judge: for some pairs of a group's answers, or for all at once.

    preference = open_preference(PreferenceModel(rho), machine)
    (p,) = preference([(group, [(0, 1)])])                  # [1] P(completion 0 beats 1)
    (P,) = preference.matrices([group])                     # [n, n], P + P.T = 1
    (P,) = preference.against([mine], [theirs])             # [n, m] of two groups of one prompt

A judge that knows probabilities has a method `open_pairs`: preference models of two arguments,
scalar plus cyclic models, rewards (Bradley-Terry), the micro task's people. Any other judge is
asked about each pair: one that compares (0, 1), (2, 3), ... by its labels, one that scores by
sigma of the difference.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import is_dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np

from tandem.data.pair_sequences import Pair
from tandem.data.record import FloatArray, Group
from tandem.errors import DataError, JudgeError
from tandem.judges import Judge, ScoringFunction, open_judge
from tandem.judges.llm import is_unjudged
from tandem.machine import Machine
from tandem.models.tokenise import TOKENIZER_KEY
from tandem.statistics import win_probability_of

GroupPairs = tuple[Group, Sequence[Pair]]
"""A group, and which of its completions shall be compared."""

PairProbability = Callable[[Iterable[GroupPairs]], Iterator[FloatArray]]
"""For each group [M] probabilities that the first of each pair is better."""


@runtime_checkable
class PairwiseJudge(Protocol):
    """A judge that knows how likely one answer is preferred to another."""

    @property
    def name(self) -> str:
        """The judge's name in tables."""
        ...

    def open_pairs(self) -> PairProbability:
        """Open what is needed once, and return the function that keeps it."""
        ...


class OpenPreference:
    """A judge opened as a preference: P(a beats b) of pairs, of a group, of two groups.

    Args:
        probability: gives the probabilities of the pairs asked for.
        name: the judge's name.
    """

    def __init__(self, probability: PairProbability, name: str) -> None:
        self.probability, self.name = probability, name

    def __call__(self, asked: Iterable[GroupPairs]) -> Iterator[FloatArray]:
        """Yield [M] probabilities for the M pairs asked of each group.

        Raises:
            JudgeError: one is not a probability.
        """
        for group, p in zip(*_both(asked, self.probability), strict=True):
            if not np.isfinite(p).all() or (len(p) and (p.min() < 0 or p.max() > 1)):
                raise JudgeError(
                    f"`{self.name}` gave {p.tolist()[:8]} for pairs of prompt `{group.id}`",
                    "how often one answer beats another is a number from 0 to 1",
                    "look at these answers: an empty one, or one longer than the judge can read?",
                )
            yield p

    def matrices(self, groups: Iterable[Group]) -> Iterator[FloatArray]:
        """Yield [n, n] of each group: P(completion i beats j), one half on the diagonal."""
        sizes, asked = itertools.tee(groups)
        pairs = self((g, list(itertools.combinations(range(len(g)), 2))) for g in asked)
        for group, p in zip(sizes, pairs, strict=True):
            matrix = np.full((len(group), len(group)), 0.5)
            above = np.triu_indices(len(group), 1)
            matrix[above] = p
            matrix.T[above] = 1 - p
            yield matrix

    def against(self, mine: Iterable[Group], theirs: Iterable[Group]) -> Iterator[FloatArray]:
        """Yield [n, m] for two groups of the same prompt: P(my completion i beats their j).

        Raises:
            DataError: two groups have different prompts.
        """
        shapes, asked = itertools.tee(zip(mine, theirs, strict=True))
        for (a, b), p in zip(shapes, self(_crossed(a, b) for a, b in asked), strict=True):
            yield p.reshape(len(a), len(b))


def open_preference(judge: Judge | PairwiseJudge, machine: Machine) -> OpenPreference:
    """Open a judge once, on this machine, as a preference.

    Args:
        judge: who is asked; it need not know probabilities, see above.
        machine: where models run.
    """
    if isinstance(judge, PairwiseJudge):
        if is_dataclass(judge) and hasattr(judge, "machine"):
            judge = replace(judge, machine=replace(machine, lora=None))  # type: ignore[type-var,assignment]
        return OpenPreference(judge.open_pairs(), judge.name)
    return OpenPreference(_ask_pairs(open_judge(judge, machine), judge.name), judge.name)


def _both(
    asked: Iterable[GroupPairs], probability: PairProbability
) -> tuple[Iterator[Group], Iterator[FloatArray]]:
    given, seen = itertools.tee(asked)
    return (group for group, _ in given), probability(seen)


def _crossed(mine: Group, theirs: Group) -> GroupPairs:
    """Join two groups, and pair each completion of the first with each of the second.

    Where their tokens are of two tokenizers, the mark of whose they are is taken off, so that a
    model reads the texts.
    """
    if mine.id != theirs.id:
        raise DataError(
            f"prompt `{mine.id}` stands beside `{theirs.id}`",
            "a comparison is between answers to the same prompt",
            "sample both from the same prompts, in the same order",
        )
    n, m = len(mine), len(theirs)
    prompt, meta = mine.prompt, mine.prompt.meta
    if meta.get(TOKENIZER_KEY) != theirs.prompt.meta.get(TOKENIZER_KEY):
        prompt = replace(prompt, meta={k: v for k, v in meta.items() if k != TOKENIZER_KEY})
    both = Group(prompt, mine.completions + theirs.completions)
    return both, list(itertools.product(range(n), range(n, n + m)))


def _ask_pairs(judge: ScoringFunction, name: str) -> PairProbability:
    """Ask a judge about each pair as two neighbours; one that no answer counts of is one half."""

    def probability(asked: Iterable[GroupPairs]) -> Iterator[FloatArray]:
        given, seen = itertools.tee(asked)
        side_by_side = judge(_neighbours(g, pairs) for g, pairs in seen)
        for (_, pairs), group in zip(given, side_by_side, strict=True):
            yield _read_labels(group, len(pairs), name)

    return probability


def _neighbours(group: Group, pairs: Sequence[Pair]) -> Group:
    flat = tuple(group.completions[i] for pair in pairs for i in pair)
    return Group(group.prompt, flat)


def _read_labels(group: Group, pairs: int, name: str) -> FloatArray:
    if group.scores is not None:
        return win_probability_of(group.scores[0::2] - group.scores[1::2])
    if not group.preferences and pairs and not is_unjudged(group):
        raise JudgeError(
            f"`{name}` wrote neither scores nor preferences for prompt `{group.id}`",
            "a preference is read from one of the two",
            "use a preference model, a reward model, or a judge that compares or scores",
        )
    p = np.full(pairs, 0.5)
    for vote in group.preferences:
        first, second = min(vote.i, vote.j), max(vote.i, vote.j)
        if first % 2 == 0 and second == first + 1:
            p[first // 2] = vote.p if vote.i == first else 1 - vote.p
    return p
