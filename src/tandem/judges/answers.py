"""Judges of stated answers: who agrees with whom, and who agrees with the answer key."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from tandem.answers import Read, key
from tandem.groups import Group


@dataclass(frozen=True)
class Votes:
    """Writes `clusters`: the same number for the same answer, -1 where none is stated.

    What `majority` counts. It reads completions alone, never the answer key.
    """

    read: Read
    name: str = "votes"

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        """Yield the groups with `clusters`."""
        for group in groups:
            answers = [self.read(c.text) for c in group.completions]
            number = {a: k for k, a in enumerate(dict.fromkeys(a for a in answers if a))}
            clusters = np.array([number.get(a, -1) for a in answers], np.int32)
            yield replace(group, clusters=clusters)


@dataclass(frozen=True)
class AnswerKey:
    """Writes `scores`: 1 where the stated answer is the key's, else 0. What `correct` reads."""

    read: Read
    name: str = "answer key"

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        """Yield the groups with `scores`; raises DataError where a prompt has no key."""
        for group in groups:
            right = key(group.prompt)
            scores = [float(self.read(c.text) == right) for c in group.completions]
            yield replace(group, scores=np.array(scores, np.float64))
