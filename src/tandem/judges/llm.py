"""Language models as judges: pairs labelled by the probabilities of two letters, and ratings.

RLAIF (Lee et al. 2023, arXiv:2309.00267) and constitutional AI (Bai et al. 2022,
arXiv:2212.08073) ask which of two answers is better and read the label from the log-probability
of "(A)" and "(B)". With d = log P(first) - log P(second), over both orders and all principles,

    probability averaging    p = mean of sigma(d)     = 1/2 (1 + mean of tanh(d / 2))
    logit averaging          p = sigma(mean of d)

A judge that only follows the position has d and -d in the two orders, so p = 1/2 exactly. Where
d = content + bias, logit averaging recovers sigma(content) and probability averaging shrinks it.

d-RLAIF asks for a number instead: s = sum i P(i) / sum P(i), mapped to [-1, 1].

What was read (d in each order, mass on other words) stays in `prompt.meta["ai"]`, from which
`judges.position_bias` measures how far the position decided. See docs/theory/ai_feedback.md.
No torch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np

from tandem.data.record import FloatArray, Group, Preference, Prompt
from tandem.engines import Sampling
from tandem.engines.language_models import LanguageModel, OpenLanguageModel
from tandem.errors import ConfigError, DataError, JudgeError
from tandem.judges.templates import CompareFormat, RateFormat
from tandem.machine import Machine
from tandem.rng import Seed

A = TypeVar("A")
AI_KEY = "ai"
GROUPS_PER_REQUEST = 256
"""Groups that are asked about at a time."""
SUREST = 30.0
"""Log-odds beyond this many nats count as this many: a letter without any mass has no log."""

Orders = Literal["both", "one"]
Average = Literal["probability", "logit"]


def join_readings(d: Sequence[float] | FloatArray, average: Average) -> float:
    """Join readings of one pair to p = P(the first is better).

    Args:
        d: log-odds of the first over the second, one for each order and principle.
        average: `probability` or `logit`.
    """
    odds = np.asarray(d, np.float64)
    if average == "logit":
        return 0.5 * (1 + math.tanh(float(odds.mean()) / 2))
    return 0.5 * (1 + float(np.tanh(odds / 2).mean()))


def star_score(logp: FloatArray) -> float:
    """Return the d-RLAIF score in [-1, 1] of [L] log-masses of the numbers 1..L.

    s = sum i P(i) / sum P(i), then 2 (s - 1) / (L - 1) - 1: all mass on 1 is -1, on L it is 1.
    """
    p = np.exp(logp - logp.max())
    s = float((p * np.arange(1, len(p) + 1)).sum() / p.sum())
    return 2 * (s - 1) / (len(p) - 1) - 1


@dataclass(frozen=True)
class Labeller:
    """A judge that asks a language model which of two completions is better.

    It compares completions (0, 1), (2, 3), ... and writes soft preferences: the label is read off
    the probabilities of the letters "(A)" and "(B)", and no text is generated.

    >>> from tandem import Server
    >>> labeller = Labeller(Server("gpt-4o-mini"), principles=("Be honest.",))
    >>> labeller.name, labeller.p([2.0, -2.0])  # only the position decided: a tie
    ('gpt-4o-mini', 0.5)

    Two answers with the same text are a tie, and nothing is asked.

    Attributes:
        lm: who is asked.
        compare: the template.
        principles: the pair is compared by each, and the readings are joined.
        orders: `both`, or `one`: the order in which they come, with its position bias.
        average: how readings are joined, see above.
        hard: round the label to 1 or 0 (.5 stays), as a click would be.
        clamp: keep p within [clamp, 1 - clamp]; .4 is CAI's for chains of thought, whose
            probabilities are near 0 or 1. It bounds the learned margin by logit(1 - clamp).
        reasons: longest chain of thought, where the template asks for one.
        name: in `Preference.by`.
        machine: where it runs; the `judge` stage puts its own in.

    Raises:
        ConfigError: no principle, or a clamp outside [0, .5].
    """

    compares: ClassVar[bool] = True
    lm: LanguageModel
    compare: CompareFormat = field(default=CompareFormat())
    principles: tuple[str, ...] = ("Be helpful, honest and harmless.",)
    orders: Orders = "both"
    average: Average = "probability"
    hard: bool = False
    clamp: float | None = None
    reasons: int = 256
    name: str = ""
    machine: Machine = field(default=Machine(), compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.lm.name)
        if not self.principles or not 0 <= (self.clamp or 0) <= 0.5:
            raise ConfigError(
                f"a labeller with {len(self.principles)} principles and clamp = {self.clamp}",
                "a comparison follows a principle, and p is kept within [clamp, 1 - clamp]",
                "give a principle, and a clamp between 0 and 0.5",
            )

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        """Yield the groups with `preferences`."""
        return self.open()(groups)

    def open(self) -> OpenLabeller:
        """Open the language model once."""
        return OpenLabeller(self, self.lm.open(self.machine))

    def p(self, d: Sequence[float] | FloatArray) -> float:
        """Return the label that readings [R] of one pair give."""
        p = join_readings(d, self.average)
        if self.hard:
            p = 0.5 * (1 + float(np.sign(p - 0.5)))
        return p if self.clamp is None else min(max(p, self.clamp), 1 - self.clamp)


class OpenLabeller:
    """A `Labeller` with its language model loaded: the call that compares completions."""

    def __init__(self, labeller: Labeller, speaker: OpenLanguageModel) -> None:
        self.labeller, self.speaker = labeller, speaker
        self.labels, self.failed = 0, 0

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        """Yield the groups with `preferences`.

        Raises:
            DataError: a group with one completion.
            JudgeError: the model gave neither letter any mass, whatever it was asked.
        """
        stream = iter(groups)
        while chunk := list(itertools.islice(stream, GROUPS_PER_REQUEST)):
            questions = [list(self._questions(group)) for group in chunk]
            asked = [q for own in questions for q in own]
            heard = answers_by_group(questions, self._heard(asked))
            labelled = [self._labelled(g, own) for g, own in zip(chunk, heard, strict=True)]
            if self.failed and not self.labels:
                raise _silent(asked[0].id, "neither letter")
            yield from labelled

    def describe_cost(self) -> dict[str, Any]:
        """Return what the model's answers cost, and how many pairs have no label."""
        told = cost_of(self.speaker)
        if self.failed:
            every = self.labels + self.failed
            line = f"{self.failed} of {every} pairs have no label: a question about them failed"
            told |= {"unlabelled": self.failed, "text": "; ".join([*_lines(told), line])}
        return told

    def _questions(self, group: Group) -> Iterator[Prompt]:
        how = self.labeller
        for i, j in neighbour_pairs(group):
            first, second = group.completions[i].text, group.completions[j].text
            if first == second:
                continue
            for k, principle in enumerate(how.principles):
                shown = ((first, second), (second, first))
                for order, (a, b) in enumerate(shown[: 2 if how.orders == "both" else 1]):
                    text = how.compare.turn(group.prompt, a, b, principle)
                    yield user_prompt(_name(group, i, k, order), text)

    def _heard(self, asked: list[Prompt]) -> list[FloatArray]:
        """Log-masses of the two letters, a row a question; nan for one that failed."""
        labels, said = self.labeller.compare.labels, range(len(asked))
        heard = [np.full(len(labels), np.nan) for _ in asked]
        if self.labeller.compare.think:
            greedy = Sampling(temperature=0.0, max_tokens=self.labeller.reasons)
            reasons = list(self.speaker.complete(asked, greedy, Seed()))
            decide = self.labeller.compare.decide
            known = [(k, r.text) for k, r in enumerate(reasons) if r is not None]
            asked = [add_turn(asked[k], text, decide) for k, text in known]
            said = [k for k, _ in known]
        for k, logp in zip(said, self.speaker.label(asked, labels), strict=True):
            heard[k] = logp
        return heard

    def _labelled(self, group: Group, heard: Mapping[str, FloatArray]) -> Group:
        how, votes, kept, failed = self.labeller, [], [], 0
        for i, j in neighbour_pairs(group):
            names = [
                [_name(group, i, k, order) for order in range(2 if how.orders == "both" else 1)]
                for k in range(len(how.principles))
            ]
            if group.completions[i].text == group.completions[j].text:
                votes.append(Preference(i, j, 0.5, by=how.name))
                continue
            if not all(_is_heard(heard[name]) for row in names for name in row):
                failed += 1
                continue
            self.labels += 1
            odds = np.array([[_odds(heard[name]) for name in row] for row in names])
            rest = [_residual(heard[name]) for row in names for name in row]
            votes.append(Preference(i, j, how.p(_of_first(odds).ravel()), by=how.name))
            kept.append({"odds": odds.tolist(), "rest": float(np.mean(rest))})
        self.failed += failed
        told = {"by": how.name, "pairs": kept, **({"failed": failed} if failed else {})}
        return _keeping(replace(group, preferences=tuple(votes)), told)


