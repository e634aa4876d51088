"""People who compare: noisy, biased, drifting, or divided into camps without a common ranking.

    who          P(a is preferred to b)
    Annotator    the truth, with noise and biases
    Camps        three camps alone: a circle
    Tastes       a share of camps among people who follow the truth: from a ranking to a circle
    Drifting     a truth that changes from round to round

An annotator is a frozen value with a `name` and two questions: `p(first, second, ...)`, the chance
that he prefers the first text, and the judge call, which writes one `Preference` for the
completions (0, 1), (2, 3), ... of every group. What he says about a pair depends on his seed, the
prompt's id and the pair alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from tandem.data.record import FloatArray, Group, Preference
from tandem.errors import ConfigError, DataError
from tandem.judges.open_preference import GroupPairs, PairProbability
from tandem.rng import Seed
from tandem.statistics.numerics import Ints
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

    compares: ClassVar[bool] = True
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

    def open_pairs(self) -> PairProbability:
        """Return the exact chance that he prefers the first of two answers."""
        return exact_probability(self.p)


def exact_probability(p: Callable[[Meta, str, str], float]) -> PairProbability:
    """Return P(i is preferred to j) of the pairs asked of each group; no vote is drawn.

    Args:
        p: the chance by the facts and two texts.
    """

    def probability(asked: Iterable[GroupPairs]) -> Iterator[FloatArray]:
        for group, pairs in asked:
            meta, text = known_facts(group), [c.text for c in group.completions]
            yield np.array([p(meta, text[i], text[j]) for i, j in pairs], np.float64)

    return probability


@dataclass(frozen=True)
class TranslationRater:
    """Somebody who rates answers on a scale, as translations are rated, with noise.

    An answer of worth t gets the nearest of `levels` steps to t + noise, and of two answers he
    prefers the one that he rated higher; equal ratings are no preference.

    Attributes:
        noise: standard deviation of what is added to the worth, which lies between 0 and 1.
        levels: steps of the scale, 1 to `levels`.
        flips: the chance that a preference is written down the wrong way round.
        seed: where the draws start; a rating depends on the prompt's id and the text alone.
    """

    compares: ClassVar[bool] = True
    name: str = "rater"
    noise: float = 0.2
    levels: int = 5
    flips: float = 0.0
    seed: Seed = START_SEED

    def __post_init__(self) -> None:
        _check("noise", self.noise, 0.0, math.inf)
        _check("levels", self.levels, 2, 1000)
        _check("flips", self.flips, 0.0, 0.5)

    def rating(self, group: Group, text: str) -> float:
        """Return how he rates a text, from 1 to `levels`."""
        luck = float(self.seed.at(self.name, group.id, text).rng().normal())
        felt = true_worth(known_facts(group), text) + self.noise * luck
        return float(np.clip(round(1 + (self.levels - 1) * felt), 1, self.levels))

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        """Yield the same groups with a preference for the pairs (0, 1), (2, 3), ..."""
        for group in groups:
            rated = [self.rating(group, c.text) for c in group.completions]
            votes = [
                Preference(i, j, self._likes(group, i, rated[i] - rated[j]), by=self.name)
                for i, j in answer_pairs(group)
            ]
            yield replace(group, preferences=tuple(votes))

    def _likes(self, group: Group, i: int, gap: float) -> float:
        """Return 1, 0 or, for equal ratings, one half; sometimes the wrong way round."""
        wrong = self.seed.at(self.name, "flip", group.id, i).uniform() < self.flips
        return 0.5 + 0.5 * float(np.sign(-gap if wrong else gap))


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

    compares: ClassVar[bool] = True
    name: str = "camps"
    seed: Seed = START_SEED

    def p(self, meta: Meta, first: str, second: str) -> float:
        """The share of the population that prefers the first text: the preference model's truth."""
        return float(np.mean([camp_prefers(camp, meta, first, second) for camp in range(3)]))

    def open_pairs(self) -> PairProbability:
        """Return the exact share of the population that prefers the first of two answers."""
        return exact_probability(self.p)

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        """Yield the same groups with `preferences`, each by a member drawn from the camps."""

        def one(meta: Meta, first: str, second: str, draw: Seed) -> float:
            return camp_prefers(draw.value % 3, meta, first, second)

        return _vote(groups, self.name, self.seed, one)


