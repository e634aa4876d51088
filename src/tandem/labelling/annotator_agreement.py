"""Do people agree? Percent, kappa and Krippendorff's alpha, and the habits of each annotator.

Which of two answers is called the first is an accident of the file, and in many files the first is
always the better one. So every item is turned by a seeded coin before agreement is computed;
otherwise a chance-corrected number would punish people for being right.

Intervals are from a bootstrap that resamples items, and people too where there are at least five:
the design is crossed, and with fewer people resampling them says nothing. The same person drawn
twice is never compared with himself.

Shapes: P ordered pairs of ratings of one item by two people.
"""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tandem.labelling.judgements import Vote
from tandem.rng import Seed
from tandem.statistics.rates import wilson

Floats = npt.NDArray[np.float64]
LEVELS = 7
REPEATS = 300
ENOUGH_PEOPLE = 5


@dataclass(frozen=True)
class Interval:
    """A number with its 95 % interval and how many it rests on; None where it has no value."""

    value: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class AgreementStatistics:
    """How far people agree on the items that two or more judged.

    Attributes:
        percent: share of pairs of people who chose the same of A, tie, B.
        kappa: Cohen's (two people) or Fleiss' on A, tie, B.
        alpha: Krippendorff's, ordinal, on the 7-point row.
        items: items with two or more votes.
        people: people who voted on them.
        resampled: what the intervals resample.
    """

    percent: Interval
    kappa: Interval
    kappa_name: str
    alpha: Interval
    items: int
    people: int
    resampled: str


@dataclass(frozen=True)
class Ratings:
    """Votes on pairs as [item, person, level]; levels 0 .. 6, turned by a coin for each item."""

    item: npt.NDArray[np.int64]
    person: npt.NDArray[np.int64]
    level: npt.NDArray[np.int64]

    @classmethod
    def of(cls, votes: Sequence[Vote]) -> Ratings:
        """Collect the ratings of items that two or more people rated."""
        rated = [(v.item["id"], v.event["person_id"], _turned(v)) for v in votes if _is_pair(v)]
        many = {i for i, n in Counter(r[0] for r in rated).items() if n > 1}
        kept = [r for r in rated if r[0] in many]
        columns = np.array(kept, np.int64).reshape(-1, 3)
        items = np.unique(columns[:, 0], return_inverse=True)[1]
        people = np.unique(columns[:, 1], return_inverse=True)[1]
        return cls(items, people, columns[:, 2])

    def pairs(self) -> npt.NDArray[np.int64]:
        """Return [P, 3 + 2]: item, the two people, their two levels."""
        by_item: dict[int, list[int]] = defaultdict(list)
        for k, unit in enumerate(self.item):
            by_item[int(unit)].append(k)
        found = [
            (unit, self.person[a], self.person[b], self.level[a], self.level[b])
            for unit, rows in by_item.items()
            for a in rows
            for b in rows
            if a != b
        ]
        return np.array(found, np.int64).reshape(-1, 5)


def _is_pair(vote: Vote) -> bool:
    return vote.strength is not None


def _turned(vote: Vote) -> int:
    sign = 1 if Seed(0).at("frame", vote.item["name"]).uniform() < 0.5 else -1
    return sign * (vote.strength or 0) + 3


def measure_agreement(votes: Sequence[Vote], repeats: int = REPEATS) -> AgreementStatistics:
    """Return percent, kappa and alpha with their intervals."""
    ratings = Ratings.of(votes)
    pairs = ratings.pairs()
    people = int(ratings.person.max()) + 1 if len(ratings.person) else 0
    items = int(ratings.item.max()) + 1 if len(ratings.item) else 0
    crossed = people >= ENOUGH_PEOPLE

    def interval(statistic: Callable[[Floats, Floats], float]) -> Interval:
        return _bootstrap(statistic, items, people, crossed, repeats)

    def percent(w_item: Floats, w_person: Floats) -> float:
        w = w_item[pairs[:, 0]] * w_person[pairs[:, 1]] * w_person[pairs[:, 2]]
        same = _class(pairs[:, 3]) == _class(pairs[:, 4])
        return float((w * same).sum() / w.sum()) if w.sum() else float("nan")

    def alpha(w_item: Floats, w_person: Floats) -> float:
        return krippendorff_ordinal(coincidence_matrix(pairs, w_item, w_person))

    kappa, name = _kappa(ratings, items, people)
    return AgreementStatistics(
        percent=interval(percent),
        kappa=_bootstrap(kappa, items, people, crossed=False, repeats=min(repeats, 100)),
        kappa_name=name,
        alpha=interval(alpha),
        items=items,
        people=people,
        resampled="items and people" if crossed else "items",
    )


