"""What stored outcomes say about a test of a claim: a number with its interval, or what is missing.

Outcomes lie in docs/results: `NAME.parquet` has a comparison's numbers prompt by prompt, and its
statistics are made of those (docs/adr/0018). Where a comparison is older than that, `NAME.json`
still has one mean a seed: its interval is over seeds alone, and `Evidence.kind` says so. Other
experiments keep their numbers, or their estimates, in `NAME.json`: where they stored an estimate
over seeds and prompts, it decides, and not the means of the seeds. No torch.

Shapes: S seeds, P prompts, K rows of a trend, M policies.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pages import NOW
from tandem.bench.outcomes import Outcomes, read_outcomes
from tandem.errors import DataError
from tandem.statistics import Estimate, mean_of, mean_over_seeds
from tandem.statistics.intervals import without_interval
from tandem.statistics.numerics import Floats, t_tails

Kind = Literal["outcomes", "means", "numbers", "seeds", "estimate", "missing"]
Test = Mapping[str, Any]
REDUCED = {"sum": np.sum, "mean": np.mean}
ALL = "*"
"""In a path: every item of a list, or every value of a table."""


class Absent(Exception):
    """Nobody has measured this yet; the words say what is not there."""


@dataclass(frozen=True)
class Evidence:
    """What is known about a test.

    Attributes:
        estimate: how much more, with its interval; None where nothing was measured.
        kind: what it is made of; of `means` and `seeds` the interval is over seeds alone.
        adjusted: the p-value is after Holm already, over the experiment's own table.
        day: when it was measured, where the file says so.
        old: its interval is not that of docs/adr/0018 over all that was measured.
        missing: why there is no estimate.
    """

    estimate: Estimate | None
    kind: Kind
    adjusted: bool = False
    day: str = ""
    old: bool = False
    missing: str = ""


@dataclass(frozen=True)
class Store:
    """The folder that outcomes lie in.

    Attributes:
        folder: with NAME.parquet and NAME.json.
    """

    folder: Path
    cache: dict[str, Any] = field(default_factory=dict, compare=False)

    def results(self, name: str) -> Any:
        """Return what an experiment left as JSON; `Absent` where it has not been run."""
        if name not in self.cache:
            file = self.folder / f"{name}.json"
            if not file.exists():
                raise Absent(f"there is no {file.name}")
            self.cache[name] = json.loads(file.read_text(encoding="utf-8"))
        return self.cache[name]

    def outcomes(self, name: str) -> Outcomes | None:
        """Return a comparison's numbers prompt by prompt; None where none are kept."""
        file = self.folder / f"{name}.parquet"
        return _read(file) if file.exists() else None


@lru_cache(maxsize=16)
def _read(file: Path) -> Outcomes:
    return read_outcomes(file)


def weigh_test(test: Test, store: Store) -> Evidence:
    """Return what the stored outcomes say about a test."""
    try:
        found = store.results(test["file"])
        day, old = "", False
        if isinstance(found, Mapping):
            day, old = str(found.get("date", "")), found.get("intervals") != NOW
        if "by" in test or "rank" in test:
            return _bench(test, store, day)
        if "gain" in test or "loss" in test:
            path = test["gain"] if "gain" in test else test["loss"]
            estimate, adjusted = read_estimate(follow_path(found, path))
            if "loss" in test:
                low, high = -estimate.high, -estimate.low
                estimate = replace(estimate, mean=-estimate.mean, low=low, high=high)
            return Evidence(estimate, "estimate", adjusted, day, old)
        if "apart" in test:
            low, high = (read_estimate(follow_path(found, p))[0] for p in test["apart"])
            return Evidence(join_ends(low, high), "estimate", day=day, old=old)
        difference = _numbers(test, found)
        if difference.ndim == 1:
            known = mean_over_seeds(difference)
            return Evidence(known, "seeds", day=day, old=old and bool(day))
        return Evidence(mean_of(difference), "numbers", day=day)
    except Absent as error:
        return Evidence(None, "missing", missing=str(error))


# --- comparisons ----------------------------------------------------------------------------------


def _bench(test: Test, store: Store, day: str) -> Evidence:
    outcomes = store.outcomes(test["file"])
    kept = outcomes is not None
    columns = outcomes.columns if kept else means_by_seed(store.results(test["file"]))
    if "rank" in test:
        return Evidence(_alike(test, columns), "seeds", day=day, old=not kept)
    rows = test.get("rows") or [test["less"], test["more"]]
    stack = np.stack([_column(columns, row, test["by"]) for row in rows])
    steps = np.tensordot(slope_weights(len(rows)), stack, axes=1)
    try:
        estimate = mean_of(steps) if kept else mean_over_seeds(steps)
    except DataError as error:  # a verdict that could not be read
        known = float(np.nanmean(steps)) if np.isfinite(steps).any() else math.nan
        estimate = without_interval(known, steps.shape[-1], error.what)
    return Evidence(estimate, "outcomes" if kept else "means", day=day, old=not kept)


