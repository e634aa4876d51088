"""Self-improvement on micro arithmetic: LMSI and STaR beside the base and direct fine-tuning.

    python experiments/self_improvement.py --page docs/self-improvement.md

Said before the seeds were run:
    1. STaR answers more questions right than the base, and than fine-tuning on answers alone.
    2. LMSI, which sees no answer, answers more right than the base, and gains where the right
       answer already is the base's plurality; where it is not, it gains nothing or loses.
    3. Rationalisation adds to STaR where the base fails most, in stratum 2.

Five seeds; each draws its own training questions; all policies of a seed learn from the same
ones and all answer the same evaluation questions. Decoded greedily (primary), sampled, and by
vote. Intervals are over questions and seeds together. A killed run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tandem.artifacts import Checkpoint
from tandem.cli.run import defaults
from tandem.evaluation import accuracy_evaluation
from tandem.groups import Groups
from tandem.methods import direct, lmsi, load, star
from tandem.rng import Seed
from tandem.runs import Run
from tandem.solving import Solver, solve
from tandem.tasks.micro import Micro
from tandem.tasks.micro.arithmetic import WORDING

TASK = Micro("arithmetic")
ARMS = ("LMSI", "STaR", "STaR without hints", "direct")
OPPONENTS = ("base", "direct", "STaR without hints")
PATH, ALONE = WORDING.asking("path"), WORDING.asking("answer")


def settings() -> dict[str, Any]:
    """The micro world's settings of each method."""
    found: dict[str, Any] = {}
    for name in ("lmsi", "star", "direct"):
        found |= defaults(load(name), "micro-arithmetic")
    return found


def trained(run: Run, arm: str, base: Checkpoint, x: Groups, cfg: Mapping[str, Any]) -> Checkpoint:
    """Do one arm's recipe."""
    how = cfg["sampling"]
    if arm == "LMSI":
        return lmsi.recipe(run, base, x, WORDING, how, cfg["lmsi"])
    if arm == "direct":
        return direct.recipe(run, base, x, WORDING, cfg["direct"])
    hints = arm == "STaR"
    own = replace(cfg["star"], rationalise=hints, gain=-1.0)
    return star.recipe(run, base, x, WORDING, TASK.truth(), how, own)


def examined(run: Run, solvers: Mapping[str, Solver], exam: Groups, cfg: Mapping[str, Any]) -> Any:
    """Mark policies on the evaluation questions."""
    return solve(run, solvers, exam, WORDING, TASK.truth(), cfg["sampling"])


def collect(run: Run, base: Checkpoint, told: argparse.Namespace) -> dict[str, Any]:
    """Train and examine every arm of every seed; return marks by policy, decoder, seed, prompt."""
    cfg = settings()
    exam = TASK.prompts("evaluation", told.evaluation, Seed(0))
    first = {"base": Solver(base, PATH), "base, answer alone": Solver(base, ALONE)}
    start = examined(
        run.scope("base", 0), {n.replace(",", ""): s for n, s in first.items()}, exam, cfg
    )
    solved: dict[str, dict[str, list[Any]]] = {
        name: {decoder: [marks] for decoder, marks in by.items()}
        for name, by in start["solved"].items()
    }
    for seed in range(told.seeds):
        x = TASK.prompts("unlabelled", told.prompts, Seed(seed))
        for arm in ARMS:
            at = run.scope(f"seed-{seed}-{arm.replace(' ', '-')}", seed)
            policy = trained(at, arm, base, x, cfg)
            form = ALONE if arm == "direct" else PATH
            marks = examined(at, {arm: Solver(policy, form)}, exam, cfg)["solved"][arm]
            for decoder, row in marks.items():
                solved.setdefault(arm, {}).setdefault(decoder, []).append(row)
    return {"solved": solved, "parts": start["parts"], "seeds": told.seeds, "base": base.hash}


def page(found: Mapping[str, Any]) -> str:
    """Return the tables: accuracies, then gains over each opponent."""
    solved = {n: {d: np.array(v) for d, v in by.items()} for n, by in found["solved"].items()}
    parts = {name: np.array(inside) for name, inside in found["parts"].items()}
    laid = [accuracy_evaluation(solved, parts, opponent=o) for o in OPPONENTS]
    tables = [laid[0].tables()[0], *(e.tables()[1] for e in laid)]
    shown = "\n\n".join(f"```\n{table}\n```" for table in tables)
    head = f"{found['seeds']} seeds; base `{found['base']}`; by `experiments/self_improvement.py`."
    return f"# Self-improvement on micro arithmetic\n\n{head}\n\n{shown}\n"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, default=None, help="a base; the shipped one")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=4000, help="training questions a seed")
    parser.add_argument("--evaluation", type=int, default=999, help="evaluation questions")
    parser.add_argument("--out", type=Path, default=Path("runs/self-improvement"))
    parser.add_argument("--page", type=Path, default=None, help="write the tables here")
    told = parser.parse_args()
    base = Checkpoint(told.base or TASK.model(), "base")
    with Run(told.out, 0) as run:
        found = collect(run, base, told)
    (told.out / "result.json").write_text(json.dumps(found), encoding="utf-8")
    text = page(found)
    if told.page is not None:
        told.page.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
