"""People who compare: noisy, biased, drifting, or divided into camps without a common ranking.

An annotator is a frozen value with a `name` and two questions: `p(first, second, ...)`, the chance
that he prefers the first text, and the judge call, which writes one `Preference` for the
completions (0, 1), (2, 3), ... of every group. What he says about a pair depends on his seed, the
prompt's id and the pair alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from tandem.data.record import Group, Preference
from tandem.errors import ConfigError, DataError
from tandem.rng import Seed
from tandem.tasks.micro.posts import Meta
from tandem.tasks.micro.truth import true_worth, truth_parts

START_SEED = Seed(0)


def answer_pairs(group: Group) -> Iterator[tuple[int, int]]:
    """The pairs (0, 1), (2, 3), ... of a group's completions.

    Raises:
        DataError: the group has fewer than two completions.
    """
    if len(group) < 2:
        raise DataError(
            f"group `{group.id}` has {len(group)} completion(s)",
            "an annotator compares completions two by two",
            "sample with `n=2` before annotating",
        )
    return ((i, i + 1) for i in range(0, len(group) - 1, 2))


def known_facts(group: Group) -> Meta:
    """The facts that a group's prompt carries.

    Raises:
        DataError: the prompt does not come from the micro world.
    """
    if "skill" not in group.prompt.meta:
        raise DataError(
            f"group `{group.id}` has no facts in `prompt.meta`",
            "the micro world's truth reads the facts that its own prompts carry",
            "use prompts from `Micro(...).prompts(...)`, or another judge",
        )
    return group.prompt.meta


def _check(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(
            f"`{name}` is {value}",
            f"it has to lie between {low} and {high}",
            f"give a number between {low} and {high}",
        )


@dataclass(frozen=True)
class Truth:
    """Writes the true worth of every completion to `scores`."""

    name: str = "truth"

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        """Yield the same groups with `scores`."""
        for group in groups:
            meta = known_facts(group)
            scores = np.array([true_worth(meta, c.text) for c in group.completions], np.float64)
            yield replace(group, scores=scores)


@dataclass(frozen=True)
class Annotator:
    """Somebody who compares by the truth, with noise and biases.

    Attributes:
        flips: the chance that he answers the wrong way round.
        temperature: above 0, Bradley-Terry noise: he prefers a by sigmoid(difference / it).
        position: points of truth that being shown first is worth to him.
        length: points of truth that each further word is worth to him.
        seed: where his draws start.
    """

    name: str = "annotator"
    flips: float = 0.25
    temperature: float = 0.0
    position: float = 0.0
    length: float = 0.0
    seed: Seed = START_SEED

    def __post_init__(self) -> None:
        _check("flips", self.flips, 0.0, 0.5)
        _check("temperature", self.temperature, 0.0, math.inf)

    def p(self, meta: Meta, first: str, second: str) -> float:
        """The chance that he prefers the first text over the second."""
        gap = true_worth(meta, first) - true_worth(meta, second) + self.position
        gap += self.length * (len(first.split()) - len(second.split()))
        return self.flips + (1 - 2 * self.flips) * _sure(gap, self.temperature)

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        """Yield the same groups with `preferences`."""
        return _vote(groups, self.name, self.seed, lambda meta, a, b, _: self.p(meta, a, b))


@dataclass(frozen=True)
class TranslationRater:
    """Somebody who rates answers on a scale, as translations are rated, with noise.

    An answer of worth t gets the nearest of `levels` steps to t + noise, and of two answers he
    prefers the one that he rated higher; equal ratings are no preference.

    Attributes:
        noise: standard deviation of what is added to the worth, which lies between 0 and 1.
        levels: steps of the scale, 1 to `levels`.
        seed: where the draws start; a rating depends on the prompt's id and the text alone.
    """

    name: str = "rater"
    noise: float = 0.2
    levels: int = 5
    seed: Seed = START_SEED

    def __post_init__(self) -> None:
        _check("noise", self.noise, 0.0, math.inf)
        _check("levels", self.levels, 2, 1000)

    def rating(self, group: Group, text: str) -> float:
        """Return how he rates a text, from 1 to `levels`."""
        luck = float(self.seed.at(self.name, group.id, text).rng().normal())
        felt = true_worth(known_facts(group), text) + self.noise * luck
        return float(np.clip(round(1 + (self.levels - 1) * felt), 1, self.levels))

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        """Yield the same groups with a preference for the pairs (0, 1), (2, 3), ..."""
        for group in groups:
            rated = [self.rating(group, c.text) for c in group.completions]
            votes = tuple(
                Preference(i, j, 0.5 + 0.5 * float(np.sign(rated[i] - rated[j])), by=self.name)
                for i, j in answer_pairs(group)
            )
            yield replace(group, preferences=votes)


def _sure(gap: float, temperature: float) -> float:
    if temperature > 0:
        return 0.5 * (1 + math.tanh(gap / (2 * temperature)))
    return 0.5 if abs(gap) < 1e-9 else float(gap > 0)


def _vote(
    groups: Iterable[Group],
    name: str,
    seed: Seed,
    p: Callable[[Meta, str, str, Seed], float],
) -> Iterator[Group]:
    for group in groups:
        meta, votes = known_facts(group), []
        for i, j in answer_pairs(group):
            draw = seed.at(name, group.id, i)
            first, second = group.completions[i].text, group.completions[j].text
            chance = p(meta, first, second, draw.at("who"))
            likes = 0.5 if first == second else float(draw.uniform() < chance)
            votes.append(Preference(i, j, likes, by=name))
        yield replace(group, preferences=tuple(votes))


@dataclass(frozen=True)
class Camps:
    """A population in three camps, of equal size, whose majority preference is cyclic.

    Each camp ranks summaries by the band that their number of clauses falls in: two or fewer
    (short), three (medium), four or more (long). Camp 0 ranks short > medium > long, camp 1
    medium > long > short, camp 2 long > short > medium; so two in three prefer short to medium,
    medium to long, and long to short. Within a band all of them follow the truth.
    """

    name: str = "camps"
    seed: Seed = START_SEED

    def p(self, meta: Meta, first: str, second: str) -> float:
        """The share of the population that prefers the first text: the preference model's truth."""
        return float(np.mean([camp_prefers(camp, meta, first, second) for camp in range(3)]))

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        """Yield the same groups with `preferences`, each by a member drawn from the camps."""

        def one(meta: Meta, first: str, second: str, draw: Seed) -> float:
            return camp_prefers(draw.value % 3, meta, first, second)

        return _vote(groups, self.name, self.seed, one)