def means_by_seed(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return policy -> column -> [S] means of a comparison whose outcomes were not kept.

    What stood as gold before it was fitted to other data was an ensemble of proxies: left out.
    """
    kept = ("truth", "proxy", *(["gold_rm"] if "gold" in found else []))
    rows = [p for p in found["policies"] if p.get("per_seed")]
    return {p["policy"]: {k: v for k, v in p["per_seed"].items() if k in kept} for p in rows}


def slope_weights(k: int) -> Floats:
    """Return the weights whose sum with K rows is their slope a step; of two, the difference."""
    place = np.arange(k) - (k - 1) / 2
    return place / float((place**2).sum())


def _column(columns: Mapping[str, Any], row: str, by: str) -> Floats:
    if row not in columns:
        raise Absent(f"nobody has measured {row!r}")
    if by not in columns[row]:
        raise Absent(f"{row!r} has no numbers by {by!r}")
    return np.asarray(columns[row][by], np.float64)


def _alike(test: Test, columns: Mapping[str, Any]) -> Estimate:
    """Estimate Kendall's tau of two judges' rankings of the policies, one number a seed."""
    both = [n for n, own in columns.items() if test["rank"] in own and test["as"] in own]
    if len(both) < 3:
        raise Absent(f"fewer than three policies have numbers by {test['rank']!r}")

    def means(by: str) -> Floats:
        stack = np.stack([_column(columns, n, by) for n in both])
        return stack.mean(axis=-1) if stack.ndim == 3 else stack

    return mean_over_seeds(kendall_tau(means(test["rank"]), means(test["as"])))


def kendall_tau(a: Floats, b: Floats) -> Floats:
    """Return Kendall's tau over the first axis of [M, S] numbers, one a seed; ties count zero."""
    m = len(a)
    signs = [np.sign(x[:, None] - x[None, :]) for x in (a, b)]
    return (signs[0] * signs[1]).sum(axis=(0, 1)) / (m * (m - 1))


# --- experiments of their own ---------------------------------------------------------------------


def follow_path(found: Any, path: Sequence[Any]) -> Any:
    """Return what a path leads to in a JSON.

    A step is a key, a place in a list, `*` for every item, or a table: the first item of a list
    that has all of its values.
    """
    for k, step in enumerate(path):
        if step == ALL:
            items = list(found.values()) if isinstance(found, Mapping) else found
            return [follow_path(item, path[k + 1 :]) for item in items]
        found = _step(found, step)
    return found


def _step(found: Any, step: Any) -> Any:
    if isinstance(step, Mapping):
        fits = (item for item in found if all(item.get(k) == v for k, v in step.items()))
        if (item := next(fits, None)) is None:
            raise Absent(f"nothing has {json.dumps(dict(step))}")
        return item
    try:
        return found[step]
    except (KeyError, IndexError, TypeError) as error:
        raise Absent(f"there is no {step!r}") from error


def _numbers(test: Test, found: Any) -> Floats:
    """Return how much higher one is than the other, [S] or [S, P], in the seeds that have both."""
    sides = (_each_seed(found, test[k]) for k in ("low", "high"))
    both = [(a, b) for a, b in zip(*sides, strict=True) if a is not None and b is not None]
    if not both:
        raise Absent("no seed has both")
    low, high = (np.asarray(x, np.float64) for x in zip(*both, strict=True))
    if reduce := test.get("reduce"):
        low, high = (REDUCED[reduce](x, axis=-1) for x in (low, high))
    return high - low


def _each_seed(found: Any, path: Sequence[Any]) -> list[Any]:
    """Return what a path leads to in every seed; None in those that lack it."""
    if ALL not in path:
        return list(follow_path(found, path))
    at = path.index(ALL)
    items, each = follow_path(found, path[:at]), list[Any]()
    for item in items.values() if isinstance(items, Mapping) else items:
        try:
            each.append(follow_path(item, path[at + 1 :]))
        except Absent:
            each.append(None)
    return each


def read_estimate(value: Any) -> tuple[Estimate, bool]:
    """Read an estimate that an experiment stored, and whether its p-value is after Holm.

    It is a table, three numbers, or a row whose `gain` is one of them; `holm_p` may stand in both.
    """
    row: Mapping[str, Any] = value if isinstance(value, Mapping) else {}
    told = row.get("gain", value)
    rest: Mapping[str, Any] = told if isinstance(told, Mapping) else {}
    mean, low, high = (rest[k] for k in ("mean", "low", "high")) if rest else told
    adjusted = "holm_p" in row
    p = row["holm_p"] if adjusted else rest.get("p_value")
    made = Estimate(
        mean=mean, low=_number(low), high=_number(high), n=int(rest.get("n", 0)),
        p_value=_number(p), method="as the experiment stored it", se=_number(rest.get("se")),
        seeds=int(rest.get("seeds", 1)),
    )  # fmt: skip
    return made, adjusted


def _number(x: Any) -> float:
    return float("nan") if x is None else float(x)


def join_ends(low: Estimate, high: Estimate) -> Estimate:
    """Estimate how much higher one stored estimate is than another of the same seeds.

    Nobody stored how they vary together, so their standard errors add up, and so do the arms of
    their intervals: too wide, unless the two go in opposite directions.
    """
    mean, se = high.mean - low.mean, high.se + low.se
    df = max(1, min(low.seeds, high.seeds) - 1)
    p = float(2 * t_tails(abs(mean) / se, df)) if se > 0 else math.nan
    return Estimate(
        mean, high.low - low.high, high.high - low.low, min(low.n, high.n), p,
        "ends of two intervals joined", se, min(low.seeds, high.seeds),
    )  # fmt: skip


def missing_paths(tests: Sequence[Test], store: Store) -> Iterator[str]:
    """Yield what tests name that an existing file does not have: a mistake in the tests."""
    for test in tests:
        there = (store.folder / f"{test['file']}.json").exists()
        if there and "by" not in test and not test.get("later"):
            told = weigh_test(test, store).missing
            if told and "rank" not in test:
                yield f"{test['file']}, {test['label']}: {told}"
