"""Whose stated answer is the key's; who agrees with whom is said by `agreement`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from tandem.data.record import Group
from tandem.data.verifiable import AnswerParser, answer_key


@dataclass(frozen=True)
class AnswerKey:
    """Writes `scores`: 1 where the stated answer is the key's, else 0. What `correct` reads."""

    read: AnswerParser
    name: str = "answer key"

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        """Yield the groups with `scores`; raises DataError where a prompt has no key."""
        for group in groups:
            right = answer_key(group.prompt)
            scores = [float(self.read(c.text) == right) for c in group.completions]
            yield replace(group, scores=np.array(scores, np.float64))
