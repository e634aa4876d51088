"""Over-optimisation in the micro world: proxy up, truth down, and what holds it.

See docs/theory/over_optimisation.md.

    python experiments/overoptimisation.py [--seeds 5] [--only 3 4] [--runs runs/overoptimisation]
                                           [--out docs/results] [--page] [--threads 1]

Hypotheses, settings and how they were found: overoptimisation.md. Each seed is a run folder, so a
killed command goes on where it stopped, and another process may do other seeds with `--only`. Once
all seeds are done what was measured is written to OUT/overoptimisation.parquet, prompt by prompt,
and the numbers made of it to OUT/overoptimisation.json, from which the figure and the page are
made; `--page` makes all of them again without any run.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

import levers
import turnover
from outcome_trees import read_outcomes, write_outcomes
from pages import intervals_of, measured_today, not_again, with_interval
from tandem.evaluation.reward_hacking import draw_panels
from tandem.runs.environment import code_commit
from tandem.statistics import OverOptimisation
from tandem.tasks.micro import Micro

NAME = "overoptimisation"
FAR = 100.0
"""A fitted peak this far, in sqrt(KL), is no peak of what was measured."""
TITLES = {
    "SFT": "SFT, not optimised",
    "free": "beta .001, one reward",
    "kl-low": "beta .05",
    "kl-high": "beta .2",
    "mean": "4 rewards, mean",
    "worst": "4 rewards, worst (WCO)",
    "uncertainty": "4 rewards, mean - .1 var (UWO)",
    "debiased": "length slope taken out",
    "single": "one reward",
}


def main(words: list[str] | None = None) -> int:
    """Do the seeds that are left, and write the page when all are done."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0, 1, ... are reported")
    parser.add_argument("--only", type=int, nargs="*", help="the seeds this process works on")
    parser.add_argument("--runs", type=Path, default=Path("runs") / NAME)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--page", action="store_true", help="only the page, from the JSON")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args(words)
    torch.set_num_threads(asked.threads)
    file = asked.out / f"{NAME}.json"
    if not asked.page:
        plan = levers.Plan()
        for seed in range(asked.seeds) if asked.only is None else asked.only:
            levers.do(_folder(asked.runs, seed), seed, plan)
        left = [s for s in range(asked.seeds) if not levers.done(_folder(asked.runs, s))]
        if left:
            print(f"no page yet: seeds {left} are not done", file=sys.stderr)
            return 0
        asked.out.mkdir(parents=True, exist_ok=True)
        keep([_folder(asked.runs, seed) for seed in range(asked.seeds)], plan, file)
    found = json.loads(file.read_text(encoding="utf-8"))
    if (outcomes := file.with_suffix(".parquet")).exists():
        found |= turnover.numbers(**read_outcomes(outcomes))
        file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    draw(found, file.with_suffix(".svg"))
    file.with_suffix(".md").write_text(page(found), encoding="utf-8")
    print(file.with_suffix(".md"))
    return 0


def _folder(runs: Path, seed: int) -> Path:
    return runs / f"seed-{seed}"


def keep(folders: list[Path], plan: levers.Plan, file: Path) -> None:
    """Write what all seeds have measured, and beside it how."""
    climbs, pools = ([read(f) for f in folders] for read in (levers.climbs, levers.pools))
    write_outcomes({"climbs": climbs, "pools": pools}, file.with_suffix(".parquet"))
    file.write_text(json.dumps(collected(folders, plan), indent=1) + "\n", encoding="utf-8")


def collected(folders: list[Path], plan: levers.Plan) -> dict[str, Any]:
    """What the seeds were made with, as JSON."""
    base = json.loads((Micro().model() / "made.json").read_text(encoding="utf-8"))
    return {
        "seeds": list(range(len(folders))),
        "plan": asdict(plan),
        "levers": {name: asdict(lever) for name, lever in levers.LEVERS.items()},
        "base": base.get("sha256"),
        "commit": code_commit(),
        **measured_today(),
        "seconds": sum(r.seconds for f in folders for r in levers.read_records(f)),
    }


