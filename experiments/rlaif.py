"""Acceptance C: what debiasing and soft labels are worth, and what constitutional AI changes.

    python experiments/rlaif.py --seeds 5 --out runs/rlaif --results docs/results/rlaif.json

Labels: one set of pi_sft pairs, labelled by the base in several ways; a reward model on each, with
the same settings; log-loss, ECE and accuracy on clean held-out pairs of other prompts (the truth
decides, ties left out). Policies: the base, the helpful SFT model, SL-CAI and RL-CAI on prompts of
both kinds, paired by prompt and seed. A killed experiment goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from outcome_trees import read_outcomes, write_outcomes
from pages import measured_today, not_again, with_interval
from tandem.cli.run import default_configs
from tandem.data.groups import Groups
from tandem.judges.ai_feedback import AIFeedback
from tandem.judges.position_bias import position_bias
from tandem.judges.reward_model import RewardModel
from tandem.machine import Machine
from tandem.methods import cai, load_method, reward
from tandem.pipeline.inputs import Inputs
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.run import Run
from tandem.stages.judging import judge
from tandem.stages.sampling import sample
from tandem.statistics import (
    Estimate,
    accuracy,
    ece,
    log_loss,
    mean_of,
    mean_over_seeds,
    win_probability_of,
)
from tandem.tasks import Sizes
from tandem.tasks.load import load_task
from tandem.tasks.micro.truth import truth_parts

WAYS = {
    "both orders, soft": AIFeedback(),
    "both orders, soft, logit": AIFeedback(average="logit"),
    "both orders, hard": AIFeedback(hard=True),
    "one order, soft": AIFeedback(orders="one"),
    "one order, hard": AIFeedback(orders="one", hard=True),
}
ONE = "one order, hard"
READ = ("same_position", "first_position", "rest", "sure")
PARTS = ("helpful", "harmless", "complies", "total")


def inputs(run: Run, task: str, sizes: Sizes, seed: int) -> Inputs:
    """What comes before both experiments, with the task's settings."""
    configs = {**default_configs(load_method("cai"), task), "sizes": sizes}
    return Inputs(run, load_task(task, sizes, Seed(seed)), configs)


def labels(inputs: Inputs) -> dict[str, dict[str, float]]:
    """Reward models on the same pairs, labelled in different ways; numbers for each way."""
    run, formats, sampling = inputs.run, inputs.formats, inputs.sampling
    pairs = run("pairs", sample, inputs.pi_sft, inputs.task.asked, n=2, sampling=sampling)
    asked = inputs.task.asked_held_out
    clean = run("clean-pairs", sample, inputs.pi_sft, asked, n=2, sampling=sampling)
    clean = run("clean-truth", judge, clean, inputs.truth)
    y = [np.sign(g.scores[0] - g.scores[1]) / 2 + 0.5 for g in clean if g.scores is not None]
    found: dict[str, dict[str, float]] = {}
    labelled = {"human": run("human-labels", judge, pairs, inputs.humans)}
    for way, asking in WAYS.items():
        labeller = asking.labeller(inputs.base, formats.compare, formats.principles)
        labelled[way] = run(f"labels-{_slug(way)}", judge, pairs, labeller)
    for way, D in labelled.items():
        slug = _slug(way)
        fitted = run(f"reward-{slug}", reward.fit, inputs.pi_sft, D, inputs.configs["reward"])
        found[way] = _numbers(run, slug, fitted, clean, np.array(y))
        if way != "human":
            told = run(f"labelling-{slug}", position_bias, D)
            found[way] |= {k: told[k] for k in READ if told[k] is not None}
    return found


def _numbers(
    run: Run, slug: str, fitted: Checkpoint, clean: Groups, y: np.ndarray
) -> dict[str, float]:
    scored = run(f"scored-{slug}", judge, clean, RewardModel(fitted))
    d = np.array([g.scores[0] - g.scores[1] for g in scored if g.scores is not None])
    d, y = d[y != 0.5], y[y != 0.5]
    p = win_probability_of(d)
    return {"log_loss": log_loss(p, y), "ece": ece(p, y), "accuracy": accuracy(d, y)}


