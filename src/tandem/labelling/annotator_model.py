"""How good each annotator is, and a probability for each label: Dawid and Skene's model.

    A. P. Dawid and A. M. Skene, Maximum likelihood estimation of observer error-rates using the
    EM algorithm, Applied Statistics 28 (1979), 20-28.

Which of two answers is better is hidden. A person picks the left one with probability `left` when
it is better, and the right one with probability `right` when that is. So a person with a habit of
picking the left has a large `left` and a small `right`, and the label is corrected for it. The two
are drawn towards their mean, which has a Beta prior; EM finds their most probable values and
P(better) of every unit.

Ties say nothing about which is better, so they are left out here and kept elsewhere. Units whose
truth is known (gold) are fixed. Without people who judged the same units nothing can be told
apart: then the prior speaks.

Shapes: V votes, U units, J people.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tandem.labelling.judgements import Comparison, Unit

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

PRIOR = (3.0, 1.5)
"""Beta: a person is right more often than not, until votes say otherwise."""
STEPS = 500
TOLERANCE = 1e-6
REPEATS = 100
TOGETHER = 30.0
"""Votes that `left` and `right` of one person are drawn towards their mean with."""


@dataclass(frozen=True)
class Accuracy:
    """How often somebody picks the better answer.

    Attributes:
        left: when the better one stands left.
        right: when it stands right.
        low: lower end of the 95 % interval of their mean, over units.
        high: its upper end.
        votes: decided votes it rests on.
    """

    left: float
    right: float
    low: float
    high: float
    votes: int

    @property
    def mean(self) -> float:
        """Accuracy where the better answer stands left and right equally often."""
        return (self.left + self.right) / 2


@dataclass(frozen=True)
class SoftLabels:
    """What the model says.

    Attributes:
        people: pseudonym -> accuracy.
        labels: unit -> P(its first answer is better).
        steps: EM steps until nothing changed.
        is_identified: whether some units were judged by two people, or are gold.
    """

    people: dict[str, Accuracy]
    labels: dict[Unit, float]
    steps: int
    is_identified: bool


def fit_annotators(
    comparisons: Iterable[Comparison],
    known: Mapping[Unit, float] | None = None,
    *,
    repeats: int = REPEATS,
    seed: int = 0,
) -> SoftLabels:
    """Fit the model to comparisons; ties are left out.

    Args:
        known: units whose truth is known -> 1 where the first is better, 0 where the second is.
        repeats: bootstrap repeats over units for the intervals; 0 gives none.

    Example:
        >>> votes = [Comparison((k, 0, 1), who, 1, True) for k in range(9) for who in "ab"]
        >>> fit_annotators(votes, repeats=0).labels[0, 0, 1] > 0.9
        True
    """
    decided = [c for c in comparisons if c.strength != 0]
    units = sorted({c.unit for c in decided})
    people = sorted({c.by for c in decided})
    if not decided:
        return SoftLabels({}, {}, 0, False)
    place = {u: k for k, u in enumerate(units)}
    person = {p: k for k, p in enumerate(people)}
    data = _Data(
        unit=np.array([place[c.unit] for c in decided]),
        person=np.array([person[c.by] for c in decided]),
        first=np.array([c.strength > 0 for c in decided]),
        left=np.array([c.first_shown_first for c in decided]),
        truth=np.array([(known or {}).get(u, np.nan) for u in units]),
        people=len(people),
    )
    rates, p, steps = _em(data, np.ones(len(units)))
    spread = _spread(data, p, repeats, seed)
    counts = np.bincount(data.person, minlength=len(people))
    found = {
        name: Accuracy(float(rates[k, 0]), float(rates[k, 1]), *spread[k], int(counts[k]))
        for name, k in person.items()
    }
    per_unit = np.bincount(data.unit, minlength=len(units))
    is_identified = bool((per_unit > 1).any() or np.isfinite(data.truth).any())
    return SoftLabels(found, {u: float(p[k]) for u, k in place.items()}, steps, is_identified)


@dataclass(frozen=True)
class _Data:
    unit: Ints
    person: Ints
    first: npt.NDArray[np.bool_]
    left: npt.NDArray[np.bool_]
    truth: Floats
    people: int


def _em(data: _Data, weight: Floats, start: Floats | None = None) -> tuple[Floats, Floats, int]:
    """Return [J, 2] rates (left, right), P(first is better) [U], and the number of steps."""
    share = np.bincount(data.unit, data.first) / np.bincount(data.unit)
    p = np.where(np.isfinite(data.truth), data.truth, share) if start is None else start
    rates = np.full((data.people, 2), 0.5)
    steps, moved = 0, 1.0
    while steps < STEPS and moved > TOLERANCE:
        before, rates = rates, _rates(data, p, weight)
        p = _posterior(data, rates)
        steps, moved = steps + 1, float(np.abs(rates - before).max())
    return rates, p, steps


def _rates(data: _Data, p: Floats, weight: Floats) -> Floats:
    # where the first is better, the better one stands left if the first was shown left
    first, w = p[data.unit], weight[data.unit]
    hits, total = np.empty((2, data.people)), np.empty((2, data.people))
    for side, stands in enumerate((data.left, ~data.left)):
        # chance that the better answer stood on this side, and that it was picked
        chance = w * np.where(stands, first, 1 - first)
        right = chance * np.where(stands, data.first, ~data.first)
        hits[side] = np.bincount(data.person, right, minlength=data.people)
        total[side] = np.bincount(data.person, chance, minlength=data.people)
    a, b = PRIOR
    mean = (hits.sum(axis=0) + a - 1) / (total.sum(axis=0) + a + b - 2)
    return np.clip((hits + TOGETHER * mean) / (total + TOGETHER), 1e-6, 1 - 1e-6).T


def _posterior(data: _Data, rates: Floats) -> Floats:
    """Return P(first is better | votes) for a prior of one half; gold stays fixed."""
    left, right = rates[data.person, 0], rates[data.person, 1]
    if_first = np.where(data.left, left, right)  # chance to pick the first if it is better
    if_second = 1 - np.where(data.left, right, left)  # chance to pick the first if it is not
    ratio = np.where(
        data.first,
        np.log(if_first) - np.log(if_second),
        np.log1p(-if_first) - np.log1p(-if_second),
    )
    evidence = np.bincount(data.unit, ratio, minlength=len(data.truth))
    p = 1 / (1 + np.exp(-np.clip(evidence, -700, 700)))
    return np.where(np.isfinite(data.truth), data.truth, p)


def _spread(data: _Data, p: Floats, repeats: int, seed: int) -> list[tuple[float, float]]:
    """Return 95 % intervals of each mean accuracy, by a bootstrap over units."""
    if not repeats:
        return [(float("nan"), float("nan"))] * data.people
    rng = np.random.default_rng(seed)
    units = len(data.truth)
    drawn = rng.multinomial(units, np.full(units, 1 / units), size=repeats).astype(np.float64)
    means = np.stack([_em(data, weight, p)[0].mean(axis=1) for weight in drawn])
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    return list(zip(map(float, low), map(float, high), strict=True))
