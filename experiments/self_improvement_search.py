"""The search for the settings of self_improvement.py: six for each arm, on one seed of its own.

    python experiments/self_improvement_search.py --page docs/results/self-improvement-search.md
    python experiments/self_improvement_search.py --arms STaR direct    # some, in this process

Seed 100 draws the training questions and the evaluation questions; those with the numbers of a
question that the reported seeds answer are left out. An arm's settings are those with the most
right answers, greedily, of all tuning questions; nothing else is looked at. An arm is a run of
its own, so two processes share the work; a killed one goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pages import measured_today, not_again
from self_improvement import (
    ALONE,
    ARMS,
    PATH,
    TASK,
    UNHINTED,
    estimates,
    plain,
    rows,
    settings,
    trained,
)
from tandem.data.groups import Groups
from tandem.evaluation import accuracy_evaluation
from tandem.methods.sft import SFTConfig
from tandem.pipeline.evaluate_result import DECODERS, Solver, solve_questions
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.environment import code_commit
from tandem.runs.run import Run
from tandem.tasks.micro.arithmetic import WORDING

SEED, BASE = 100, "base"
STAR = tuple(
    {"lr": lr, "loops": loops, "steps": steps}
    for lr, loops, steps in (
        (5e-4, 1, 600),
        (5e-4, 3, 300),
        (5e-4, 3, 600),
        (5e-4, 5, 300),
        (1e-3, 1, 600),
        (1e-3, 3, 300),
    )
)
ALL = ("plain", "only", "steps")
GRID: dict[str, tuple[dict[str, Any], ...]] = {
    "STaR": STAR,
    UNHINTED: STAR,
    "LMSI": (
        {"lr": 3e-4, "steps": 200, "m": 8, "temperature": 0.7, "forms": ("plain",)},
        {"lr": 1e-4, "steps": 600, "m": 8, "temperature": 0.7, "forms": ("plain",)},
        {"lr": 3e-4, "steps": 600, "m": 8, "temperature": 0.7, "forms": ALL},
        {"lr": 3e-4, "steps": 200, "m": 8, "temperature": 1.0, "forms": ("plain",)},
        {"lr": 3e-4, "steps": 200, "m": 16, "temperature": 0.7, "forms": ("plain",)},
        {"lr": 3e-4, "steps": 200, "m": 32, "temperature": 0.7, "forms": ("plain",)},
    ),
    "direct": tuple({"lr": lr, "steps": n} for n in (600, 1200) for lr in (5e-4, 1e-3, 2e-3)),
}
"""What is tried; `steps` are STaR's first loop's, and all of the others'."""


def configured(arm: str, sampling: Mapping[str, Any]) -> dict[str, Any]:
    """The world's settings, with one of the grid's in place of the arm's own."""
    cfg, name = settings(), {"LMSI": "lmsi", "direct": "direct"}.get(arm, "star")
    own = {key: value for key, value in sampling.items() if key not in ("lr", "steps")}
    sft: SFTConfig = cfg[name].sft
    sft = replace(sft, optim=replace(sft.optim, lr=sampling["lr"]))
    if name == "star":
        own["steps"] = sampling["steps"]
    else:
        sft = replace(sft, steps=sampling["steps"])
    return cfg | {name: replace(cfg[name], sft=sft, **own)}