# --- the figure -----------------------------------------------------------------------------------


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Three panels over sqrt(KL): the free climb seed by seed, the levers' truth, best-of-n."""
    with draw_panels(path, 13.0, 4.2, panels=3) as (free, held, pools):
        _free(free, found)
        for k, (name, curve) in enumerate(found["curves"].items()):
            d = np.sqrt(np.maximum(np.mean(curve["kl"], axis=0), 0))
            held.plot(d, _gain(curve["truth"]), "o-", ms=3, color=f"C{k}", label=TITLES[name])
        d = np.sqrt(found["best_of_n"]["kl"])
        names = [n for n in found["best_of_n"] if n not in ("n", "kl")]
        for k, name in enumerate(names):
            rows = found["best_of_n"][name]
            label = {"uncertainty": "4 rewards, mean - .5 var (UWO)"}.get(name, TITLES[name])
            pools.plot(d, _gain(rows["truth"]), "o-", ms=3, color=f"C{k}", label=label)
        pools.plot(d, _gain(found["best_of_n"]["single"]["proxy"]), "--", color="C0", label="proxy")
        titles = ("PPO, beta .001, one reward", "truth of PPO, every lever", "truth of best-of-n")
        for axes, title in zip((free, held, pools), titles, strict=True):
            axes.set_title(title, fontsize="medium")
            axes.axhline(0, color="0.8", linewidth=0.8, zorder=0)
            axes.set_xlabel("sqrt(KL to the SFT policy), nats")
            axes.legend(frameon=False, fontsize="x-small")
        free.set_ylabel("gain over the start")


def _free(axes: Any, found: Mapping[str, Any]) -> None:
    """Thin lines are seeds, thick ones their mean, the dotted one Gao's fit to the mean."""
    curve = found["curves"]["free"]
    d = np.sqrt(np.maximum(curve["kl"], 0))
    for name, style, colour in (
        ("proxy", "--", "C1"), ("held_out", "-", "C2"), ("truth", "-", "C0")
    ):  # fmt: skip
        rows = np.array(curve[name])
        for x, row in zip(d, rows - rows[:, :1], strict=True):
            axes.plot(x, row, style, color=colour, linewidth=0.5, alpha=0.5)
        label = {"held_out": "held-out reward"}.get(name, name)
        mean = np.sqrt(np.maximum(np.mean(curve["kl"], axis=0), 0))
        axes.plot(mean, _gain(rows), style, color=colour, linewidth=2, label=label)
    fit = found["fits"]["free"]["mean_curve"]
    x = np.linspace(0.02, float(d.max()), 100)
    fitted = OverOptimisation(fit["alpha"], fit["beta"], "rl").at(x)
    axes.plot(x, fitted, ":", color="C0", linewidth=1, label="truth, fitted")


def _gain(rows: Any) -> np.ndarray:
    """[S, R] as the mean over seeds, above the start."""
    x = np.asarray(rows).mean(axis=0)
    return x - x[0]


# --- the page -------------------------------------------------------------------------------------


def page(found: Mapping[str, Any]) -> str:
    """The page, from the JSON alone."""
    seeds, sizes = len(found["seeds"]), found["plan"]["sizes"]
    episodes = found["plan"]["rounds"] * found["plan"]["prompts"]
    parts = [
        "# Over-optimisation, seen and fought",
        f"Generated by `python experiments/{NAME}.py` from [{NAME}.json]({NAME}.json); what was "
        f"expected is in [experiments/{NAME}.md](../../experiments/{NAME}.md).",
        *not_again(found),
        f"Micro world, {seeds} seeds ({', '.join(map(str, found['seeds']))}); {sizes['pairs']} "
        f"pairs with {sizes['flips']:.0%} flips; every climb has {episodes:,} episodes. Seeds "
        f"differ in everything but the {sizes['evaluation']} evaluation prompts. Intervals are "
        f"95 %, over seeds and prompts ({intervals_of(found)}); *resolved* is after "
        "Holm over the rows of a column, of every table.",
        f"![proxy, held-out reward and truth against sqrt(KL)]({NAME}.svg)",
        "## Truth at the end, and against free optimisation",
        _table(found["table"]),
        "*Chosen*: the round that the held-out reward likes best, chosen on one half of the "
        "prompts and judged on the other. The last column is what the lever adds to that.",
        "## Where truth turns over",
        _turns(found),
        "## Best-of-n",
        _pools(found["best_of_n"]),
        "The KL of best-of-n is log n - (n - 1)/n, an upper bound where answers repeat.",
    ]
    return "\n\n".join(parts) + "\n"