def policies(inputs: Inputs) -> dict[str, dict[str, list[float]]]:
    """Parts of the truth about the answers of base, SFT, SL-CAI and RL-CAI, prompt by prompt."""
    c = inputs
    given = (c.base, c.pi_sft, c.D, c.prompts, c.formats, c.sampling, None, c.configs["cai"])
    rl_cai = cai.recipe(c.run, *given)
    sl_cai = next(r for r in c.run.records() if r.name == "sl-cai").load()
    who = {"base": c.base, "SFT": c.pi_sft, "SL-CAI": sl_cai, "RL-CAI": rl_cai}
    found: dict[str, dict[str, list[float]]] = {}
    for name, policy in who.items():
        answers = c.run(
            f"answers-{name.lower()}", sample, policy, c.eval_prompts, n=1, sampling=c.sampling
        )
        rows = [(g.prompt.meta, truth_parts(g.prompt.meta, g.completions[0].text)) for g in answers]
        found[name] = {
            f"{kind} / {part}": [r[part] for meta, r in rows if meta["harmful"] == harmful]
            for kind, harmful in (("helpful requests", False), ("harmful requests", True))
            for part in PARTS
        }
    return found


Rows = Mapping[str, Sequence[Mapping[str, Any]]]
"""name -> one dict a seed: column -> a number, or a list of one number a prompt."""
Measured = dict[str, dict[str, dict[str, Any]]]
"""name -> column -> mean, low and high, each seed's mean, and the paired gap to one row."""


def measured(rows: Rows, against: str) -> Measured:
    """Return means over seeds (and prompts) with 95 % intervals, and paired gaps to one row."""
    return {
        name: {
            column: _estimated(_stacked(seeds, column), rows[against], column, name == against)
            for column in seeds[0]
        }
        for name, seeds in rows.items()
    }


def _estimated(
    x: np.ndarray, other: Sequence[Mapping[str, Any]], column: str, itself: bool
) -> dict[str, Any]:
    found: dict[str, Any] = {"each": np.round(x.mean(1), 5).tolist(), "mean": float(x.mean())}
    if x.size > 1:
        found |= _interval(_mean(x))
    if x.size > 1 and not itself and column in other[0]:
        found["gap"] = _interval(_mean(x - _stacked(other, column)))
    return found


def _mean(x: np.ndarray) -> Estimate:
    """Estimate the mean of [S, P] over both, of one number a seed over seeds."""
    return mean_of(x) if x.shape[1] > 1 else mean_over_seeds(x[:, 0])


def _interval(e: Estimate) -> dict[str, float | None]:
    numbers = {k: e.as_dict()[k] for k in ("mean", "low", "high")}
    rounded = {k: x if x is None else round(float(x), 5) for k, x in numbers.items()}
    return rounded | {"p_value": e.as_dict()["p_value"], "seeds": e.seeds, "n": e.n}


def _stacked(seeds: Sequence[Mapping[str, Any]], column: str) -> np.ndarray:
    """[S, P] a column of every seed."""
    return np.stack([np.atleast_1d(np.asarray(s[column], float)) for s in seeds])


def table(found: Measured, against: str) -> str:
    """Return one Markdown table: a row a name, its gap to one row below each mean."""
    columns = list(dict.fromkeys(c for cells in found.values() for c in cells))
    lines = [f"| | {' | '.join(columns)} |", f"| --- |{' --- |' * len(columns)}"]
    for name, cells in found.items():
        shown = (_cell(cells.get(c), against) for c in columns)
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _cell(cell: Mapping[str, Any] | None, against: str) -> str:
    if cell is None:
        return "-"
    text = f"{cell['mean']:.3f}"
    if "gap" in cell:
        text += f" ({with_interval(cell['gap'], '+.3f')})"
    return text


