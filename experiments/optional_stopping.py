"""Do the intervals hold, whenever one stops? Simulated experiments that add seeds as they like.

    python experiments/optional_stopping.py              # simulate what is missing, write the page
    python experiments/optional_stopping.py --page       # the page alone, from the JSON
    python experiments/optional_stopping.py --draws 200  # quicker and rougher

Every experiment meets the same prompts with one seed after another, looks after each from the third
on, and stops by a rule; what it reports then should hold the truth. The sequence of
`tandem.statistics` is compared with the ordinary interval for a fixed number of seeds, which the
same rules are allowed to misuse. Numbers are level + seed + prompt + noise, all normal, with the
prompts and the noise at 1; wins say whether such a number is above 0. Cells that are done are kept
in the JSON, so a killed run goes on where it stopped. One thread.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pages import markdown
from tandem.rng import Seed
from tandem.runs.atomic_files import read_json, write_json, write_text
from tandem.runs.environment import code_commit
from tandem.statistics.confidence_sequence import FEWEST_SEEDS, sequence_half_width
from tandem.statistics.crossed import ALPHA, crossed_squares
from tandem.statistics.numerics import Floats, normal_cdf, normal_quantile

Booleans = npt.NDArray[np.bool_]
KINDS = ("mean", "win rate")
PROMPTS, SPREADS = (20, 200), (0.0, 0.1, 0.3, 1.0)
EFFECTS = {"mean": (0.0, 0.3, 1.0), "win rate": (0.5, 0.6, 0.8)}
DISASTERS = (0.0, 0.1)
"""Chance that a seed falls by `FALL`: beyond what any of these intervals supposes."""
FALL = 3.0
MOST, PATIENCE, DRAWS, NUMBERS = 20, 4, 1000, 2_000_000
"""Seeds at most, looks of the patient, experiments a cell, and numbers that are held at once."""
FIXED_PART = 8
"""The ordinary interval is tried on one experiment in so many: it takes longer."""
LOW = 0.93
JSON = Path(__file__).parents[1] / "docs" / "results" / "optional-stopping.json"


@dataclass(frozen=True, slots=True)
class Cell:
    """One world to simulate.

    Attributes:
        kind: `mean`, or `win rate`.
        prompts: P.
        spread: standard deviation of seed effects; noise and prompts have 1.
        effect: the truth.
        disaster: chance that a seed falls by `FALL`.
    """

    kind: str
    prompts: int
    spread: float
    effect: float
    disaster: float = 0.0

    @property
    def name(self) -> str:
        """Key in the JSON."""
        fell = f", {self.disaster:g} fall" if self.disaster else ""
        return f"{self.kind}, {self.prompts}, {self.spread:g}, {self.effect:g}{fell}"

    @property
    def null(self) -> float:
        """What would mean no difference."""
        return 0.5 if self.kind == "win rate" else 0.0

    @property
    def truth(self) -> float:
        """What is estimated: the mean over all seeds, those that fell among them."""
        if self.kind == "mean":
            return self.effect - self.disaster * FALL
        level, sd = self.level, math.sqrt(2 + self.spread**2)
        shares = normal_cdf(np.array([level, level - FALL]) / sd)
        return float((1 - self.disaster) * shares[0] + self.disaster * shares[1])

    @property
    def level(self) -> float:
        """Mean of the numbers, or of what has to be above 0 for a win."""
        if self.kind == "mean":
            return self.effect
        return -normal_quantile(self.effect) * math.sqrt(2 + self.spread**2)

    def draw(self, n: int, rng: np.random.Generator) -> Floats:
        """Return [n, MOST, P] numbers of n experiments."""
        shape = (n, MOST, self.prompts)
        seeds = self.spread * rng.standard_normal((n, MOST, 1))
        if self.disaster:
            seeds -= FALL * (rng.random(seeds.shape) < self.disaster)
        x = self.level + seeds + rng.standard_normal((n, 1, self.prompts))
        x = x + rng.standard_normal(shape)
        return (x > 0).astype(np.float64) if self.kind == "win rate" else x


@dataclass(frozen=True)
class Looks:
    """What experiments see after each number of seeds, from the third on.

    Attributes:
        gain: [N, L] how far the mean is above the null, in standard errors.
        resolved: [N, L] whether the interval leaves out the null.
        missed: [N, L] whether it leaves out the truth, which nobody sees.
    """

    gain: Floats
    resolved: Booleans
    missed: Booleans


def _first(stops: Booleans) -> npt.NDArray[np.intp]:
    """Return [N] the first look at which to stop, or the last of all."""
    last = np.ones((len(stops), 1), np.bool_)
    return np.concatenate([stops[:, :-1], last], axis=1).argmax(axis=1)


def _patient(looks: Looks) -> npt.NDArray[np.intp]:
    return np.minimum(_first(looks.resolved), PATIENCE - 1)


RULES: dict[str, Callable[[Looks], npt.NDArray[np.intp]]] = {
    "resolved": lambda k: _first(k.resolved),
    "favourable": lambda k: _first(k.resolved & (k.gain > 0)),
    "looks good": lambda k: _first(k.gain > 1),
    "patient": _patient,
    "most seeds": lambda k: np.full(len(k.gain), k.gain.shape[1] - 1),
    "adversary": lambda k: _first(k.missed),
}
"""Rule -> looks -> [N] the look at which each experiment stops."""
TOLD = {
    "resolved": f"when it is resolved, or at {MOST} seeds",
    "favourable": f"when it is resolved in favour, or at {MOST} seeds",
    "looks good": f"when the mean is a standard error above the null, or at {MOST} seeds",
    "patient": f"when it is resolved, or after {PATIENCE} looks that resolve nothing",
    "most seeds": f"at {MOST} seeds, whatever was seen",
    "adversary": f"when the interval misses the truth, which nobody can know, or at {MOST} seeds",
}


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
    write_text(asked.out.with_suffix(".md"), page_text(found))
    print(asked.out.with_suffix(".md"))
    return 0


def grid() -> list[Cell]:
    """Return every world, those beyond the suppositions last."""
    own = [
        Cell(kind, p, spread, effect)
        for kind, p, spread in product(KINDS, PROMPTS, SPREADS)
        for effect in EFFECTS[kind]
    ]
    return [*own, *(Cell(kind, 200, 0.3, EFFECTS[kind][0], DISASTERS[1]) for kind in KINDS)]


def fill(found: dict[str, Any], draws: int, out: Path) -> None:
    """Simulate every cell that is missing or has fewer draws, writing after each."""
    found |= {"draws": draws, "commit": code_commit()}
    for cell in grid():
        if found["cells"].get(cell.name, {}).get("draws", -1) >= draws:
            continue
        began = time.process_time()
        result = simulate(cell, draws)
        found["cpu_seconds"] += time.process_time() - began
        found["cells"][cell.name] = result
        write_json(out, found)
        print(f"{cell.name}: {min(result['sequence'].values()):.1%} at worst", flush=True)


def simulate(cell: Cell, draws: int, part: int = FIXED_PART) -> dict[str, Any]:
    """Return how often each interval holds the truth when its experiment stops, by rule.

    Args:
        cell: the world.
        draws: how many experiments.
        part: the ordinary interval is tried on one in so many; 0 leaves it out.

    Returns:
        `sequence` and `fixed`, rule -> share; `seeds` and `resolved`, of the sequence that stops
        when it is resolved, the mean number of seeds and the share resolved; `draws`.
    """
    rng = Seed().at("optional-stopping", cell.name).rng()
    many = max(1, NUMBERS // (MOST * cell.prompts))
    hits = {name: dict.fromkeys(RULES, 0) for name in ("sequence", "fixed")}
    done = dict.fromkeys(hits, 0)
    seeds, resolved = 0, 0
    while (left := draws - done["sequence"]) > 0:
        d = cell.draw(min(left, many), rng)
        fixed = part > 0 and done["fixed"] < draws / part
        for name, looks in look(d, cell, fixed).items():
            rows = np.arange(len(d))
            done[name] += len(d)
            for rule, stop in RULES.items():
                hits[name][rule] += int((~looks.missed[rows, stop(looks)]).sum())
            if name == "sequence":
                at = RULES["resolved"](looks)
                seeds += int((at + FEWEST_SEEDS).sum())
                resolved += int(looks.resolved[rows, at].sum())
    shares = {
        k: {r: round(c / done[k], 5) for r, c in own.items()} for k, own in hits.items() if done[k]
    }
    return {**shares, "seeds": seeds / draws, "resolved": resolved / draws, "draws": draws}


def look(d: Floats, cell: Cell, fixed: bool) -> dict[str, Looks]:
    """Return what is seen after each seed by the sequence, and by the ordinary interval."""
    seen = [d[:, :s] for s in range(FEWEST_SEEDS, MOST + 1)]
    squares = [crossed_squares(x, share=cell.kind == "win rate") for x in seen]
    mean = np.stack([x.mean(axis=(1, 2)) for x in seen], axis=1)
    spread = np.sqrt(np.stack([q.variance for q in squares], axis=1))
    gain = (mean - cell.null) / np.where(spread > 0, spread, np.inf)
    half = np.stack([sequence_half_width(q) for q in squares], axis=1)
    found = {"sequence": Looks(gain, *(np.abs(mean - x) > half for x in (cell.null, cell.truth)))}
    if fixed:
        out = (
            np.stack([q.p_value(m - x) < ALPHA for q, m in zip(squares, mean.T, strict=True)], 1)
            for x in (cell.null, cell.truth)
        )
        found["fixed"] = Looks(gain, *out)
    return found


# the page


def page_text(found: Mapping[str, Any]) -> str:
    """Return the page: how often intervals cover at each rule, a table a kind."""
    cells = [c for c in grid() if c.name in found["cells"]]
    inside = [c for c in cells if not c.disaster]
    shares = [s for c in inside for s in found["cells"][c.name]["sequence"].values()]
    low = [s for s in shares if s < LOW]
    left = len(grid()) - len(cells)
    told = f"{len(shares)} numbers, {min(shares):.1%} to {max(shares):.1%}; "
    told += f"{len(low)} are below." if low else "all hold."
    told += f" {left} of {len(grid())} cells are not simulated yet." if left else ""
    parts = [
        "# Optional stopping: do the intervals hold, whenever one stops?",
        "Generated by `python experiments/optional_stopping.py` from "
        "[optional-stopping.json](optional-stopping.json).",
        f"Simulated experiments whose truth is known: {found['draws']:,} a cell, "
        f"{found['cpu_seconds'] / 60:.1f} processor minutes. Each adds one seed after another, "
        f"looks from {FEWEST_SEEDS} seeds on, and stops by a rule. A number is the percentage of "
        "experiments whose 95 % interval holds the truth when they stop: the confidence "
        "sequence, and in brackets the ordinary interval for a fixed number of seeds, which stops "
        f"by the same rule (on one experiment in {FIXED_PART}). *Spread* is that of the seeds; "
        "noise and prompts have 1.",
        f"**Asked for: {LOW:.0%} to 100% in every cell, at every rule.** {told}",
        "\n".join(f"- *{rule}*: stops {told}." for rule, told in TOLD.items()),
    ]
    for kind in KINDS:
        rows = [c for c in inside if c.kind == kind]
        parts += [f"## {kind}", _table(rows, found["cells"])]
    parts += ["## The price", _price(inside, found["cells"])]
    parts += ["## Beyond what it supposes", _beyond(cells, found["cells"])]
    return "\n\n".join(parts) + "\n"


def _table(cells: Sequence[Cell], found: Mapping[str, Any]) -> str:
    head = ["prompts", "spread", "truth", *RULES]
    lines = []
    for cell in cells:
        own = found[cell.name]
        both = [f"{100 * own['sequence'][r]:.1f} ({100 * own['fixed'][r]:.1f})" for r in RULES]
        lines.append([f"{cell.prompts}", f"{cell.spread:g}", f"{cell.truth:g}", *both])
    return markdown(head, lines)


def _price(cells: Sequence[Cell], found: Mapping[str, Any]) -> str:
    shown = [c for c in cells if c.truth != c.null]
    lines = [
        [c.kind, f"{c.prompts}", f"{c.spread:g}", f"{c.truth:g}",
         f"{found[c.name]['seeds']:.1f}", f"{found[c.name]['resolved']:.1%}"]
        for c in shown
    ]  # fmt: skip
    told = f"Seeds, on average, until the sequence resolves a difference, at most {MOST}."
    head = ["kind", "prompts", "spread", "truth", "seeds", "resolved"]
    return f"{told}\n\n{markdown(head, lines)}"


def _beyond(cells: Sequence[Cell], found: Mapping[str, Any]) -> str:
    fell = [c for c in cells if c.disaster]
    told = (
        f"Where one seed in ten falls by {FALL:g}, neither interval is promised anything: seed "
        "effects are supposed to be about normal (`deviant_seeds` names such a seed)."
    )
    return f"{told}\n\n{_table(fell, found)}" if fell else told


if __name__ == "__main__":
    raise SystemExit(main())
