"""A judge that reasons before it decides: both orders, a verdict read by a rule.

Where `Labeller` reads the probabilities of two letters, this one lets the model write, and reads
its verdict (`verdicts`). The label is the mean over orders and principles of 1 for the first
answer, 0 for the second, 1/2 for a tie: a judge that follows the position alone gives 1/2.

A pair of which one verdict cannot be read has no label. What was said of it stays in
`prompt.meta["ai"]`; win rates count it as lost and as won, and give the bounds.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from tandem.data.record import Completion, Group, Preference, Prompt
from tandem.engines import Sampling
from tandem.engines.language_models import LanguageModel, OpenLanguageModel
from tandem.errors import ConfigError, JudgeError
from tandem.judges.llm import (
    AI_KEY,
    GROUPS_PER_REQUEST,
    Orders,
    answers_by_group,
    cost_of,
    neighbour_pairs,
    user_prompt,
)
from tandem.judges.verdicts import RULE, Verdict, VerdictFormat, read_verdict
from tandem.machine import Machine
from tandem.rng import Seed

CREDIT: dict[Verdict, float] = {"A": 1.0, "tie": 0.5, "B": 0.0}
"""Of the answer that is shown first."""
REASONS = Sampling(temperature=0.0, max_tokens=2048)


@dataclass(frozen=True)
class ReasoningJudge:
    """A judge that lets a language model reason about two answers and reads its verdict.

    It compares completions (0, 1), (2, 3), ... and writes preferences.

    >>> from tandem import Server
    >>> ReasoningJudge(Server("qwen", url="http://localhost:8000/v1", key=None)).name
    'qwen'

    Attributes:
        lm: who is asked.
        verdict: the template.
        principles: the pair is compared by each, and the credits are averaged.
        orders: `both`, or `one`: the order in which they come, with its position bias.
        hard: round the label to 1 or 0 (.5 stays).
        sampling: how the reasons are drawn; a reasoning model needs room.
        name: in `Preference.by`.
        machine: where it runs; the `judge` stage puts its own in.

    Raises:
        ConfigError: no principle.
    """

    compares: ClassVar[bool] = True

    lm: LanguageModel
    verdict: VerdictFormat = field(default=VerdictFormat())
    principles: tuple[str, ...] = ("Be helpful, honest and harmless.",)
    orders: Orders = "both"
    hard: bool = False
    sampling: Sampling = REASONS
    name: str = ""
    machine: Machine = field(default=Machine(), compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.lm.name)
        if not self.principles:
            raise ConfigError(
                "a judge without a principle",
                "a comparison follows a principle",
                "give one, for example ('Be helpful.',)",
            )

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        """Yield the groups with `preferences`."""
        return self.open()(groups)

    def open(self) -> OpenReasoningJudge:
        """Open the language model once."""
        return OpenReasoningJudge(self, self.lm.open(self.machine))


class OpenReasoningJudge:
    """A `ReasoningJudge` with its language model loaded: the call that compares completions."""

    def __init__(self, judge: ReasoningJudge, speaker: OpenLanguageModel) -> None:
        self.judge, self.speaker = judge, speaker
        self.read, self.unreadable = 0, 0

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        """Yield the groups with `preferences`; a pair without a readable verdict has none.

        Raises:
            DataError: a group with one completion.
            JudgeError: not one verdict of the first many could be read.
        """
        stream = iter(groups)
        while chunk := list(itertools.islice(stream, GROUPS_PER_REQUEST)):
            questions = [list(self._questions(group)) for group in chunk]
            answers = list(self._answers([q for own in questions for q in own]))
            heard = answers_by_group(questions, answers)
            judged = [self._judged(g, own) for g, own in zip(chunk, heard, strict=True)]
            if self.unreadable and not self.read:
                raise self._nothing_read(answers[0])
            yield from judged

    def describe_cost(self) -> dict[str, Any]:
        """Return what the answers cost, and how many pairs have no readable verdict."""
        told, every = cost_of(self.speaker), self.read + self.unreadable
        mark = self.judge.verdict.mark
        line = f"verdicts by {mark}, read by {RULE}: {self.unreadable} of {every} unreadable"
        lines = [told["text"]] if "text" in told else []
        return told | {"unreadable": self.unreadable, "text": "; ".join([*lines, line])}

    def _answers(self, asked: list[Prompt]) -> Iterator[Completion | None]:
        return self.speaker.complete(asked, self.judge.sampling, Seed())

    def _questions(self, group: Group) -> Iterator[Prompt]:
        how = self.judge
        for i, j in neighbour_pairs(group):
            first, second = group.completions[i].text, group.completions[j].text
            if first == second:
                continue
            for k, principle in enumerate(how.principles):
                shown = ((first, second), (second, first))
                for order, (a, b) in enumerate(shown[: 2 if how.orders == "both" else 1]):
                    text = how.verdict.turn(group.prompt, a, b, principle)
                    yield user_prompt(f"{group.id}/{i}/{k}/{order}", text)

    def _judged(self, group: Group, heard: Mapping[str, Completion | None]) -> Group:
        how, votes, kept, unreadable = self.judge, [], [], []
        orders = range(2 if how.orders == "both" else 1)
        for i, j in neighbour_pairs(group):
            if group.completions[i].text == group.completions[j].text:
                votes.append(Preference(i, j, 0.5, by=how.name))
                continue
            said: list[list[Verdict | None]] = [
                [_verdict(heard[f"{group.id}/{i}/{k}/{order}"]) for order in orders]
                for k in range(len(how.principles))
            ]
            if any(v is None for row in said for v in row):
                self.unreadable += 1
                unreadable.append({"pair": [i, j], "said": said})
                continue
            self.read += 1
            credit = np.array([[CREDIT[v] for v in row if v is not None] for row in said])
            if credit.shape[1] == 2:
                credit[:, 1] = 1 - credit[:, 1]
            p = float(credit.mean())
            votes.append(Preference(i, j, 0.5 * (1 + float(np.sign(p - 0.5))) if how.hard else p,
                                    by=how.name))  # fmt: skip
            odds = [[2 * CREDIT[v] - 1 for v in row if v is not None] for row in said]
            kept.append({"odds": odds, "rest": 0.0})
        told: dict[str, Any] = {"by": how.name, "format": how.verdict.mark, "rule": RULE}
        told |= {"pairs": kept, **({"unreadable": unreadable} if unreadable else {})}
        prompt = replace(group.prompt, meta={**group.prompt.meta, AI_KEY: told})
        return replace(group, prompt=prompt, preferences=tuple(votes))

    def _nothing_read(self, answer: Completion | None) -> JudgeError:
        shown = "nothing" if answer is None else f"{answer.text[-60:]!r}"
        cut = answer is not None and not answer.stopped
        do = (
            "give it more room: asking.room, or --judge_room of `eval suite`"
            if cut
            else "look at the template"
        )
        return JudgeError(
            f"no verdict of `{self.judge.name}` could be read, the first answer ends in {shown}",
            "it was cut before its verdict" if cut else "it does not end as the template asks",
            f"{do}; or ask a model that reasons less",
        )


def _verdict(answer: Completion | None) -> Verdict | None:
    return None if answer is None else read_verdict(answer.text, stopped=answer.stopped)