@dataclass(frozen=True)
class Rater:
    """A judge that asks a language model to rate each completion, in [-1, 1] (d-RLAIF).

    A group about which a question failed has no scores; it is counted, see `is_unjudged`.

    >>> from tandem import Server
    >>> Rater(Server("gpt-4o-mini"), name="stars").name
    'stars'

    Attributes:
        lm: who is asked.
        rate: the template.
        name: the judge's name.
        machine: where it runs; the `judge` stage puts its own in.
    """

    lm: LanguageModel
    rate: RateFormat = field(default=RateFormat())
    name: str = ""
    machine: Machine = field(default=Machine(), compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.lm.name)

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        """Yield the groups with `scores`."""
        return self.open()(groups)

    def open(self) -> OpenRater:
        """Open the language model once."""
        return OpenRater(self, self.lm.open(self.machine))


class OpenRater:
    """A `Rater` with its language model loaded: the call that scores completions."""

    def __init__(self, rater: Rater, speaker: OpenLanguageModel) -> None:
        self.rater, self.speaker = rater, speaker
        self.rated, self.failed = 0, 0

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        """Yield the groups with `scores`; without them where a question failed.

        Raises:
            JudgeError: the model gave no number any mass, whatever it was asked.
        """
        rate, stream = self.rater.rate, iter(groups)
        while chunk := list(itertools.islice(stream, GROUPS_PER_REQUEST)):
            asked = [
                user_prompt(f"{g.id}/{i}", rate.turn(g.prompt, c.text))
                for g in chunk
                for i, c in enumerate(g.completions)
            ]
            heard = zip(asked, self.speaker.label(asked, rate.labels), strict=True)
            rated = [self._rated(g, list(itertools.islice(heard, len(g)))) for g in chunk]
            if self.failed and not self.rated:
                raise _silent(asked[0].id, "no number")
            yield from rated

    def _rated(self, group: Group, heard: list[tuple[Prompt, FloatArray]]) -> Group:
        failed = sum(not _is_heard(x) for _, x in heard)
        if failed:
            self.failed += 1
            return _keeping(replace(group, scores=None), {"by": self.rater.name, "failed": failed})
        self.rated += 1
        scores = np.array([star_score(x) for _, x in heard], np.float64)
        rest = [_residual(x) for _, x in heard]
        return _keeping(replace(group, scores=scores), {"by": self.rater.name, "rest": rest})

    def describe_cost(self) -> dict[str, Any]:
        """Return what the model's answers cost, and how many groups have no rating."""
        told = cost_of(self.speaker)
        if self.failed:
            every = self.rated + self.failed
            line = f"{self.failed} of {every} groups have no rating: a question about them failed"
            told |= {"unrated": self.failed, "text": "; ".join([*_lines(told), line])}
        return told


