"""RewardBench 2: a reward scores every answer by itself (Malik et al. 2025, arXiv:2506.01937).

Of four answers one is right. It counts where it has the highest score, a share where others have
the same; chance is 1/4. In the subset Ties a question has many right answers, and comes with a
reference question that has one:

    .3 ref + .3 tied + .2 preferred + .2 hard + .01 margin

ref and tied are the shares of prompts where every right answer is above every wrong one. With the
gap g = (lowest right - highest wrong) and the spread s = (highest right - lowest right) of the
tied prompt: `preferred` is the share with g_tied > s, `hard` that with min(g_ref, g_tied) > s, and
`margin` the mean of tanh(min(g_ref, g_tied) / s - 1), where x / 0 is infinite as in the authors'
code, and 0 / 0 gives 0. It can reach 1.01.

A prompt that nobody could score is right in none and in all, which are the interval's bounds; in
Ties it is left out. Both are counted.

Beside the reward stands a ruler that scores an answer by its length, on the same prompts, and the
difference with a paired interval: a reward that cannot beat the ruler has learnt length.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tandem.data.chat.transcripts import prompt_key
from tandem.data.record import Group
from tandem.errors import DataError
from tandem.evaluation.best_of_accuracy import (
    accuracy_by_prompt,
    best_of_credit,
    is_best_of,
    scores_by_side,
)
from tandem.evaluation.suites import SuiteResult
from tandem.evaluation.suites.answers import scored_by_length
from tandem.evaluation.tables import CellValue, Table
from tandem.operators.columns import scores_of
from tandem.rng import Seed
from tandem.statistics import Estimate, bootstrap, by_prompt
from tandem.statistics.numerics import Floats, Ints

TIES = "Ties"
PAIRED = re.compile(r"(ref|tied):(\w+)")
DRAWS = 1000


def score_rewards(groups: Sequence[Group], seed: Seed = Seed()) -> SuiteResult:
    """Score judged groups.

    Args:
        groups: with `scores` (None where the judge gave none), preferences that say which answers
            are right, `subset` in the prompt's meta, and in Ties ids `ref:N` and `tied:N`.
        seed: resamples of the formula for ties.

    Raises:
        DataError: no group is of best-of-k form, none has scores, or a score is not finite.
    """
    parts = split_by_subset(groups)
    kept = [group for part in parts.values() for group in part]
    if all(group.scores is None for group in kept):
        scores_of(kept[0], "rewardbench2")
    rows: list[tuple[CellValue, ...]] = []
    for subset, part in sorted(parts.items()):
        if subset == TIES:
            continue
        rows.append(_subset_row(subset, part))
    if TIES in parts:
        rows.append(_ties_row(parts[TIES], seed))
    means = [row[2].mean for row in rows if isinstance(row[2], Estimate)]
    columns = (
        "subset", "prompts", "reward", "ruler (length)", "reward - ruler", "chance", "unscored",
    )  # fmt: skip
    title = f"RewardBench 2, mean of {len(means)} subsets {np.mean(means):.1%}; 95 % intervals"
    table, left = Table(columns, tuple(rows), title), len(groups) - len(kept)
    text = f"{table}\n{left} rows without one right answer among several left out"
    numbers = {"mean": float(np.mean(means)), "subsets": table.as_dicts(), "left_out": left}
    return SuiteResult(text if left else str(table), numbers)


def split_by_subset(groups: Iterable[Group]) -> dict[str, list[Group]]:
    """Return the groups by subset: best-of-k, and in Ties those with right and wrong answers.

    Raises:
        DataError: there is none.
    """
    parts: dict[str, list[Group]] = {}
    for group in groups:
        subset = str(group.prompt.meta.get("subset", "all"))
        right = len({p.winner for p in group.preferences})
        if is_best_of(group) or (subset == TIES and 0 < right < len(group)):
            parts.setdefault(subset, []).append(group)
    if not parts:
        raise DataError(
            "no row has one right answer among several",
            "RewardBench 2 asks for the right one of four",
            "give its file: rows with `prompt`, `chosen` [1], `rejected` [3] and `subset`",
        )
    return parts


def best_of_credits(groups: Iterable[Group]) -> Floats:
    """Return [P] credit by the judge's scores; nan where it gave none."""
    return np.array([np.nan if g.scores is None else best_of_credit(g) for g in groups])


def _subset_row(subset: str, part: Sequence[Group]) -> tuple[CellValue, ...]:
    mine, ruler = best_of_credits(part), best_of_credits(map(scored_by_length, part))
    prompts, unread = [prompt_key(g.prompt) for g in part], np.isnan(mine)

    def bounded(estimate: Callable[[Floats], Estimate]) -> Estimate:
        lost, half, won = (estimate(np.where(unread, x, mine)) for x in (0.0, 0.5, 1.0))
        return replace(half, low=lost.low, high=won.high)

    return (
        subset,
        len(part),
        bounded(lambda credit: accuracy_by_prompt(credit, part)),
        accuracy_by_prompt(ruler, part),
        bounded(lambda credit: by_prompt(credit - ruler, prompts)),
        float(np.mean([1 / len(g) for g in part])),
        int(unread.sum()),
    )


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
    with np.errstate(divide="ignore", invalid="ignore"):
        margin = np.nan_to_num(np.tanh(g_least / spread - 1))
    return TiesScore(
        _mean([g > 0 for g in gaps["r"]]),
        _mean([g > 0 for g in gaps["t"]]),
        _mean(g_tied > spread),
        _mean(g_least > spread),
        _mean(margin),
    )


def _mean(values: npt.ArrayLike) -> float:
    found = np.asarray(values, np.float64)
    return float(found.mean()) if found.size else 0.0


def _ties_row(groups: Sequence[Group], seed: Seed) -> tuple[CellValue, ...]:
    if not any(_number(g)[1] for g in groups):
        raise DataError(
            f"the {len(groups)} rows of the subset {TIES} have no ids like `ref:3` and `tied:3`",
            "a question with many right answers is scored beside its reference question",
            "give the file with its column `id`",
        )
    known = [g for g in groups if g.scores is not None]
    numbers = sorted({n for g in known if (n := _number(g)[1])})
    if not numbers:
        return (TIES, len(groups), None, None, None, None, len(groups))

    def statistic(length: bool) -> Callable[[Ints], float]:
        scored = [scored_by_length(g) if length else g for g in known]
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
    return (TIES, len(groups), *found, None, len(groups) - len(known))


def _number(group: Group) -> tuple[str, str]:
    match = PAIRED.match(group.id) or PAIRED.match(str(group.prompt.meta.get("id", "")))
    return ("", "") if match is None else (match[1], match[2])


def _gap(group: Group) -> float:
    right, wrong = scores_by_side(group)
    return float(right.min() - wrong.max())


def _spread(group: Group) -> float:
    right, _ = scores_by_side(group)
    return float(right.max() - right.min())
