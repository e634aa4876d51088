"""Is the planner's advice good? Carried out in worlds that took no part in it.

    python experiments/label_plans.py [--total 600] [--repeats 8] [--out FOLDER]

See experiments/online.md for what was expected. Writes label-plans.json and a page.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tandem.evaluation.tables import Table
from tandem.planning.budget import NAIVE, BudgetAdvice, mixed_worlds, plan_budget
from tandem.planning.label_plan import LabelCosts, LabelPlan
from tandem.planning.simulation import simulate_plan
from tandem.planning.tabular_world import draw_world
from tandem.statistics import Estimate, paired_difference

FLIPS = (0.05, 0.15, 0.25, 0.35, 0.30)
KINDS = ("linear", "tail", "narrow", "linear", "narrow")
FRESH = 70_000
"""The first number of the worlds that took no part; earlier tries had 50,000 and 60,000."""


def realised(plan: LabelPlan, total: float, repeats: int) -> np.ndarray:
    """[worlds, repeats] the regret of a plan in the fresh worlds."""
    rows = []
    for k, (flips, kind) in enumerate(zip(FLIPS, KINDS, strict=True)):
        world = draw_world(kind, np.random.default_rng([FRESH, k]), flips=flips)  # type: ignore[arg-type]
        rngs = [np.random.default_rng([FRESH, k, r]) for r in range(repeats)]
        rows.append([simulate_plan(world, plan, total, LabelCosts(), g).regret for g in rngs])
    return np.array(rows)


def compare(advice: BudgetAdvice, repeats: int) -> tuple[Table, dict[str, Any]]:
    """Lay the realised regret of the advised plan beside that of the naive ones."""
    mine = realised(advice.best.plan, advice.total, repeats)
    rows: list[tuple[Any, ...]] = [("this plan", float(mine.mean()), None, "", "", "")]
    told: dict[str, Any] = {"this plan": mine.tolist()}
    held = seen = 0
    for name, plan in NAIVE.items():
        theirs = realised(plan, advice.total, repeats)
        gain: Estimate = paired_difference(theirs, mine)
        low, high = advice.gain_range(name)
        inside = int(((theirs - mine >= low) & (theirs - mine <= high)).sum())
        held, seen = held + inside, seen + mine.size
        told[name] = {
            "regret": theirs.tolist(), "gain": gain.as_dict(), "predicted": [low, high],
            "inside": inside, "of": mine.size,
        }  # fmt: skip
        predicted = f"{low:.3f} to {high:.3f}"
        better = f"{int((theirs.mean(axis=1) > mine.mean(axis=1)).sum())} of {len(mine)}"
        held_in = f"{inside} of {mine.size}"
        rows.append((name, float(theirs.mean()), gain, better, predicted, held_in))
    heads = (
        "plan", "regret", "gain of this plan", "worlds", "predicted for one world", "held",
    )  # fmt: skip
    share = f"{held} of {seen} realised gains in the predicted range"
    return Table(heads, tuple(rows), share), {**told, "held": held, "of": seen}


def main() -> int:
    """Advise once, carry out, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--total", type=float, default=600)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    args = parser.parse_args()
    advice = plan_budget(
        args.total, LabelCosts(), mixed_worlds(), seeds=args.seeds,
        report=lambda k, n: print(f"advice: {k} of {n}", file=sys.stderr, flush=True),
    )  # fmt: skip
    table, numbers = compare(advice, args.repeats)
    print(advice, table, sep="\n\n")
    args.out.mkdir(parents=True, exist_ok=True)
    told = {"advice": advice.as_dict(), "realised": numbers, "flips": FLIPS, "kinds": KINDS}
    (args.out / "label-plans.json").write_text(json.dumps(told, indent=1) + "\n")
    page = (
        "# Is the planner's advice good?\n\nMade by `python experiments/label_plans.py`; expected "
        "before: experiments/online.md. Regret: how much less a policy is worth than the best; "
        "lower is better.\n\n## The advice\n\n```text\n"
        f"{advice}\n```\n\n## Carried out in five worlds that took no part\n\n"
        f"```text\n{table}\n```\n"
    )
    (args.out / "label-plans.md").write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
