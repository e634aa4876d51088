"""Held-out judgments beside a reward model's scores, one row a judgment.

M judgments. The two answers are presented in random order, drawn from the seed, the prompt and
the judgment's place alone: if the preferred answer always came first, calibration would be
meaningless.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np

from tandem.data.chat.transcripts import prompt_key
from tandem.data.record import Completion, Group
from tandem.errors import DataError
from tandem.rng import Seed
from tandem.statistics import ordering_credit
from tandem.statistics.numerics import Floats, Ints


@dataclass(frozen=True, eq=False)
class Comparisons:
    """Columns, one number a judgment; "first" and "second" are in presentation order.

    Attributes:
        prompt: [M] prompt ids; groups with the same prompt have that of the first.
        difference: [M] score of the first minus score of the second.
        level: [M] mean score of the two.
        y: [M] share of judges who preferred the first.
        longer: [M] length of the first minus length of the second, in tokens (characters where
            there are no tokens).
        source: [M] who wrote the two, in alphabetical order.
        spread: [M] disagreement of the ensemble about the difference; nan without an ensemble.
    """

    prompt: np.ndarray[tuple[int], np.dtype[np.str_]]
    difference: Floats
    level: Floats
    y: Floats
    longer: Floats
    source: np.ndarray[tuple[int], np.dtype[np.str_]]
    spread: Floats

    def __len__(self) -> int:
        return len(self.y)

    def take(self, rows: Ints) -> Comparisons:
        """Return these rows."""
        return Comparisons(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    @property
    def decided(self) -> Comparisons:
        """The judgments that are not ties: accuracy is about these."""
        return self.take(np.flatnonzero(self.y != 0.5))

    @property
    def credit(self) -> Floats:
        """[M] 1 where the model agrees with the majority, .5 where its scores tie, 0 elsewhere."""
        return ordering_credit(self.difference, self.y)


def lay_out_comparisons(
    groups: Iterable[Group], members: Iterable[Iterable[Group]] = (), *, seed: Seed
) -> Comparisons:
    """Lay out every judgment of scored groups.

    Args:
        groups: `scores` written by the model, `preferences` the held-out judgments.
        members: the same groups in the same order, scored by each member of an ensemble.
        seed: draws the order of presentation.

    Raises:
        DataError: a group with judgments has no scores, members disagree about the groups, or
            there is no judgment at all.
    """
    ensemble = [list(member) for member in members]
    first: dict[str, str] = {}
    rows = [
        (first.setdefault(prompt_key(group.prompt), group.id), *row[1:])
        for place, group in enumerate(groups)
        for row in _rows(group, [_same(group, member, place) for member in ensemble], seed)
    ]
    if not rows:
        raise DataError(
            "no judgments to compare with",
            "a reward model is evaluated on preferences that it was not trained on",
            "give groups with preferences",
        )
    prompt, source, *numbers = zip(*rows, strict=True)
    difference, level, y, longer, spread = (np.array(column, np.float64) for column in numbers)
    return Comparisons(np.array(prompt), difference, level, y, longer, np.array(source), spread)


def _rows(
    group: Group, members: list[Floats], seed: Seed
) -> Iterable[tuple[str, str, float, float, float, float, float]]:
    if not group.preferences:
        return
    scores = _scores(group)
    for k, pair in enumerate(group.preferences):
        swap = seed.at("presentation", group.id, k).uniform() < 0.5
        i, j = (pair.j, pair.i) if swap else (pair.i, pair.j)
        a, b = group.completions[i], group.completions[j]
        gaps = [float(m[i] - m[j]) for m in members]
        yield (
            group.id,
            " / ".join(sorted((a.author or "?", b.author or "?"))),
            float(scores[i] - scores[j]),
            float(scores[i] + scores[j]) / 2,
            1 - pair.p if swap else pair.p,
            float(_length(a) - _length(b)),
            float(np.std(gaps)) if gaps else float("nan"),
        )


def _length(completion: Completion) -> int:
    return len(completion.tokens) or len(completion.text)


def _scores(group: Group) -> Floats:
    if group.scores is None or not np.isfinite(group.scores).all():
        has = "none" if group.scores is None else str(group.scores.tolist())
        raise DataError(
            f"evaluation needs a finite score on every completion; group `{group.id}` has {has}",
            "a judgment is compared with the difference of two scores",
            "let the reward model judge the groups first",
        )
    return group.scores


def _same(group: Group, member: list[Group], place: int) -> Floats:
    other = member[place] if place < len(member) else None
    if other is None or other.id != group.id or len(other) != len(group):
        raise DataError(
            f"a member of the ensemble has `{other.id if other else 'nothing'}` at place {place}, "
            f"where the model has `{group.id}`",
            "disagreement is measured on the same answers",
            "let every member judge the same groups, in the same order",
        )
    return _scores(other)