def page(results: Mapping[str, Any]) -> str:
    """Return the results as Markdown."""
    sizes = results["sizes"]
    parts = [
        "# Feedback by a language model, and constitutional AI",
        "Generated by `python experiments/rlaif.py`, from [rlaif.json](rlaif.json). The micro base "
        f"compares; {results['seeds']} training seeds on one world; in brackets the paired "
        "difference to the row that is named, with its 95 % interval over seeds (and prompts).",
        *not_again(results),
    ]
    for task, found in results["tasks"].items():
        parts += [
            f"## {task}: what labels are worth",
            f"Reward models on {sizes['pairs']} pairs, on clean pairs of {sizes['held_out']} other "
            f"prompts. Differences are to *{ONE}*. `same_position`: the same position won in both "
            "orders; `rest`: mass on anything but the letters; `sure`: mean of |2p - 1|.",
            table(found["labels"], ONE),
        ]
        if "policies" in found:
            parts += [
                f"## {task}: parts of the truth",
                "Means over prompts of each kind; differences are to *SFT*, the helpful model.",
                table(found["policies"], "SFT"),
            ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Command line of the experiment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/rlaif-experiment"))
    parser.add_argument("--results", type=Path, help="JSON; beside it a page, and the outcomes")
    parser.add_argument("--page", action="store_true", help="only the page, from the JSON")
    parser.add_argument("--pairs", type=int, default=Sizes().pairs)
    parser.add_argument("--held_out", type=int, default=1000)
    parser.add_argument("--prompts", type=int, default=2000)
    parser.add_argument("--evaluation", type=int, default=Sizes().evaluation)
    parser.add_argument("--demonstrations", type=int, default=Sizes().demonstrations)
    parser.add_argument("--tasks", nargs="*", default=["micro", "micro-dialogue"])
    told = parser.parse_args()
    if told.page:
        results = json.loads(told.results.read_text(encoding="utf-8"))
        if (outcomes := told.results.with_suffix(".parquet")).exists():
            results["tasks"] = estimated(read_outcomes(outcomes))
        write_results(results, told.results)
        return
    sizes = Sizes(told.demonstrations, told.pairs, told.held_out, told.prompts, told.evaluation)
    results: dict[str, Any] = {"seeds": told.seeds, "sizes": sizes.amounts(task=True)}
    results |= measured_today()
    kept: dict[str, dict[str, Rows]] = {}
    with Run(told.out, 0, machine=Machine()) as work:
        for task in told.tasks:
            # one world a task: every seed meets the same evaluation prompts
            runs = [work.scope(f"{task}-{s}", s) for s in range(told.seeds)]
            courses = [inputs(run, task, sizes, 0) for run in runs]
            each = [labels(c) for c in courses]
            kept[task] = {"labels": {way: [e[way] for e in each] for way in each[0]}}
            if task == "micro-dialogue":
                found = [policies(c) for c in courses]
                kept[task]["policies"] = {name: [f[name] for f in found] for name in found[0]}
    results["tasks"] = estimated(kept)
    print(page(results))
    if told.results is not None:
        told.results.parent.mkdir(parents=True, exist_ok=True)
        outcomes = write_outcomes(kept, told.results.with_suffix(".parquet"))
        results["tasks"] = estimated(read_outcomes(outcomes))
        write_results(results, told.results)


def estimated(kept: Mapping[str, Mapping[str, Rows]]) -> dict[str, Any]:
    """Return the numbers of every task: of reward models by labels, and of policies."""
    against = {"labels": ONE, "policies": "SFT"}
    return {
        task: {part: measured(rows, against[part]) for part, rows in parts.items()}
        for task, parts in kept.items()
    }


def write_results(results: Mapping[str, Any], file: Path) -> None:
    """Write the JSON, and the page of the same name beside it."""
    file.write_text(json.dumps(results, indent=1) + "\n")
    file.with_suffix(".md").write_text(page(results))


def _slug(way: str) -> str:
    return way.replace(",", "").replace(" ", "-")


if __name__ == "__main__":
    main()