def length_band(meta: Meta, text: str) -> int:
    """0 short, 1 medium, 2 long: by clauses in summaries, by words in the other skills."""
    if meta["skill"] == "summaries":
        return int(np.clip(truth_parts(meta, text)["clauses"] - 2, 0, 2))
    return int(np.clip((len(text.split()) - 8) // 4, 0, 2))


def camp_prefers(camp: int, meta: Meta, first: str, second: str) -> float:
    """The chance that a member of a camp prefers the first text."""
    ranks = [(length_band(meta, text) - camp) % 3 for text in (first, second)]
    if ranks[0] != ranks[1]:
        return float(ranks[0] < ranks[1])
    return _sure(true_worth(meta, first) - true_worth(meta, second), 0.0)


Drift = Literal["rotation", "flip", "prompts"]


@dataclass(frozen=True)
class Drifting:
    """Truth that changes from round to round, as a judge of scores and of pairs.

    Attributes:
        kind: "rotation" turns the weight slowly from what is right to what is short; "flip"
            changes the sign of one feature, length, at round `at`; "prompts" leaves the truth
            alone, since only the prompts shift (`Micro.prompts(..., round=...)`).
        round: which round it is.
        angle: radians per round of the rotation.
        at: the round of the flip.
        flips: the chance that a comparison comes out the wrong way round.
    """

    kind: Drift = "rotation"
    round: int = 0
    angle: float = 0.2
    at: int = 3
    flips: float = 0.25
    name: str = "drifting"
    seed: Seed = START_SEED

    def __post_init__(self) -> None:
        _check("flips", self.flips, 0.0, 0.5)
        if self.kind not in ("rotation", "flip", "prompts"):
            raise ConfigError(
                f"`kind` is {self.kind!r}",
                "truth drifts in one of three ways",
                'use "rotation", "flip" or "prompts"',
            )

    def worth(self, meta: Meta, text: str) -> float:
        """The truth of this round."""
        right, short = true_worth(meta, text), 3.0 - len(text.split()) / 5.0
        if self.kind == "rotation":
            turned = self.angle * self.round
            return math.cos(turned) * right + math.sin(turned) * short
        if self.kind == "flip":
            return right + (0.5 if self.round < self.at else -0.5) * short
        return right

    def scores(self, groups: Iterable[Group]) -> Iterator[Group]:
        """Yield the same groups with this round's truth in `scores`."""
        for group in groups:
            worth = [self.worth(known_facts(group), c.text) for c in group.completions]
            yield replace(group, scores=np.array(worth, np.float64))

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        """Yield the same groups with this round's `preferences`."""

        def one(meta: Meta, first: str, second: str, _: Seed) -> float:
            gap = self.worth(meta, first) - self.worth(meta, second)
            return self.flips + (1 - 2 * self.flips) * _sure(gap, 0.0)

        return _vote(groups, f"{self.name}-{self.round}", self.seed, one)
