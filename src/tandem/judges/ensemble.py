"""Rewards that are harder to exploit: several reward models, and a reward without its length bias.

An optimised policy finds where one reward model is wrong; several are rarely wrong alike (Coste
et al. 2023, arXiv:2310.02743). Length is the error that they share (Singhal et al. 2023,
arXiv:2310.03716), so it is taken out by name. See docs/theory/over_optimisation.md#levers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from tandem.data.groups import Groups
from tandem.data.record import FloatArray, Group
from tandem.errors import ConfigError, DataError, JudgeError
from tandem.judges import Judge, ScoringFunction, open_judge
from tandem.machine import Machine
from tandem.statistics import AggregateRule, aggregate_scores

Unit = Literal["tokens", "words"]


@dataclass(frozen=True)
class Ensemble:
    """Several scoring judges as one, so that no single judge's mistake is rewarded.

    Each member's scores are centred, then aggregated: their mean, the worst of them, or the mean
    less a share of their variance.

    >>> members = tuple(RewardModel(Checkpoint(Path(f"r{k}"), f"r{k}")) for k in range(4))
    >>> Ensemble(members, how="worst").name
    'ensemble'
    >>> groups = run("judged", judge, answers, Ensemble(members, "worst"))  # doctest: +SKIP

    A reward is defined up to a constant per prompt, so members are brought to a common zero
    before they are compared; otherwise the worst of them is the one with the lowest constant.
    Where the zero lies decides what the scores mean, and PPO, which draws one answer a prompt,
    has no others to centre by:

    - `centre="prompt"` without anchors: the mean over the group's own answers is 0. For best-of-n
      and group methods; a prompt with one answer is refused, since its score would always be 0.
    - `centre="prompt"` with anchors: each member's mean over the anchors' answers to that prompt
      is 0. For PPO: sample two to four answers of pi_sft to every prompt, once.
    - `centre="bias"`: no constant is subtracted here. Each member keeps the bias that
      `methods.reward` stored, mean 0 over its reference answers: one zero for all prompts. The
      cheapest for PPO; what members disagree about from prompt to prompt then counts as doubt.

    Members should have comparable spread (`Reward(unit_variance=True)`).

    Attributes:
        members: scoring judges, one or more; four or five are usual.
        how: `mean`; `worst`, the smallest; `uncertainty`, the mean less `weight` x variance.
        weight: of the variance: .5 for best-of-n, .1 for PPO.
        centre: where each member's zero is, see above.
        anchors: reference answers by prompt id, or None.

    Raises:
        ConfigError: no member, a weight below 0, or anchors that nobody would read.
    """

    members: tuple[Judge, ...]
    how: AggregateRule = "mean"
    weight: float = 0.5
    centre: Literal["prompt", "bias"] = "prompt"
    anchors: Groups | None = None
    name: str = "ensemble"
    machine: Machine = field(default=Machine(), compare=False)

    def __post_init__(self) -> None:
        if not self.members or self.weight < 0:
            raise ConfigError(
                f"an ensemble of {len(self.members)} members with weight {self.weight}",
                "it needs a member, and a weight below 0 would reward their disagreement",
                "give reward models trained on different seeds, and a weight of 0 or more",
            )
        if self.centre == "bias" and self.anchors is not None:
            raise ConfigError(
                "an ensemble with anchors and centre = bias",
                "with `bias` no anchor is read",
                "choose centre = prompt, or leave the anchors out",
            )

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        """Yield the groups with aggregated `scores`; raises what `open` raises."""
        return self.open()(groups)

    def open(self) -> ScoringFunction:
        """Open every member once, and score the anchors.

        Raises:
            JudgeError: a member writes no scores, or (when it judges) a prompt has neither a
                second answer nor anchors.
        """
        members = [open_judge(m, self.machine) for m in self.members]
        zeros: dict[str, FloatArray] = {}
        if self.anchors is not None:
            anchored = zip(self.anchors, _columns(members, self.anchors), strict=True)
            zeros = {g.id: x.mean(axis=1) for g, x in anchored if len(g)}

        def score(groups: Iterable[Group]) -> Iterator[Group]:
            given, seen = itertools.tee(groups)
            for group, x in zip(given, _columns(members, seen), strict=True):
                centred = x - self._zero(group, x, zeros)[:, None]
                yield replace(group, scores=aggregate_scores(centred, self.how, self.weight))

        return score

    def _zero(self, group: Group, x: FloatArray, zeros: Mapping[str, FloatArray]) -> FloatArray:
        """[K] each member's zero at this prompt."""
        if self.centre == "bias":
            return np.zeros(len(x))
        if self.anchors is not None:
            if group.id not in zeros:
                raise JudgeError(
                    f"the ensemble has no anchor for prompt `{group.id}`",
                    "each member's zero is its mean over the anchors' answers to the prompt",
                    "sample a few answers of pi_sft to every prompt, or set centre = bias",
                )
            return zeros[group.id]
        if len(group) == 1:
            raise JudgeError(
                f"the ensemble was given one answer to prompt `{group.id}`",
                "members are centred by their mean over a prompt's answers; of one answer "
                "nothing would be left",
                "give anchors (answers of pi_sft to the same prompts), or set centre = bias",
            )
        return x.mean(axis=1) if len(group) else np.zeros(len(x))


