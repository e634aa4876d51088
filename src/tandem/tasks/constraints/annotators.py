"""Who judges answers to `constraints`: the truth, raters with noise, and people who compare.

The truth about an answer is the share of its constraints that it keeps. It says nothing about
what else makes an answer good, and nothing of it is learned.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from tandem.data.record import Group, Preference
from tandem.errors import ConfigError, DataError
from tandem.rng import Seed
from tandem.tasks.constraints.checkers import Constraint, read_constraint
from tandem.tasks.constraints.scoring import share_kept
from tandem.tasks.micro.annotators import answer_pairs

START = Seed(0)
RULES = 2
"""Edition of the rules by which a constraint is kept, of the kinds, and of who judges by them.

It is part of every judge here, so that a run never mixes answers judged by two editions.
"""


def constraints_of(group: Group) -> list[Constraint]:
    """The constraints that a group's prompt carries.

    Raises:
        DataError: the prompt does not come from this task.
    """
    if not group.prompt.meta.get("constraints"):
        raise DataError(
            f"group `{group.id}` has no constraints in `prompt.meta`",
            "the truth of the task `constraints` reads what its own prompts ask for",
            "use prompts from `Constraints().prompts(...)`, or another judge",
        )
    return [read_constraint(facts) for facts in group.prompt.meta["constraints"]]


def true_shares(group: Group, *, loose: bool = False) -> list[float]:
    """The share of the constraints kept, for every completion of a group."""
    asked = constraints_of(group)
    return [share_kept(asked, c.text, loose=loose) for c in group.completions]


@dataclass(frozen=True)
class ConstraintTruth:
    """Writes the share of constraints kept to `scores`.

    Attributes:
        loose: forgive what chat models wrap around an answer, see `scoring`.
        rules: edition of the rules.
    """

    name: str = "truth"
    loose: bool = False
    rules: int = RULES

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        """Yield the same groups with `scores` between 0 and 1."""
        for group in groups:
            yield replace(group, scores=np.array(true_shares(group, loose=self.loose), np.float64))


@dataclass(frozen=True)
class ConstraintRater:
    """Somebody who rates answers by what they keep, and by taste where he has one, with noise.

    Attributes:
        noise: standard deviation of what is added to each rating.
        length: points of truth that each further word is worth, from 0 to `enough` words.
        enough: words beyond which more are worth nothing.
        seed: where the draws start; a rating depends on the prompt's id and the text alone.
        rules: edition of the rules.
    """

    name: str = "rater"
    noise: float = 0.25
    length: float = 0.0
    enough: int = 300
    seed: Seed = START
    rules: int = RULES

    def worth(self, text: str, truth: float) -> float:
        """What an answer is worth to this person before noise."""
        return truth + self.length * min(len(text.split()), self.enough)

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        """Yield the same groups with `scores`."""
        for group in groups:
            told = zip(group.completions, true_shares(group), strict=True)
            rated = [self.worth(c.text, t) + self._noise(group, c.text) for c, t in told]
            yield replace(group, scores=np.array(rated, np.float64))

    def _noise(self, group: Group, text: str) -> float:
        return self.noise * float(self.seed.at(self.name, group.id, text).rng().normal())


@dataclass(frozen=True)
class ConstraintAnnotator:
    """Somebody who compares two answers by what they keep and a little by taste, and errs.

    He prefers a to b by flips + (1 - 2 flips) sigmoid((worth a - worth b) / temperature).

    Attributes:
        flips: the chance that he answers the wrong way round.
        temperature: noise between answers of nearly one worth; 0 is none.
        length: points of truth that each further word is worth to him, up to `enough` words.
        enough: words beyond which more are worth nothing.
        seed: where his draws start; what he says depends on it, the prompt's id and the pair.
        rules: edition of the rules.
    """

    compares: ClassVar[bool] = True

    name: str = "annotator"
    flips: float = 0.25
    temperature: float = 0.1
    length: float = 0.0005
    enough: int = 300
    seed: Seed = START
    rules: int = RULES

    def __post_init__(self) -> None:
        if not 0 <= self.flips <= 0.5 or self.temperature < 0:
            raise ConfigError(
                f"an annotator with flips = {self.flips} and temperature = {self.temperature}",
                "flips is the chance of a wrong answer, at most 0.5; temperature is not negative",
                "give 0 <= flips <= 0.5 and temperature >= 0",
            )

    def p(self, gap: float) -> float:
        """The chance that he prefers the first of two answers.

        Args:
            gap: worth of the first minus worth of the second.
        """
        if self.temperature > 0:
            sure = 0.5 * (1 + math.tanh(gap / (2 * self.temperature)))
        else:
            sure = 0.5 if abs(gap) < 1e-9 else float(gap > 0)
        return self.flips + (1 - 2 * self.flips) * sure

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        """Yield the same groups with a preference for the pairs (0, 1), (2, 3), ..."""
        taste = ConstraintRater(length=self.length, enough=self.enough)
        for group in groups:
            texts = [c.text for c in group.completions]
            shares = true_shares(group)
            worth = [taste.worth(t, share) for t, share in zip(texts, shares, strict=True)]
            votes: list[Preference] = []
            for i, j in answer_pairs(group):
                chance = self.p(worth[i] - worth[j])
                said = float(self.seed.at(self.name, group.id, i).uniform() < chance)
                votes.append(Preference(i, j, 0.5 if texts[i] == texts[j] else said, by=self.name))
            yield replace(group, preferences=tuple(votes))