def unreported(n: int) -> Groups:
    """Tuning questions, n / 3 a stratum, none with the numbers of a reported one."""
    reported = {numbered(g) for g in TASK.prompts("evaluation", n, Seed(1))}
    found: dict[int, list[Any]] = {}
    for group in TASK.prompts("evaluation", 4 * n, Seed(SEED)):
        if numbered(group) not in reported:
            found.setdefault(group.prompt.meta["stratum"], []).append(group)
    return Groups.of(g for level in sorted(found) for g in found[level][: n // 3])


def numbered(group: Any) -> str:
    """What makes two problems the same but for who has what."""
    return f"{group.prompt.meta['start']} {group.prompt.meta['changes']}"


def marks(run: Run, solver: Solver, exam: Groups, cfg: Mapping[str, Any]) -> Any:
    """Mark a policy's greedy answers."""
    by = {"greedy": DECODERS["greedy"]}
    return solve_questions(
        run, {"policy": solver}, exam, WORDING, TASK.truth(), cfg["sampling"], by
    )


def search(out: Path, arm: str, base: Checkpoint, told: argparse.Namespace) -> list[dict[str, Any]]:
    """Train and examine one arm in all its settings; the base's own row comes first."""
    x, exam = TASK.prompts("unlabelled", told.prompts, Seed(SEED)), unreported(told.evaluation)
    solved: dict[str, Any] = {}
    with Run(out / arm.replace(" ", "-"), SEED) as run:
        marked = marks(run.scope(BASE, SEED), Solver(base, PATH), exam, settings())
        parts = {name: np.array(inside) for name, inside in marked["parts"].items()}
        solved[BASE] = {"greedy": np.array(marked["solved"]["policy"]["greedy"])}
        for sampling in GRID[arm]:
            cfg, at = configured(arm, sampling), run.scope(slug(sampling), SEED)
            solver = Solver(trained(at, arm, base, x, cfg), ALONE if arm == "direct" else PATH)
            marked = marks(at.scope("exam", SEED), solver, exam, cfg)
            solved[spelled(sampling)] = {"greedy": np.array(marked["solved"]["policy"]["greedy"])}
    return rows(accuracy_evaluation(solved, parts, opponent=BASE).accuracy)


def spelled(sampling: Mapping[str, Any]) -> str:
    """Settings in words."""
    return ", ".join(
        f"{k} {'+'.join(v) if isinstance(v, tuple) else format(v, 'g')}"
        for k, v in sampling.items()
    )


def slug(sampling: Mapping[str, Any]) -> str:
    """Settings as a folder's name."""
    return spelled(sampling).replace(", ", "_").replace(" ", "-").replace("+", "-")


def page(found: Mapping[str, Any], name: str) -> str:
    """The page, from the JSON alone."""
    parts = [
        "# The search for self-improvement's settings",
        "Generated by `python experiments/self_improvement_search.py` from "
        f"[{name}.json]({name}.json). Seed {found['seed']}, {found['training']:,} training "
        "questions; tuning questions of its own. Percent of right answers, greedily, with 95 % "
        f"intervals over questions. Base `{found['base']}`, commit `{found['commit']}`. "
        "Bold: chosen, the most right answers of all.",
        *not_again(found),
    ]
    for arm, cells in found["search"].items():
        best = max(cells[1:], key=lambda row: row["all"][0])
        bold = [r | ({"policy": f"**{r['policy']}**"} if r is best else {}) for r in cells]
        sizes = [key for key in best if key not in ("policy", "decoder")]
        parts += [f"## {arm}", estimates(bold, sizes, plain)]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--prompts", type=int, default=4000, help="training questions")
    parser.add_argument("--evaluation", type=int, default=999, help="tuning questions")
    parser.add_argument("--out", type=Path, default=Path("runs/self-improvement-search"))
    parser.add_argument("--page", type=Path, default=None, help="write the page and its JSON here")
    parser.add_argument("--again", action="store_true", help="only the page, from the JSON")
    told = parser.parse_args()
    if told.again:
        file = told.page.with_suffix(".json")
        text = page(json.loads(file.read_text(encoding="utf-8")), file.stem)
        told.page.write_text(text, encoding="utf-8")
        return
    base = Checkpoint(TASK.model(), "base")
    found = {"seed": SEED, "training": told.prompts, "base": base.hash, "commit": code_commit()}
    found |= measured_today()
    found["search"] = {arm: search(told.out, arm, base, told) for arm in told.arms}
    text = page(found, told.page.stem if told.page else "result")
    if told.page:
        written = json.dumps(found, separators=(",", ":")) + "\n"
        told.page.with_suffix(".json").write_text(written, encoding="utf-8")
        told.page.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