@dataclass(frozen=True)
class Tastes:
    """A population from transitive to cyclic, by one dial.

    A share `cyclic` of it stands in three camps, as those of `Camps`. The rest follows the truth,
    with the noise of Bradley and Terry. So at 0 the population's preference is exactly a reward's,
    truth / temperature, and at 1 two in three prefer short to medium, medium to long and long to
    short summaries, which no reward can say. Summaries of one band are compared by the truth, with
    that noise, by everybody.

    >>> from tandem.tasks.micro import Tastes
    >>> Tastes(cyclic=0.5).name
    'tastes'

    Attributes:
        cyclic: share of the population in the camps.
        temperature: points of truth in a unit of log-odds.
        flips: the chance that a vote is written down the wrong way round.
        seed: where draws start.
    """

    compares: ClassVar[bool] = True
    name: str = "tastes"
    cyclic: float = 1.0
    temperature: float = 1.0
    flips: float = 0.0
    seed: Seed = START_SEED

    def __post_init__(self) -> None:
        _check("cyclic", self.cyclic, 0.0, 1.0)
        _check("flips", self.flips, 0.0, 0.5)
        _check("temperature", self.temperature, 1e-9, math.inf)

    def p(self, meta: Meta, first: str, second: str) -> float:
        """The share of the population that says it prefers the first text."""
        gap = true_worth(meta, first) - true_worth(meta, second)
        band, other = (np.array([length_band(meta, text)]) for text in (first, second))
        return float(self._shares(np.array([gap]), band, other)[0])

    def _shares(self, gap: FloatArray, band: Ints, other: Ints) -> FloatArray:
        """[M] the same from differences of truth and bands of length."""
        likes = 0.5 * (1 + np.tanh(gap / (2 * self.temperature)))
        around = (RANKED_FIRST[band, other] - likes) * (band != other)
        return self.flips + (1 - 2 * self.flips) * (likes + self.cyclic * around)

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        """Yield the same groups with `preferences`, each by somebody drawn from the population."""
        return _vote(groups, self.name, self.seed, lambda meta, a, b, _: self.p(meta, a, b))

    def open_pairs(self) -> PairProbability:
        """Return the exact share of the population that prefers the first of two answers.

        Each answer is read once, however many it is compared with.
        """

        def probability(asked: Iterable[GroupPairs]) -> Iterator[FloatArray]:
            for group, pairs in asked:
                meta, texts = known_facts(group), [c.text for c in group.completions]
                worth = np.array([true_worth(meta, text) for text in texts])
                band = np.array([length_band(meta, text) for text in texts])
                i, j = np.array(pairs, np.int64).reshape(-1, 2).T
                yield self._shares(worth[i] - worth[j], band[i], band[j])

        return probability


def length_band(meta: Meta, text: str) -> int:
    """0 short, 1 medium, 2 long: by clauses in summaries, by words in the other skills."""
    if meta["skill"] == "summaries":
        return int(np.clip(truth_parts(meta, text)["clauses"] - 2, 0, 2))
    return int(np.clip((len(text.split()) - 8) // 4, 0, 2))


def camp_prefers(camp: int, meta: Meta, first: str, second: str) -> float:
    """The chance that a member of a camp prefers the first text."""
    bands = length_band(meta, first), length_band(meta, second)
    if bands[0] != bands[1]:
        return float(is_ranked_first(camp, *bands))
    return _sure(true_worth(meta, first) - true_worth(meta, second), 0.0)


def is_ranked_first(camp: int, band: int, other: int) -> bool:
    """True where a camp ranks one band of length before another."""
    return (band - camp) % 3 < (other - camp) % 3


RANKED_FIRST = np.array(
    [
        [np.mean([is_ranked_first(camp, band, other) for camp in range(3)]) for other in range(3)]
        for band in range(3)
    ]
)
"""[3, 3] share of the camps that rank one band of length before another."""

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

    compares: ClassVar[bool] = True
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

    def at_round(self, round: int) -> Drifting:
        """Return the same people in another round."""
        return replace(self, round=round)


@dataclass(frozen=True)
class DriftingTruth:
    """Writes what a text is worth to people whose taste moves, as it is in their round."""

    taste: Drifting = Drifting()
    name: str = "truth"

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        """Yield the same groups with `scores`."""
        return self.taste.scores(groups)

    def at_round(self, round: int) -> DriftingTruth:
        """Return the truth of another round."""
        return replace(self, taste=self.taste.at_round(round))
