"""Do 95 % intervals cover? Simulated benches whose truth is known, for every statistic.

    python experiments/coverage.py                  # simulate what is missing, then write the page
    python experiments/coverage.py --page           # the page alone, from the JSON
    python experiments/coverage.py --draws 500      # quicker and rougher

A bench is simulated as it is run: S seeds meet the same P prompts, and

    log-odds of a win = level + seed effect + prompt effect (+ an effect of length)

with normal effects; scores for the mean are level + seed + prompt + noise. The level is such that
the truth is the share asked for. A draw counts as covered when the 95 % interval holds the truth.
All draws of a cell go through the package's own functions at once; on the first of them the
estimates that users call have to agree, or the script stops. Cells that are done are kept in the
JSON, so a killed run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import math
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tandem.errors import DataError
from tandem.rng import Seed
from tandem.runs.atomic_files import read_json, write_json, write_text
from tandem.runs.environment import code_commit, environment_snapshot
from tandem.statistics import (
    ELO_PER_NAT,
    Estimate,
    fit_bradley_terry,
    length_controlled,
    mean_of,
    win_rate,
)
from tandem.statistics.crossed import ALPHA, crossed_squares
from tandem.statistics.logistic import Logistic, fit_logistic
from tandem.statistics.numerics import find_root, logistic, normal_quantile
from tandem.statistics.ranking import bounded, fit_length
from tandem.statistics.rates import share_p_value

Floats = npt.NDArray[np.float64]
SEEDS, PROMPTS, SPREADS, SHARES = (2, 3, 5, 10), (3, 10, 100, 1000), (0.0, 0.1, 0.3), (0.5, 0.9)
PROMPT_SD, LENGTH_EFFECT = 1.0, 1.0
DRAWS, CHECKED, NUMBERS = 4000, 8, 1_000_000
"""Draws of a cell, how many of them are also done by the functions users call, and how many
numbers are held at once."""
LOW, HIGH = 0.93, 0.98
JSON = Path(__file__).parents[1] / "docs" / "results" / "coverage.json"
NAMES = ("mean", "win rate", "length-controlled win rate", "Bradley-Terry", "Elo")


@dataclass(frozen=True, slots=True)
class Cell:
    """One design to simulate."""

    statistic: str
    seeds: int
    prompts: int
    spread: float
    share: float

    @property
    def name(self) -> str:
        """Key in the JSON."""
        return f"{self.statistic}, {self.seeds} x {self.prompts}, {self.spread:g}, {self.share:g}"


@dataclass(frozen=True, slots=True)
class Drawn:
    """Simulated benches at once.

    Attributes:
        inside: [N] True where the interval holds the truth; nan in `known` where there is none.
        known: [N] True where there is an estimate at all.
        truth: what is estimated.
        estimate: k -> the estimate that a user gets of the k-th.
    """

    inside: npt.NDArray[np.bool_]
    known: npt.NDArray[np.bool_]
    truth: float
    estimate: Callable[[int], Estimate]


def main(words: Sequence[str] | None = None) -> int:
    """Simulate what is missing and write the page."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--out", type=Path, default=JSON)
    parser.add_argument("--page", action="store_true", help="the page alone")
    asked = parser.parse_args(words)
    found = read_json(asked.out) or {"cells": {}, "cpu_seconds": 0.0}
    if not asked.page:
        fill(found, asked.draws, asked.out)
    page = asked.out.with_suffix(".md")
    write_text(page, text(found))
    print(page)
    return 0


def fill(found: dict[str, Any], draws: int, out: Path) -> None:
    """Simulate every cell that is missing or has fewer draws, writing after each."""
    cells = [Cell(*c) for c in product(NAMES, SEEDS, PROMPTS, SPREADS, SHARES)]
    found |= {"draws": draws, "commit": code_commit(), "environment": environment_snapshot()}
    found["processor"] = _processor()
    for k, cell in enumerate(cells):
        if found["cells"].get(cell.name, {}).get("draws", -1) >= draws:
            continue
        began = time.process_time()
        result = simulate(cell, draws)
        found["cpu_seconds"] += time.process_time() - began
        found["cells"][cell.name] = result
        write_json(out, found)
        told = "no interval" if result["covered"] is None else f"{result['covered']:.1%}"
        print(f"{k + 1}/{len(cells)} {cell.name}: {told}", flush=True)


