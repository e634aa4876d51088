"""Has taste moved? A reward of one span of time is tried on the comparisons of the next.

    found = measure_taste_shift(groups, "date")
    print(found)

A small reward is fitted to one tranche. It is tried on comparisons of the same tranche that it was
not fitted to, and on the next tranche. If people want the same things, it is right equally often.
The next tranche is weighed so that sources and gaps in length are as frequent as in the first:
easier questions are no change of taste. The reward is linear in words and length, so what it
cannot see it cannot say; an evaluation of a trained reward takes dates as well.

Shapes: N comparisons, d features.
"""

from __future__ import annotations

import datetime
import itertools
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tandem.data.chat.transcripts import prompt_key
from tandem.data.record import Group
from tandem.errors import DataError, nearest_name
from tandem.evaluation.tables import CellValue, Table
from tandem.statistics import Estimate
from tandem.statistics.crossed import crossed_squares
from tandem.statistics.intervals import ONE_PROMPT, cell_sums, without_interval
from tandem.statistics.logistic import fit_logistic
from tandem.statistics.numerics import Floats
from tandem.statistics.rates import estimate_share

WORDS = 128
"""Columns into which words are hashed."""
FOLDS = 5
PRIOR_SD = 0.5
FEWEST = 40
"""Decided comparisons that a tranche needs."""
LENGTH_BINS = 3
SECONDS = re.compile(r"-?\d{9,}(\.\d*)?")
"""A time as text that is seconds since 1970; 20261129 is a date of ISO 8601."""


@dataclass(frozen=True, eq=False)
class DatedPair:
    """A decided comparison.

    Attributes:
        time: when it was made.
        features: [d] of the preferred answer less those of the other.
        gap: how many words one answer has more than the other, whichever is preferred.
        source: where it comes from, "" where nobody says.
        prompt: the prompt's text; comparisons of one prompt are not independent.
    """

    time: datetime.datetime
    features: Floats
    gap: int
    source: str
    prompt: str


@dataclass(frozen=True)
class Tranche:
    """Comparisons of one span of time."""

    name: str
    pairs: tuple[DatedPair, ...]


@dataclass(frozen=True)
class TasteShift:
    """What a reward of each tranche says of the next.

    Attributes:
        column: where the dates are.
        rows: (tranche, next tranche, accuracy at home, accuracy on the next, their difference).
        sizes: decided comparisons of each tranche.
        undated: comparisons whose date is missing or unreadable.
    """

    column: str
    rows: tuple[tuple[str, str, Estimate, Estimate, Estimate], ...]
    sizes: dict[str, int]
    undated: int

    @property
    def moved(self) -> list[str]:
        """Tranches in which a reward of the one before is less often right, beyond chance."""
        return [after for _, after, _, _, gap in self.rows if gap.high < 0]

    def as_dict(self) -> dict[str, Any]:
        """Return everything for JSON."""
        return {
            "column": self.column,
            "tranches": self.sizes,
            "undated": self.undated,
            "moved": self.moved,
            "rows": [
                {
                    "from": a, "to": b, "home": home.as_dict(), "next": there.as_dict(),
                    "difference": gap.as_dict(),
                }
                for a, b, home, there, gap in self.rows
            ],
        }  # fmt: skip

    def __str__(self) -> str:
        cells: tuple[tuple[CellValue, ...], ...] = tuple(self.rows)
        heads = ("fitted to", "tried on", "at home", "there, matched", "difference")
        left = f"; {self.undated} comparisons without a date left out" if self.undated else ""
        title = f"has taste moved? by `{self.column}`{left}"
        return f"{Table(heads, cells, title)}\n{self._verdict()}"

    def _verdict(self) -> str:
        blind = sum(bool(np.isnan(gap.low)) for *_, gap in self.rows)
        if self.moved:
            return (
                f"taste has moved in {', '.join(self.moved)}: the reward of the tranche before is "
                "less often right there"
            )
        if blind:
            return (
                f"{blind} of {len(self.rows)} steps have too few prompts to see a change of taste"
            )
        return "no change of taste is seen; the intervals say how large a change could be missed"


