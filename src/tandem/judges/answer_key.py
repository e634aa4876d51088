"""A judge for questions with a known answer: 1 where a completion states it, else 0."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.data.verifiable import AnswerParser, answer_key
from tandem.judges import Judge


@dataclass(frozen=True)
class AnswerKey:
    """A judge that scores 1 where a completion states the known answer, else 0.

    The operator `correct` reads these scores.

    >>> from tandem import Completion, Prompt
    >>> from tandem.data.verifiable import StatedAnswer
    >>> prompt = Prompt("q1", "2 + 2?", meta={"answer": "4"})
    >>> group = Group(prompt, (Completion("the answer is 4"), Completion("the answer is 5")))
    >>> next(AnswerKey(StatedAnswer())([group])).scores.tolist()
    [1.0, 0.0]

    Attributes:
        read: how an answer is read from a text.
        name: the judge's name.
    """

    read: AnswerParser
    name: str = "answer key"

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        """Yield the groups with `scores`; raises DataError where a prompt has no key."""
        for group in groups:
            right = answer_key(group.prompt)
            scores = [float(self.read(c.text) == right) for c in group.completions]
            yield replace(group, scores=np.array(scores, np.float64))


def has_truth(judge: Judge | None, prompts: Groups) -> bool:
    """True where a truth can judge answers to these prompts: an answer key needs theirs."""
    if not isinstance(judge, AnswerKey):
        return judge is not None
    return all("answer" in group.prompt.meta for group in prompts[:1])  # of a file, all or none
