"""RewardBench 2: a reward scores every answer by itself (Malik et al. 2025, arXiv:2506.01937).

Of four answers one is right. It counts where it has the highest score, a share where others have
the same; chance is 1/4. In the subset Ties a question has many right answers, and comes with a
reference question that has one:

    .3 ref + .3 tied + .2 preferred + .2 hard + .01 margin

ref and tied are the shares of prompts where every right answer is above every wrong one. With the
gap g = (lowest right - highest wrong) and the spread s = (highest right - lowest right) of the
tied prompt: `preferred` is the share with g_tied > s, `hard` that with min(g_ref, g_tied) > s, and
`margin` the mean of tanh(min(g_ref, g_tied) / s - 1), 0 where s is 0. It can reach 1.01.

Beside the reward stands a ruler that scores an answer by its length, on the same prompts, and the
difference with a paired interval: a reward that cannot beat the ruler has learnt length.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tandem.data.record import Group
from tandem.errors import DataError
from tandem.evaluation.best_of_accuracy import best_of_credit, is_best_of
from tandem.evaluation.suites import SuiteResult
from tandem.evaluation.tables import CellValue, Table
from tandem.rng import Seed
from tandem.statistics import bootstrap, paired_difference, share_of
from tandem.statistics.numerics import Floats, Ints

TIES = "Ties"
PAIRED = re.compile(r"(ref|tied):(\w+)")
DRAWS = 1000


def score_rewards(groups: Sequence[Group], seed: Seed = Seed()) -> SuiteResult:
    """Score judged groups.

    Args:
        groups: with `scores`, preferences that say which answers are right, `subset` in the
            prompt's meta, and in Ties ids `ref:N` and `tied:N`.
        seed: resamples of the formula for ties.

    Raises:
        DataError: no group is of best-of-k form, or one has no scores.
    """
    parts = split_by_subset(groups)
    rows: list[tuple[CellValue, ...]] = []
    means: list[float] = []
    for subset, part in sorted(parts.items()):
        if subset == TIES:
            continue
        mine, ruler = (best_of_credits(part, length=length) for length in (False, True))
        chance = float(np.mean([1 / len(g) for g in part]))
        rows.append((subset, len(part), share_of(mine), share_of(ruler),
                     paired_difference(mine, ruler), chance))  # fmt: skip
        means.append(float(np.mean(mine)))
    if TIES in parts:
        row, mean = _ties_row(parts[TIES], seed)
        rows.append(row)
        means.append(mean)
    columns = ("subset", "prompts", "reward", "ruler (length)", "reward - ruler", "chance")
    title = f"RewardBench 2, mean of {len(means)} subsets {np.mean(means):.1%}; 95 % intervals"
    table = Table(columns, tuple(rows), title)
    return SuiteResult(str(table), {"mean": float(np.mean(means)), "subsets": table.as_dicts()})


def split_by_subset(groups: Iterable[Group]) -> dict[str, list[Group]]:
    """Return best-of-k groups by subset."""
    parts: dict[str, list[Group]] = {}
    for group in groups:
        subset = str(group.prompt.meta.get("subset", "all"))
        if subset == TIES or is_best_of(group):
            parts.setdefault(subset, []).append(group)
    if not parts:
        raise DataError(
            "no row has one right answer among several",
            "RewardBench 2 asks for the right one of four",
            "give its file: rows with `prompt`, `chosen` [1], `rejected` [3] and `subset`",
        )
    return parts


def best_of_credits(groups: Iterable[Group], *, length: bool) -> Floats:
    """Return [P] credit by the reward's scores, or by length."""
    return np.array([best_of_credit(_by_length(g) if length else g) for g in groups])


@dataclass(frozen=True)
class TiesScore:
    """The formula and its parts, see above."""

    ref: float
    tied: float
    preferred: float
    hard: float
    margin: float

    @property
    def overall(self) -> float:
        """Return the weighted sum."""
        right = 0.3 * self.ref + 0.3 * self.tied
        return right + 0.2 * self.preferred + 0.2 * self.hard + 0.01 * self.margin


def score_ties(ref: Mapping[str, Group], tied: Mapping[str, Group]) -> TiesScore:
    """Score the subset Ties.

    Args:
        ref: reference prompts by number, with scores.
        tied: prompts with many right answers, by number.
    """
    gaps = {name: [_gap(g) for g in part.values()] for name, part in (("r", ref), ("t", tied))}
    both = [n for n in tied if n in ref]
    g_tied = np.array([_gap(tied[n]) for n in both])
    g_least = np.array([min(_gap(ref[n]), _gap(tied[n])) for n in both])
    spread = np.array([_spread(tied[n]) for n in both])
    ratio = np.divide(g_least, spread, out=np.ones_like(g_least), where=spread > 0)
    return TiesScore(
        _mean([g > 0 for g in gaps["r"]]),
        _mean([g > 0 for g in gaps["t"]]),
        _mean(g_tied > spread),
        _mean(g_least > spread),
        _mean(np.tanh(ratio - 1)),
    )


def _mean(values: npt.ArrayLike) -> float:
    found = np.asarray(values, np.float64)
    return float(found.mean()) if found.size else 0.0


def _ties_row(groups: Sequence[Group], seed: Seed) -> tuple[tuple[CellValue, ...], float]:
    numbers = sorted({n for g in groups if (n := _number(g)[1])})
    if not numbers:
        raise DataError(
            f"the {len(groups)} rows of the subset {TIES} have no ids like `ref:3` and `tied:3`",
            "a question with many right answers is scored beside its reference question",
            "give the file with its column `id`",
        )

    def statistic(length: bool) -> Callable[[Ints], float]:
        scored = [_by_length(g) if length else g for g in groups]
        ref = {n: g for g in scored if (kind := _number(g))[0] == "ref" for n in [kind[1]]}
        tied = {n: g for g in scored if (kind := _number(g))[0] == "tied" for n in [kind[1]]}

        def overall(rows: Ints) -> float:
            chosen = [numbers[int(k)] for k in rows]
            names = {f"{n}#{k}": n for k, n in enumerate(chosen)}
            return score_ties(
                {k: ref[n] for k, n in names.items() if n in ref},
                {k: tied[n] for k, n in names.items() if n in tied},
            ).overall

        return overall

    mine, ruler = statistic(False), statistic(True)
    at = np.array(numbers)

    def difference(rows: Ints) -> float:
        return mine(rows) - ruler(rows)

    found = [bootstrap(f, at, draws=DRAWS, seed=seed.at("ties")) for f in (mine, ruler, difference)]
    return (TIES, len(groups), *found, None), found[0].mean


def _number(group: Group) -> tuple[str, str]:
    match = PAIRED.match(group.id) or PAIRED.match(str(group.prompt.meta.get("id", "")))
    return ("", "") if match is None else (match[1], match[2])


def _sides(group: Group) -> tuple[Floats, Floats]:
    if group.scores is None:
        raise DataError(
            f"group `{group.id}` has no scores",
            "every answer is scored by itself",
            "give a scoring judge: a reward model, a rater, rewards over HTTP",
        )
    won = sorted({p.winner for p in group.preferences})
    scores = np.asarray(group.scores, np.float64)
    return scores[won], np.delete(scores, won)


def _gap(group: Group) -> float:
    right, wrong = _sides(group)
    return float(right.min() - wrong.max())


def _spread(group: Group) -> float:
    right, _ = _sides(group)
    return float(right.max() - right.min())


def _by_length(group: Group) -> Group:
    return replace(group, scores=np.array([float(len(c.text)) for c in group.completions]))