def simulate(cell: Cell, draws: int, seed: Seed | None = None) -> dict[str, Any]:
    """Return how often the interval of a design covers, or why it has none.

    Args:
        cell: the design.
        draws: how many benches.
        seed: where the draws start; the same for everybody unless given.

    Returns:
        `covered`, of the draws that have an interval; `without`, share of draws without; `why`;
        `draws`.
    """
    rng = (seed or Seed()).at("coverage", cell.name).rng()
    inside, known, left = 0, 0, draws
    while left:
        many = min(left, max(1, NUMBERS // (cell.seeds * cell.prompts)))
        drawn = WORLDS[cell.statistic](cell, many, rng)
        if left == draws:
            first = _first(drawn)
            if first is not None and math.isnan(first.low):
                return {"covered": None, "without": 1.0, "why": first.method, "draws": draws}
            _agree(cell, drawn)
        inside += int((drawn.inside & drawn.known).sum())
        known += int(drawn.known.sum())
        left -= many
    why = "one side won all: the fit refuses" if known < draws else ""
    covered = round(inside / known, 5) if known else None
    return {"covered": covered, "without": 1 - known / draws, "why": why, "draws": draws}


def _first(drawn: Drawn) -> Estimate | None:
    places = np.flatnonzero(drawn.known)
    return drawn.estimate(int(places[0])) if len(places) else None


def _agree(cell: Cell, drawn: Drawn) -> None:
    """Stop if what users call says otherwise than the batch."""
    for k in range(min(CHECKED, len(drawn.known))):
        try:
            found = drawn.estimate(k)
        except DataError:
            if drawn.known[k]:
                raise
            continue
        holds = found.low <= drawn.truth <= found.high
        if holds != bool(drawn.inside[k]):
            raise AssertionError(f"{cell.name}, draw {k}: {found}, truth {drawn.truth}")


# worlds


def _mean(cell: Cell, n: int, rng: np.random.Generator) -> Drawn:
    sd = math.sqrt(1 + PROMPT_SD**2 + cell.spread**2)
    truth = -sd * normal_quantile(cell.share)
    x = truth + _effects(cell, n, rng) + rng.standard_normal((n, cell.seeds, cell.prompts))
    p = crossed_squares(x).p_value(x.mean(axis=(1, 2)) - truth)
    return Drawn(p >= ALPHA, np.ones(n, np.bool_), truth, lambda k: mean_of(x[k]))


def _win(cell: Cell, n: int, rng: np.random.Generator) -> Drawn:
    y = _wins(level(cell) + _effects(cell, n, rng), rng)
    p = share_p_value(y.mean(axis=(1, 2)), crossed_squares(y, share=True), cell.share)
    return Drawn(p >= ALPHA, np.ones(n, np.bool_), cell.share, lambda k: win_rate(y[k]))


def _elo(cell: Cell, n: int, rng: np.random.Generator) -> Drawn:
    y = _wins(level(cell) + _effects(cell, n, rng), rng)
    rate, variance = y.mean(axis=(1, 2)), None
    known = (rate > 0) & (rate < 1)
    variance = rate * (1 - rate) / (cell.seeds * cell.prompts)
    spread = bounded(crossed_squares(y - rate[:, None, None], share=True), variance)
    p = share_p_value(rate, spread, cell.share)
    truth = ELO_PER_NAT * math.log(cell.share / (1 - cell.share))
    where, when = _places(cell)

    def estimate(k: int) -> Estimate:
        names = ["a"] * y[k].size, ["b"] * y[k].size
        return fit_bradley_terry(*names, y[k].ravel(), where, when).elo("b")["a"]

    return Drawn(p >= ALPHA, known, truth, estimate)


def _length(cell: Cell, n: int, rng: np.random.Generator) -> Drawn:
    gap = rng.standard_normal((n, cell.seeds, cell.prompts))
    odds = length_level(cell) + LENGTH_EFFECT * np.tanh(gap) + _effects(cell, n, rng)
    y = _wins(odds, rng)
    rate, cells, model = fit_length(y.reshape(n, -1), gap.reshape(n, -1))
    influences = cells.reshape(y.shape) * cell.seeds * cell.prompts
    p = share_p_value(rate, bounded(crossed_squares(influences, share=True), model), cell.share)
    same = np.ptp(y, axis=(1, 2)) == 0
    flat = share_p_value(
        y[:, 0, 0], crossed_squares(np.zeros_like(y[:, :1])), cell.share
    )  # all alike: Wilson over prompts
    inside = np.where(same, flat >= ALPHA, p >= ALPHA)
    return Drawn(
        inside, np.ones(n, np.bool_), cell.share, lambda k: length_controlled(y[k], gap[k])
    )


PAIRS = ((0, 1), (0, 2), (2, 1))
DESIGN = np.array([[-1.0, 0.0], [0.0, -1.0], [-1.0, 1.0]])
"""Rows of the three pairs for strengths of b and c; a's is 0."""


def _strength(cell: Cell, n: int, rng: np.random.Generator) -> Drawn:
    own = [_effects(cell, n, rng) / math.sqrt(2) for _ in range(3)]
    levels = np.array([1, 0.5, 0.5]) * pair_level(cell)
    y = np.stack(
        [_wins(m + own[i] - own[j], rng) for m, (i, j) in zip(levels, PAIRS, strict=True)], axis=1
    )
    shares, each = y.mean(axis=(2, 3)), np.full((n, 3), float(cell.seeds * cell.prompts))
    known = _beaten(shares)
    shares = np.where(known[:, None], shares, 0.5)
    fit = fit_logistic(DESIGN, shares, each)
    p = _gap_p_value(fit, y, each, cell)
    truth = math.log(cell.share / (1 - cell.share))
    where, when = _places(cell)

    def estimate(k: int) -> Estimate:
        first = [name for i, _ in PAIRS for name in ["abc"[i]] * y[k, 0].size]
        second = [name for _, j in PAIRS for name in ["abc"[j]] * y[k, 0].size]
        fitted = fit_bradley_terry(first, second, y[k].ravel(), where * 3, when * 3)
        return fitted.gap("a", "b")

    return Drawn(p >= ALPHA, known, truth, estimate)


def _gap_p_value(fit: Logistic, y: Floats, each: Floats, cell: Cell) -> Floats:
    contrast = np.array([-1.0, 0.0])
    moves = (DESIGN @ (fit.covariance @ contrast)[..., None])[..., 0]
    expected = logistic((DESIGN @ fit.b[..., None])[..., 0])
    rate = logistic(fit.b @ contrast)
    slope = rate * (1 - rate)
    left = (y - expected[..., None, None]) * moves[..., None, None]
    cells = left.sum(axis=1) * each[:, :1, None] * slope[:, None, None]
    model = slope**2 * (contrast @ fit.covariance @ contrast)
    return share_p_value(rate, bounded(crossed_squares(cells, share=True), model), cell.share)


def _beaten(shares: Floats) -> npt.NDArray[np.bool_]:
    """Say where everybody has beaten everybody, directly or by a chain."""
    ab, ac, cb = (shares > 0).T
    ba, ca, bc = (shares < 1).T
    return (ab | (ac & cb)) & (ba | (bc & ca)) & (ac | (ab & bc)) & (ca | (cb & ba)) & (
        cb | (ca & ab)
    ) & (bc | (ba & ac))  # fmt: skip


World = Callable[[Cell, int, np.random.Generator], Drawn]
MAKERS: tuple[World, ...] = (_mean, _win, _length, _strength, _elo)
WORLDS: dict[str, World] = dict(zip(NAMES, MAKERS, strict=True))


def _effects(cell: Cell, n: int, rng: np.random.Generator) -> Floats:
    by_seed = cell.spread * rng.standard_normal((n, cell.seeds, 1))
    return by_seed + PROMPT_SD * rng.standard_normal((n, 1, cell.prompts))


def _wins(odds: Floats, rng: np.random.Generator) -> Floats:
    return (rng.random(odds.shape) < logistic(odds)).astype(np.float64)


def _places(cell: Cell) -> tuple[list[int], list[int]]:
    rows, columns = np.indices((cell.seeds, cell.prompts))
    return columns.ravel().tolist(), rows.ravel().tolist()


# truths


@lru_cache(maxsize=1)
def _nodes() -> tuple[Floats, Floats]:
    place, weight = np.polynomial.hermite_e.hermegauss(80)
    return place, weight / weight.sum()


def marginal(odds: npt.ArrayLike, sd: float) -> Floats:
    """Return the share of wins over normal effects of this spread, for each log-odds."""
    place, weight = _nodes()
    return logistic(np.asarray(odds)[..., None] + sd * place) @ weight


def _sd(cell: Cell) -> float:
    return math.hypot(PROMPT_SD, cell.spread)


@lru_cache(maxsize=64)
def _level(share: float, sd: float) -> float:
    return find_root(lambda m: float(marginal(m, sd)) - share, -20, 20)


def level(cell: Cell) -> float:
    """Return the log-odds whose share over all seeds and prompts is the cell's."""
    return _level(cell.share, _sd(cell))


@lru_cache(maxsize=64)
def _length_level(share: float, sd: float) -> float:
    """Return the log-odds at which the fit to infinitely many comparisons gives the share."""
    place, weight = _nodes()
    squashed = np.tanh(place)
    x = np.stack([np.ones_like(place), squashed], axis=1)

    def over(m: float) -> float:
        y = marginal(m + LENGTH_EFFECT * squashed, sd)
        return float(logistic(fit_logistic(x, y, weight).b[0])) - share

    return find_root(over, -8, 8)


def length_level(cell: Cell) -> float:
    """Return the log-odds at no gap in length."""
    return _length_level(cell.share, _sd(cell))


@lru_cache(maxsize=64)
def _pair_level(share: float, sd: float) -> float:
    def over(m: float) -> float:
        y = marginal(np.array([m, m / 2, m / 2]), sd)
        return float(logistic(-fit_logistic(DESIGN, y).b[0])) - share

    return find_root(over, -8, 8)


def pair_level(cell: Cell) -> float:
    """Return the log-odds of a over b at which the fit to all comparisons gives the share."""
    return _pair_level(cell.share, _sd(cell))


# the page


def text(found: dict[str, Any]) -> str:
    """Return the page: how often intervals cover, a table a statistic."""
    lines = [
        "# coverage: do the intervals hold what they say?",
        "",
        "Generated by `python experiments/coverage.py` from [coverage.json](coverage.json).",
        "",
        f"Simulated benches whose truth is known: {found['draws']:,} draws a cell, on "
        f"{found['processor']}, {found['cpu_seconds'] / 60:.0f} processor minutes. A number is "
        "the percentage of draws whose 95 % interval holds the truth. Seed and prompt effects are "
        f"normal; prompts have a standard deviation of {PROMPT_SD:g}, seeds the one above the "
        "column, in log-odds (for the mean, in units of the noise). Two shares are told apart by "
        "a slash: 50 % and 90 %. A dash is a design without an interval, for the reason below "
        "the table.",
        "",
        f"**Asked for: {LOW:.0%} to {HIGH:.0%} in every cell; with two seeds it may be more.** "
        f"{verdict(found)}",
        "",
        "A share of ten prompts has no interval: where the truth is 90 %, the outcomes 8 to 10 "
        "have 92.98 % of the probability and 7 to 10 already 98.7 %, so none holds it in 93 to "
        "98 % of draws. From twelve prompts on there is one.",
        "",
        "Intervals are for seed effects that are about normal. With one seed of five that falls "
        "out of line no interval covers: such a seed is named instead (`deviant_seeds`).",
    ]
    for name in NAMES:
        lines += ["", f"## {name}", "", *_table(found, name)]
    return "\n".join(lines) + "\n"


def verdict(found: dict[str, Any]) -> str:
    """Say which cells do not hold."""
    bad = [
        f"{cell.name} ({result['covered']:.1%})"
        for cell, result in _results(found)
        if result["covered"] is not None and not holds(cell, result["covered"])
    ]
    done = sum(r["covered"] is not None for _, r in _results(found))
    without = sum(r["covered"] is None for _, r in _results(found))
    counted = f"{done} cells have an interval, {without} have none."
    if not bad:
        return f"{counted} All hold."
    return f"{counted} {len(bad)} do not hold: {'; '.join(bad)}."


def holds(cell: Cell, covered: float) -> bool:
    """Say whether a cell has the coverage that is asked for."""
    return covered >= LOW and (covered <= HIGH or cell.seeds == 2)


def _results(found: dict[str, Any]) -> Iterator[tuple[Cell, dict[str, Any]]]:
    for values in product(NAMES, SEEDS, PROMPTS, SPREADS, SHARES):
        cell = Cell(*values)
        if cell.name in found["cells"]:
            yield cell, found["cells"][cell.name]


def _table(found: dict[str, Any], name: str) -> Iterator[str]:
    yield "| seeds | prompts | " + " | ".join(f"spread {s:g}" for s in SPREADS) + " |"
    yield "| --- | --- |" + " --- |" * len(SPREADS)
    results = {cell: result for cell, result in _results(found) if cell.statistic == name}
    for s, p in product(SEEDS, PROMPTS):
        cells = [
            " / ".join(_spell(results.get(Cell(name, s, p, spread, share))) for share in SHARES)
            for spread in SPREADS
        ]
        yield f"| {s} | {p:,} | " + " | ".join(cells) + " |"
    whys = dict.fromkeys(r["why"] for r in results.values() if r["covered"] is None)
    if whys:
        yield ""
        yield f"Dash: {'; '.join(whys)}."
    refused = {c: r for c, r in results.items() if r["covered"] is not None and r["without"]}
    if refused:
        most = max(refused.values(), key=lambda r: r["without"])
        yield ""
        yield (
            f"In {len(refused)} cells one side won all comparisons of some draws (at most "
            f"{most['without']:.1%} of a cell's), which the fit refuses; coverage is of the others."
        )


def _spell(result: dict[str, Any] | None) -> str:
    if result is None or result["covered"] is None:
        return "-"
    return f"{100 * result['covered']:.1f}"


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    names = [
        line.partition(":")[2].strip()
        for line in (file.read_text(encoding="utf-8").splitlines() if file.exists() else ())
        if line.startswith("model name")
    ]
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    raise SystemExit(main())