def measure_taste_shift(groups: Iterable[Group], column: str, tranches: int = 0) -> TasteShift:
    """Cut comparisons by their dates, and try a reward of each tranche on the next.

    Args:
        groups: with preferences, and dates in `Prompt.meta[column]`: ISO 8601, or seconds since
            1970.
        column: where the dates are.
        tranches: so many of equal size; 0 cuts by calendar month.

    Raises:
        DataError: no such column, no date that can be read, or fewer than two tranches with
            enough comparisons.
    """
    pairs, undated = dated_pairs(groups, column)
    parts = [t for t in cut_by_time(pairs, tranches) if len(t.pairs) >= FEWEST]
    if len(parts) < 2:
        raise DataError(
            f"{len(pairs)} dated comparisons make {len(parts)} tranche(s) of {FEWEST} or more",
            "a reward of one tranche is tried on the next, so there must be two",
            "cut into fewer with --data.tranches 2, or wait for more comparisons",
        )
    rows = tuple((a.name, b.name, *try_on_next(a, b)) for a, b in itertools.pairwise(parts))
    return TasteShift(column, rows, {t.name: len(t.pairs) for t in parts}, undated)


def dated_pairs(groups: Iterable[Group], column: str) -> tuple[list[DatedPair], int]:
    """Return the decided comparisons with a date, oldest first, and how many have none.

    Raises:
        DataError: no row has the column, or no date can be read.
    """
    found: list[DatedPair] = []
    undated, known, example = 0, set[str](), None
    for group in groups:
        known |= set(group.prompt.meta)
        given = group.prompt.meta.get(column)
        time = None if given is None else parse_time(given)
        example = given if time is None and given is not None else example
        for vote in group.preferences:
            if vote.p == 0.5:
                continue
            if time is None:
                undated += 1
                continue
            won, lost = (group.completions[k].text for k in (vote.winner, vote.loser))
            gap = abs(len(won.split()) - len(lost.split()))
            source = str(group.prompt.meta.get("source", ""))
            features = text_features(won) - text_features(lost)
            found.append(DatedPair(time, features, gap, source, prompt_key(group.prompt)))
    if not found:
        said = "" if example is None else f"; {example!r} is no date"
        raise DataError(
            f"no comparison has a date in the column `{column}`{said}"
            + ("" if column in known else nearest_name(column, known)),
            "tranches are cut by dates: ISO 8601, as 2026-11-29, or seconds since 1970",
            f"name the column: {', '.join(sorted(known)) or 'the file has no further column'}",
        )
    return sorted(found, key=lambda pair: pair.time), undated


def parse_time(value: Any) -> datetime.datetime | None:
    """Read a date: ISO 8601, or seconds since 1970; None for anything else."""
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.datetime.fromtimestamp(value, datetime.UTC)
        text = str(value).strip()
        if SECONDS.fullmatch(text):
            return datetime.datetime.fromtimestamp(float(text), datetime.UTC)
        time = datetime.datetime.fromisoformat(text)
        return time.replace(tzinfo=time.tzinfo or datetime.UTC).astimezone(datetime.UTC)
    except (ValueError, OverflowError, OSError):
        return None