@dataclass(frozen=True)
class Debiased:
    """A judge without its length bias: r(x, y) - slope |y|.

    Fit the slope on answers of pi_ref with `length_slope`, before the policy is optimised:
    afterwards long answers may be good ones.

    Attributes:
        judge: a scoring judge.
        slope: score a unit of length.
        unit: what lengths are counted in.
    """

    judge: Judge
    slope: float
    unit: Unit = "tokens"
    name: str = ""
    machine: Machine = field(default=Machine(), compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or f"{self.judge.name} without length")

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        """Yield the groups with `scores`."""
        return self.open()(groups)

    def open(self) -> ScoringFunction:
        """Open the judge once."""
        judge = open_judge(self.judge, self.machine)

        def score(groups: Iterable[Group]) -> Iterator[Group]:
            for group in judge(groups):
                yield replace(
                    group, scores=_scores(group) - self.slope * answer_lengths(group, self.unit)
                )

        return score


def length_slope(groups: Iterable[Group], unit: Unit = "tokens") -> float:
    """Fit the slope of score on length within prompts, over answers of pi_ref.

    Least squares with a constant per prompt: sum (l - l_x)(r - r_x) / sum (l - l_x)^2 with means
    over each prompt's answers, so that prompts which ask for long answers do not count as bias.

    Raises:
        DataError: no prompt has two answers of different length.
        JudgeError: a group without scores.
    """
    across = along = 0.0
    for group in groups:
        if len(group):
            length, score = answer_lengths(group, unit), _scores(group)
            across += float(((length - length.mean()) * (score - score.mean())).sum())
            along += float(((length - length.mean()) ** 2).sum())
    if along == 0:
        raise DataError(
            "no prompt has two answers of different length",
            "the slope of score on length is fitted within prompts",
            "sample several answers of pi_ref to each prompt",
        )
    return across / along


def answer_lengths(group: Group, unit: Unit) -> FloatArray:
    """[n] lengths of the answers.

    Raises:
        DataError: lengths in tokens of answers that were never tokenised.
    """
    if unit == "words":
        return np.array([len(c.text.split()) for c in group.completions], np.float64)
    if any(not len(c.tokens) for c in group.completions):
        raise DataError(
            f"an answer of group `{group.id}` has no tokens",
            "its length was to be counted in tokens",
            'tokenise first (`stages.encoding.encode`), or count unit="words"',
        )
    return np.array([len(c.tokens) for c in group.completions], np.float64)


def _columns(members: list[ScoringFunction], groups: Iterable[Group]) -> Iterator[FloatArray]:
    """Yield [K, n] scores of each group's answers; members read ahead as they like."""
    seen = itertools.tee(groups, len(members))
    for rows in zip(*(m(each) for m, each in zip(members, seen, strict=True)), strict=True):
        yield np.stack([_scores(g) for g in rows])


def _scores(group: Group) -> FloatArray:
    if group.scores is None:
        raise JudgeError(
            f"a judge wrote no scores for group `{group.id}`",
            "scores are averaged and corrected here; preferences alone are none",
            "use scoring judges: reward models, a programmatic truth",
        )
    return group.scores
