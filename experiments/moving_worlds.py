"""Who keeps up when tastes, prompts or annotators change? Five memories in exact worlds.

    python experiments/moving_worlds.py [--seeds 24] [--out FOLDER]

See experiments/online.md for what was expected. Writes moving-worlds.json, .md and .svg; every kind
of drift that is done is kept in the JSON, and not done again.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np

from tandem.evaluation.tables import Table
from tandem.planning.drift import MEMORIES, DriftKind, DriftSetting, draw_drift, follow_drift
from tandem.statistics import mean_over_seeds

FIRST = 2000
"""The first seed: the worlds were drawn up on others."""


def run_drift(kind: DriftKind, seeds: int) -> dict[str, Any]:
    """Return what every memory did in every seed's world."""
    setting, found = DriftSetting(kind), dict[str, Any]()
    for memory in MEMORIES:
        runs = [
            follow_drift(
                draw_drift(setting, np.random.default_rng([FIRST + s, 0])), memory, setting,
                np.random.default_rng([FIRST + s, 1]),
            )
            for s in range(seeds)
        ]  # fmt: skip
        found[memory] = {
            "regret": [r.regret.tolist() for r in runs],
            "recovery": [r.recovery_time(setting.at) for r in runs],
            "forgetting": [r.forgetting for r in runs],
            "alarms": [list(r.alarms) for r in runs],
            "labels": runs[0].labels,
        }
    return found


def table_of(kind: str, found: dict[str, Any]) -> Table:
    """Return a row a memory: dynamic regret, its difference to `all`, recovery, forgetting."""
    whole = np.array(found["all"]["regret"]).sum(axis=1)
    rows = []
    for memory, told in found.items():
        total = np.array(told["regret"]).sum(axis=1)
        gap = None if memory == "all" else mean_over_seeds(total - whole)
        alarmed = sum(bool(a) for a in told["alarms"]) / len(total)
        rows.append(
            (
                memory, told["labels"], mean_over_seeds(total), gap,
                mean_over_seeds(told["recovery"]), mean_over_seeds(told["forgetting"]), alarmed,
            )
        )  # fmt: skip
    heads = (
        "memory", "labels", "dynamic regret", "less that of all", "recovery, rounds", "forgetting",
        "alarmed",
    )  # fmt: skip
    return Table(heads, tuple(rows), kind)


def draw_curves(done: dict[str, Any], path: Path) -> None:
    """Draw regret against rounds, a panel a kind of drift."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": "tandem", "svg.fonttype": "none", "font.size": 8}):
        figure = Figure(figsize=(11, 2.6), layout="constrained")
        grid = figure.subplots(1, len(done), sharey=True)
        styles = ("-", "-", "--", ":", "-.")
        for axes, (kind, found) in zip(grid, done.items(), strict=True):
            for (memory, told), style in zip(found.items(), styles, strict=True):
                axes.plot(np.array(told["regret"]).mean(axis=0), style, label=memory)
            axes.set(title=kind, xlabel="round", yscale="log")
        grid[0].set(ylabel="regret")
        grid[-1].legend(frameon=False, fontsize=7)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def main() -> int:
    """Run what is missing, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=24)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "moving-worlds.json"
    kept = json.loads(file.read_text()) if file.exists() else {"seeds": args.seeds, "kinds": {}}
    if kept["seeds"] != args.seeds:
        kept = {"seeds": args.seeds, "kinds": {}}
    for kind in get_args(DriftKind):
        if kind not in kept["kinds"]:
            kept["kinds"][kind] = run_drift(kind, args.seeds)
            file.write_text(json.dumps(kept) + "\n")
        print(table_of(kind, kept["kinds"][kind]), end="\n\n", flush=True)
    tables = "\n\n".join(f"```text\n{table_of(k, f)}\n```" for k, f in kept["kinds"].items())
    (args.out / "moving-worlds.md").write_text(
        "# Who keeps up when the world moves?\n\nMade by `python experiments/moving_worlds.py`; "
        f"expected before: experiments/online.md. {args.seeds} seeds, 12 rounds of 64 labels; "
        "dynamic regret is summed over rounds, lower is better.\n\n"
        f"![regret against rounds](moving-worlds.svg)\n\n{tables}\n"
    )
    draw_curves(kept["kinds"], args.out / "moving-worlds.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