def _class(level: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.sign(level - 3)


def coincidence_matrix(pairs: npt.NDArray[np.int64], w_item: Floats, w_person: Floats) -> Floats:
    """Return Krippendorff's matrix of coincidences, with a weight for each item and person.

    An item counts as many pairable values as it has ratings; with weights of one this is the
    textbook's matrix.
    """
    units = len(w_item)
    pair_weight = w_person[pairs[:, 1]] * w_person[pairs[:, 2]]
    total = np.bincount(pairs[:, 0], pair_weight, minlength=units)
    # ratings of an item: each rating stands in m - 1 ordered pairs as the first
    first = np.bincount(pairs[:, 0], minlength=units)
    m = (1 + np.sqrt(1 + 4 * first)) / 2
    share = np.divide(m, total, out=np.zeros(units), where=total > 0)
    w = pair_weight * share[pairs[:, 0]] * w_item[pairs[:, 0]]
    flat: Any = np.bincount(pairs[:, 3] * LEVELS + pairs[:, 4], w, minlength=LEVELS**2)
    return flat.reshape(LEVELS, LEVELS)


def krippendorff_ordinal(o: Floats) -> float:
    """Return alpha with the ordinal metric from a matrix of coincidences."""
    n_c = o.sum(axis=1)
    n = n_c.sum()
    below = np.cumsum(n_c)
    between = np.abs(below[None, :] - below[:, None])
    # sum of n_g for g from c to k, both ends counted half
    spread = np.where(
        np.arange(LEVELS)[:, None] < np.arange(LEVELS)[None, :],
        between - n_c[None, :] / 2 + n_c[:, None] / 2,
        between - n_c[:, None] / 2 + n_c[None, :] / 2,
    )
    d2 = spread**2
    np.fill_diagonal(d2, 0)
    expected = float((np.outer(n_c, n_c) * d2).sum())
    if expected == 0:
        return float("nan")
    return 1 - (n - 1) * float((o * d2).sum()) / expected


def _kappa(
    ratings: Ratings, items: int, people: int
) -> tuple[Callable[[Floats, Floats], float], str]:
    counts = np.zeros((items, 3))
    np.add.at(counts, (ratings.item, _class(ratings.level) + 1), 1)
    size = counts.sum(axis=1)
    common = Counter(size.tolist()).most_common(1)[0][0] if items else 0
    usable = size == common
    if people == 2:
        table = np.zeros((items, 3, 3))
        for unit, a, b, x, y in ratings.pairs():
            if a < b:
                table[unit, np.sign(x - 3) + 1, np.sign(y - 3) + 1] += 1

        def cohen(w_item: Floats, _: Floats) -> float:
            joint = (table * w_item[:, None, None]).sum(axis=0)
            joint = joint / joint.sum()
            chance = float(joint.sum(axis=0) @ joint.sum(axis=1))
            return float("nan") if chance == 1 else (float(np.trace(joint)) - chance) / (1 - chance)

        return cohen, "Cohen's kappa"

    def fleiss(w_item: Floats, _: Floats) -> float:
        from statsmodels.stats.inter_rater import fleiss_kappa

        rows = np.repeat(counts[usable], w_item[usable].astype(int), axis=0)
        with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
            warnings.simplefilter("ignore")
            return float(fleiss_kappa(rows)) if len(rows) else float("nan")

    return fleiss, f"Fleiss' kappa (items with {common:.0f} votes)"


def _bootstrap(
    statistic: Callable[[Floats, Floats], float],
    items: int,
    people: int,
    crossed: bool,
    repeats: int,
) -> Interval:
    if not items:
        return Interval(None, None, None, 0)
    value = statistic(np.ones(items), np.ones(people))
    rng = np.random.default_rng(0)
    found = []
    for _ in range(repeats):
        w_item = rng.multinomial(items, np.full(items, 1 / items)).astype(np.float64)
        w_person = np.ones(people)
        if crossed:
            w_person = rng.multinomial(people, np.full(people, 1 / people)).astype(np.float64)
        found.append(statistic(w_item, w_person))
    kept = [x for x in found if np.isfinite(x)]
    if not np.isfinite(value) or len(kept) < repeats / 2 or items < 2:
        return Interval(float(value) if np.isfinite(value) else None, None, None, items)
    low, high = np.quantile(kept, [0.025, 0.975])
    return Interval(float(value), float(low), float(high), items)


def agreement_rate(wins: float, n: int) -> Interval:
    """Return a share with Wilson's interval."""
    if not n:
        return Interval(None, None, None, 0)
    found = wilson(wins, n)
    return Interval(found.mean, found.low, found.high, n)


@dataclass(frozen=True)
class Habits:
    """How somebody judges.

    Attributes:
        left: how often the answer that stood first is picked; .5 without a habit.
        longer: how often the longer answer is picked.
        ties: share of ties.
        gold: accuracy on items whose answer is known.
        with_others: how often they agree with others on the same item.
        early: the same in the first half of their votes, and
        late: in the second: drift.
        seconds: median time for an item, and
        quarters: the same for each quarter of their votes.
    """

    pseudonym: str
    votes: int
    left: Interval
    longer: Interval
    ties: Interval
    gold: Interval
    with_others: Interval
    early: Interval
    late: Interval
    seconds: float | None
    quarters: tuple[float, ...]


def describe_habits(votes: Sequence[Vote], gold: Mapping[int, int]) -> list[Habits]:
    """Return the habits of everybody who voted on pairs."""
    by_item: dict[int, list[Vote]] = defaultdict(list)
    by_person: dict[str, list[Vote]] = defaultdict(list)
    for vote in votes:
        by_person[vote.pseudonym].append(vote)
        if _is_pair(vote):
            by_item[vote.item["id"]].append(vote)
    return [_habits(name, mine, by_item, gold) for name, mine in sorted(by_person.items())]


def _habits(
    name: str, mine: Sequence[Vote], by_item: Mapping[int, list[Vote]], gold: Mapping[int, int]
) -> Habits:
    pairs = [v for v in mine if _is_pair(v)]
    decided = [v for v in pairs if v.strength]
    left = [c.picked_left for v in decided for c in v.comparisons()]
    longer = [won for v in decided if (won := _picked_longer(v)) is not None]
    known = [v for v in pairs if v.item["id"] in gold]
    right = [np.sign(v.strength or 0) == np.sign(gold[v.item["id"]]) for v in known]
    same = [_with_others(v, by_item[v.item["id"]]) for v in pairs]
    half = len(same) // 2
    times = [float(v.event["seconds"]) for v in mine if v.event["seconds"] is not None]
    return Habits(
        pseudonym=name,
        votes=len(mine),
        left=agreement_rate(sum(left), len(left)),
        longer=agreement_rate(sum(longer), len(longer)),
        ties=agreement_rate(len(pairs) - len(decided), len(pairs)),
        gold=agreement_rate(sum(map(int, right)), len(right)),
        with_others=_pooled(same),
        early=_pooled(same[:half]),
        late=_pooled(same[half:]),
        seconds=float(np.median(times)) if times else None,
        quarters=tuple(float(np.median(q)) for q in np.array_split(np.array(times), 4) if len(q)),
    )


def _picked_longer(vote: Vote) -> bool | None:
    lengths: list[Any] = [len(a) for a in vote.item["question"]["answers"]]
    if lengths[0] == lengths[1]:
        return None
    return ((vote.strength or 0) > 0) == (lengths[0] > lengths[1])


def _with_others(vote: Vote, of_item: Sequence[Vote]) -> float | None:
    """Return the share of the others on the item who chose the same of A, tie, B."""
    others = [v for v in of_item if v.event["person_id"] != vote.event["person_id"]]
    if not others:
        return None
    mine = np.sign(vote.strength or 0)
    return float(np.mean([np.sign(v.strength or 0) == mine for v in others]))


def _pooled(shares: Sequence[float | None]) -> Interval:
    kept = [s for s in shares if s is not None]
    return agreement_rate(sum(kept), len(kept))