def cut_by_time(pairs: Sequence[DatedPair], tranches: int) -> list[Tranche]:
    """Cut comparisons, oldest first, by calendar month or into so many of equal size."""
    if tranches:
        edges = [k * len(pairs) // tranches for k in range(tranches + 1)]
        cuts = itertools.pairwise(edges)
        spans: list[tuple[DatedPair, ...]] = [
            tuple(pairs[start:end]) for start, end in cuts if end > start
        ]
        return [Tranche(f"{s[0].time:%Y-%m-%d} to {s[-1].time:%Y-%m-%d}", s) for s in spans]
    months = itertools.groupby(pairs, key=lambda pair: f"{pair.time:%Y-%m}")
    return [Tranche(name, tuple(inside)) for name, inside in months]


def text_features(text: str) -> Floats:
    """[WORDS + 1] which words an answer has, hashed, and its length in hundreds of words."""
    words = text.lower().split()
    found = np.zeros(WORDS + 1)
    for word in set(words):
        found[zlib.crc32(word.encode("utf-8", "replace")) % WORDS] += 1
    found[-1] = len(words) / 100
    return found


def try_on_next(here: Tranche, after: Tranche) -> tuple[Estimate, Estimate, Estimate]:
    """Return a reward's accuracy at home, on the next tranche matched to it, and the difference.

    Rewards are fitted to the prompts of all folds but one and tried on that one, at home and on
    the next tranche: both accuracies are of equally good rewards on prompts that they have not
    seen. A fold is left out where too little lies outside it.
    """
    x, new = (np.stack([p.features for p in t.pairs]) for t in (here, after))
    fold, next_fold = (np.array([fold_of(p.prompt) for p in t.pairs]) for t in (here, after))
    home, there = np.full(len(x), np.nan), np.full(len(new), np.nan)
    for k in range(FOLDS):
        if (fold != k).sum() >= FEWEST // 2:
            w = fit_taste(x[fold != k])
            home[fold == k] = is_right(x[fold == k] @ w)
            there[next_fold == k] = is_right(new[next_fold == k] @ w)
    weight = matching_weights(here.pairs, after.pairs)
    a = weighted_share(home, np.ones(len(home)), [p.prompt for p in here.pairs])
    b = weighted_share(there, weight, [p.prompt for p in after.pairs])
    how = "two independent samples of prompts, matched for length and source"
    return a, b, difference_of_samples(b, a, how)


def fold_of(prompt: str) -> int:
    """Return which fold a prompt is in, the same in every tranche."""
    return zlib.crc32(prompt.encode("utf-8", "replace")) % FOLDS


def difference_of_samples(a: Estimate, b: Estimate, method: str) -> Estimate:
    """Estimate how much higher a is than b, two estimates of independent samples.

    The interval is made of theirs (Newcombe 1998, method 10); there is none where one has none.
    """
    gap = a.mean - b.mean
    low = gap - float(np.hypot(a.mean - a.low, b.high - b.mean))
    high = gap + float(np.hypot(a.high - a.mean, b.mean - b.low))
    how = next((e.method for e in (a, b) if np.isnan(e.low)), method)
    return Estimate(gap, low, high, min(a.n, b.n), float("nan"), how, float(np.hypot(a.se, b.se)))


def fit_taste(x: Floats) -> Floats:
    """[d] the linear reward that is likeliest to have made these choices; x is won less lost."""
    signs = np.where(np.arange(len(x)) % 2, 1.0, -1.0)  # a fit needs wins of both sides
    return fit_logistic(x * signs[:, None], (signs + 1) / 2, prior_sd=PRIOR_SD).b


def is_right(gaps: Floats) -> Floats:
    """Return 1 where the preferred answer has the higher reward, .5 where both are equal."""
    return 0.5 * (1 + np.sign(gaps))


def matching_weights(here: Sequence[DatedPair], after: Sequence[DatedPair]) -> Floats:
    """[N] weights of the next tranche with which strata are as frequent in it as in this one.

    A stratum is a source and a third of the gaps in length of this tranche, whoever was preferred:
    strata that knew the labels would choose among them. Where the next has none of a stratum,
    nothing can be matched, and the rest counts as it is.
    """
    edges = np.quantile([p.gap for p in here], np.linspace(0, 1, LENGTH_BINS + 1)[1:-1])

    def strata(pairs: Sequence[DatedPair]) -> list[tuple[str, int]]:
        return [(p.source, int(np.searchsorted(edges, p.gap))) for p in pairs]

    met = strata(after)
    mine, theirs = Counter(strata(here)), Counter(met)
    weights = np.array([mine[s] / len(here) / theirs[s] for s in met])
    return weights / weights.sum() if weights.sum() > 0 else np.full(len(met), 1 / len(met))


def weighted_share(values: Floats, weight: Floats, prompts: Sequence[str]) -> Estimate:
    """Estimate a weighted share; comparisons of one prompt vary together.

    Args:
        values: [N] 1, .5 or 0; nan is left out.
        weight: [N] at least 0.
        prompts: [N] which prompt each comparison is about.
    """
    seen = ~np.isnan(values) & (weight > 0)
    if not seen.any():
        return without_interval(float("nan"), 0, "no interval: too few prompts to try a reward on")
    share = weight[seen] / weight[seen].sum()
    mean = min(1.0, float(values[seen] @ share))
    cells = cell_sums(share * (values[seen] - mean), np.array(prompts)[seen])
    if cells.shape[1] == 1:
        return without_interval(mean, 1, ONE_PROMPT)
    spread = crossed_squares(cells, share=True)
    return estimate_share(mean, spread, float("nan"), "weighted, by prompt")