def answers_by_group(
    questions: Sequence[Sequence[Prompt]], answers: Iterable[A]
) -> list[dict[str, A]]:
    """Return, for each group, the name of a question -> its answer.

    Two groups may be of one prompt, and then their questions have the same names.

    Args:
        questions: of each group.
        answers: in the same order, all groups one after another.
    """
    said = iter(answers)
    return [{q.id: next(said) for q in own} for own in questions]


def is_unjudged(group: Group) -> bool:
    """True where nothing of a group was rated or compared, because no answer about it counts.

    A question failed, or its verdict could not be read.
    """
    judged = group.scores is not None or bool(group.preferences)
    told = group.prompt.meta.get(AI_KEY, {})
    return not judged and bool(told.get("failed") or told.get("unreadable"))


def neighbour_pairs(group: Group) -> list[tuple[int, int]]:
    """Return the pairs (0, 1), (2, 3), ... of a group's completions.

    Raises:
        DataError: there are fewer than two.
    """
    if len(group) < 2:
        raise DataError(
            f"group `{group.id}` has {len(group)} completion(s)",
            "a language model compares completions two by two",
            "sample with n = 2, or rate single completions with `Rater`",
        )
    return [(i, i + 1) for i in range(0, len(group) - 1, 2)]


def user_prompt(name: str, text: str) -> Prompt:
    """Return a prompt of one user's turn."""
    return Prompt(name, text, messages=({"role": "user", "content": text},))


def add_turn(asked: Prompt, said: str, then: str) -> Prompt:
    """Return the conversation after the model's answer and the user's next turn."""
    turns = ({"role": "assistant", "content": said}, {"role": "user", "content": then})
    return replace(asked, text="", messages=(*(asked.messages or ()), *turns))


def cost_of(speaker: OpenLanguageModel) -> dict[str, Any]:
    """Return what an open language model has cost so far, as log fields; {} for a free one."""
    tell = getattr(speaker, "describe_cost", None)
    return {} if tell is None else tell()


def _name(group: Group, i: int, principle: int, order: int) -> str:
    return f"{group.id}/{i}/{principle}/{order}"


def _of_first(odds: FloatArray) -> FloatArray:
    """[principles, orders] log-odds of positions -> the same of the pair's first completion."""
    return odds * np.array([1.0, -1.0])[: odds.shape[1]]


def _is_heard(logp: FloatArray) -> bool:
    """True if a label has mass; a question that failed has nan."""
    return bool(np.isfinite(logp).any() and not np.isnan(logp).any())


def _lines(told: dict[str, Any]) -> list[str]:
    return [told["text"]] if "text" in told else []


def _odds(logp: FloatArray) -> float:
    return float(np.clip(logp[0] - logp[1], -SUREST, SUREST))


def _residual(logp: FloatArray) -> float:
    return float(max(0.0, 1 - np.exp(logp).sum()))


def _silent(name: str, what: str) -> JudgeError:
    return JudgeError(
        f"the language model gave {what} any mass, asked `{name}`",
        "a label made of nothing would be noise",
        "look at the template: does it end where the label is said, in the model's own spelling? "
        "A model that reasons first is asked for a verdict: asking.reads = verdict "
        "(`ReasoningJudge`)",
    )


def _keeping(group: Group, kept: dict[str, Any]) -> Group:
    return replace(group, prompt=replace(group.prompt, meta={**group.prompt.meta, AI_KEY: kept}))