def _table(rows: list[dict[str, Any]]) -> str:
    head = (
        "lever", "KL", "held-out", "truth, end", "truth, chosen", "end - free's end",
        "chosen - free's end", "chosen - free's chosen",
    )  # fmt: skip
    lines = [
        (
            TITLES[row["lever"]], f"{row['kl']['mean']:.2f}", f"{row['held_out']['mean']:.2f}",
            _spelled(row["end"]), _spelled(row["chosen"]), _difference(row["against_free"]),
            _difference(row["stopped_against_free"]), _difference(row["stopped_against_stopped"]),
        )
        for row in rows
    ]  # fmt: skip
    return markdown(head, lines)


def _turns(found: Mapping[str, Any]) -> str:
    """Fits of every climb and of best-of-n."""
    head = ("curve", "alpha", "beta", "peak at sqrt(KL)", "height", "peaks of the seeds")
    fits = {f"PPO: {TITLES[k]}": v for k, v in found["fits"].items()}
    chosen = found["best_of_n"]
    fits |= {f"best-of-n: {TITLES[k]}": v["fit"] for k, v in chosen.items() if k not in ("n", "kl")}
    lines = []
    for name, fit in fits.items():
        mean, across = fit["mean_curve"], fit["peak_over_seeds"]
        peaks = ", ".join(map(_number, fit["peak"]))
        interval = f"; {_spelled(across)}" if across else ""
        numbers = [_number(mean[k]) for k in ("alpha", "beta", "peak", "height")]
        lines.append((name, *numbers, peaks + interval))
    says = (
        "Gao's forms, fitted to the mean curve: PPO d(alpha - beta ln d), best-of-n "
        "d(alpha - beta d) with d = sqrt(KL); then the peaks of each seed's own fit, and their "
        "mean with its interval where every seed turns over."
    )
    return f"{says}\n\n{markdown(head, lines)}"


def _pools(chosen: Mapping[str, Any]) -> str:
    names = [n for n in chosen if n not in ("n", "kl")]
    head = ("n", "KL", "proxy", *(f"truth: {TITLES[n]}" for n in names))
    proxy = np.mean(chosen["single"]["proxy"], axis=0)
    truths = {name: np.mean(chosen[name]["truth"], axis=0) for name in names}
    lines = []
    for k, n in enumerate(chosen["n"]):
        worth = [f"{truths[name][k]:.2f}{_mark(chosen[name], k)}" for name in names]
        lines.append((str(n), f"{chosen['kl'][k]:.2f}", f"{proxy[k]:.2f}", *worth))
    last = [f"{TITLES[name]}: {_difference(chosen[name]['over_single'])}" for name in names[1:]]
    says = f"At n = {chosen['n'][-1]}, against one reward: {'; '.join(last)}."
    return f"{markdown(head, lines)}\n\n+ or -: its difference from n = 1 is resolved. {says}"


def _mark(rows: Mapping[str, Any], k: int) -> str:
    if k == 0 or not rows["over_one"][k - 1]["resolved"]:
        return ""
    return " +" if rows["over_one"][k - 1]["mean"] > 0 else " -"


def _number(x: float | None) -> str:
    if x is None or x > FAR:
        return "never"
    return f"{x:.2f}"


def _spelled(x: Mapping[str, Any]) -> str:
    return with_interval(x, ".2f")


def _difference(x: Mapping[str, Any] | None) -> str:
    if x is None:
        return "-"
    word = "resolved" if x["resolved"] else "not resolved"
    return f"{with_interval(x, '+.2f')} {word}"


def markdown(head: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    rows = [head, tuple("---" for _ in head), *lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


if __name__ == "__main__":
    sys.exit(main())
