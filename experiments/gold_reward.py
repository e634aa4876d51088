"""Is gold gold? The gold reward, the proxy and the truth on the same answers, over five seeds.

    python experiments/gold_reward.py                  # go on where it stopped, then write the page
    python experiments/gold_reward.py --page-only      # the page again, from its JSON

On each training seed the micro task's SFT policy answers evaluation prompts `POOL` times. Every
answer is scored by the truth, by the seed's proxy and by gold_rm. Correlations are within a prompt:
each prompt's own mean is taken off, then all answers are pooled. Of the first 16 answers the one
that the proxy likes best is compared with the last one, an SFT answer that is not among them: the
share of prompts that it wins by the truth, by gold_rm and by the proxy, ties one half.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tandem.statistics import Estimate, mean_of, outcomes_of, win_rate
from tandem.statistics.numerics import Floats

POOL, BEST = 20, 16
LEAST, WITHIN = 0.8, 0.10
"""What gold has to reach: its correlation with the truth, and how near its share has to be."""
JUDGES = ("truth", "gold_rm", "proxy")
PAIRS = (("gold_rm", "truth"), ("gold_rm", "proxy"), ("proxy", "truth"))
RESULTS = Path(__file__).parents[1] / "docs" / "results"


def main(words: Sequence[str] | None = None) -> int:
    """Measure what is left, and write the page; exit 1 where gold is not gold."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=200, help="evaluation prompts")
    parser.add_argument("--out", type=Path, default=Path("runs/gold-reward"))
    parser.add_argument("--page", type=Path, default=RESULTS / "gold-reward.md")
    parser.add_argument("--page-only", action="store_true")
    asked = parser.parse_args(words)
    file = asked.page.with_suffix(".json")
    if not asked.page_only:
        found = measure(asked.out, range(asked.seeds), asked.prompts)
        file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    found = json.loads(file.read_text(encoding="utf-8"))
    text = gold_page(found, file.name)
    asked.page.write_text(text, encoding="utf-8")
    print(text)
    return int(not all(held for _, held in verdicts(found)))


def measure(out: Path, seeds: Sequence[int], prompts: int) -> dict[str, Any]:
    """Score the pools of all seeds, and return what they say."""
    from tandem.runs.environment import code_commit
    from tandem.tasks.micro import Micro

    made = json.loads((Micro().model().parent / "gold" / "made.json").read_text(encoding="utf-8"))
    scores = [scored_pool(out / f"seed-{seed}", seed, prompts) for seed in seeds]
    won = {name: [spelled_outcomes(outcomes(s, name)) for s in scores] for name in JUDGES}
    return {
        "command": "python experiments/gold_reward.py",
        "commit": code_commit(),
        "seeds": list(seeds),
        "prompts": prompts,
        "gold": made,
        "correlation": {
            f"{a} {b}": [round(within_prompt(s[a], s[b]), 4) for s in scores] for a, b in PAIRS
        },
        "won": won,
    }


def scored_pool(folder: Path, seed: int, prompts: int) -> dict[str, Floats]:
    """Return [P, N] scores of one seed's pool by every judge."""
    from tandem.cli.run import default_configs
    from tandem.judges.reward_model import RewardModel
    from tandem.methods import load_method
    from tandem.operators.columns import scores_of
    from tandem.pipeline.inputs import Inputs
    from tandem.rng import Seed
    from tandem.runs.run import Run
    from tandem.stages.judging import judge
    from tandem.stages.sampling import sample
    from tandem.tasks import Sizes
    from tandem.tasks.load import load_task

    configs = default_configs(load_method("reward"), "micro")
    with Run(folder, seed) as run:
        task = load_task("micro", Sizes(evaluation=prompts), seed, exam=Seed(0))
        inputs = Inputs(run, task, configs)
        asked, sampling = inputs.eval_prompts, inputs.sampling
        pool = run("pool", sample, inputs.pi_sft, asked, n=POOL, sampling=sampling)
        who = {"truth": task.truth, "gold_rm": task.gold, "proxy": RewardModel(inputs.r_phi)}
        return {
            name: np.stack([scores_of(g, name) for g in run(f"by-{name}", judge, pool, one)])
            for name, one in who.items()
        }


def within_prompt(a: Floats, b: Floats) -> float:
    """Return the correlation of [P, N] scores with each prompt's mean taken off."""
    x, y = (s - s.mean(axis=1, keepdims=True) for s in (a, b))
    return float((x * y).sum() / np.sqrt((x**2).sum() * (y**2).sum()))


def outcomes(scores: Mapping[str, Floats], judge: str) -> Floats:
    """Return [P] whether the proxy's best of the first 16 beats the last answer, by a judge."""
    best = scores["proxy"][:, :BEST].argmax(axis=1)
    rows = np.arange(len(best))
    return outcomes_of(scores[judge][rows, best], scores[judge][:, -1])


def spelled_outcomes(won: Floats) -> str:
    """Spell outcomes prompt by prompt, as the JSON keeps them: w, l and t for a tie."""
    return "".join("ltw"[int(2 * x)] for x in won)


def read_won(found: Mapping[str, Any], judge: str) -> Floats:
    """Return [S, P] outcomes by a judge, from the JSON."""
    return np.array([["ltw".index(c) / 2 for c in row] for row in found["won"][judge]])


def verdicts(found: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """Return what gold has to hold, and whether it does."""
    truth, proxy = (np.array(found["correlation"][f"gold_rm {b}"]) for b in ("truth", "proxy"))
    gap = float((read_won(found, "gold_rm") - read_won(found, "truth")).mean())
    return [
        (f"on every seed gold's correlation with the truth is at least {LEAST:g}: "
         f"the least is {truth.min():.3f}", bool((truth >= LEAST).all())),
        (f"on every seed it is above gold's correlation with the proxy: the least difference is "
         f"{(truth - proxy).min():.3f}", bool((truth > proxy).all())),
        (f"gold's share of the proxy's best of {BEST} is within {100 * WITHIN:g} points of the "
         f"truth's: {100 * gap:+.1f} points", abs(gap) <= WITHIN),
    ]  # fmt: skip


def gold_page(found: Mapping[str, Any], name: str) -> str:
    """Return the page, from the JSON alone."""
    made, won = found["gold"], {name: read_won(found, name) for name in JUDGES}
    gap = mean_of(won["gold_rm"] - won["truth"])
    parts = [
        "# Is gold gold?",
        f"Generated by `{found['command']}` from [{name}]({name}), commit `{found['commit']}`.",
        f"`gold_rm` of the micro task has {made['layers']} layers, where the base and every proxy "
        f"have {made['layers'] // 2}. It was fitted once, to {made['comparisons']:,} comparisons "
        f"of its own, by people who err on {made['people err']:.1%} of the pairs that are no ties, "
        "mostly where two answers are nearly as good. Prompts, answers and people are drawn from "
        f"seed {made['seed']}, which no table uses. It ships with the task and no policy is ever "
        "trained on it.",
        f"The SFT policy of each seed gave {POOL} answers to each of {found['prompts']} evaluation "
        "prompts. Correlations are over answers to the same prompt: its mean is taken off.",
        "## Correlation within a prompt",
        _table(
            ["between", *(f"seed {s}" for s in found["seeds"])],
            [
                [f"{a} and {b}", *(f"{r:.3f}" for r in found["correlation"][f"{a} {b}"])]
                for a, b in PAIRS
            ],
        ),
        f"## Who says that the proxy's best of {BEST} is better",
        f"Share of prompts on which the answer that the proxy likes best of {BEST} beats another "
        "SFT answer, ties one half, with 95 % intervals over seeds and prompts.",
        _table(
            ["judge", "share", *(f"seed {s}" for s in found["seeds"])],
            [
                [j, _spelled(win_rate(won[j]), ".1%"), *(f"{x:.1%}" for x in won[j].mean(axis=1))]
                for j in JUDGES
            ],
        ),
        f"gold_rm's share less the truth's, paired: {_spelled(gap, '+.1%')}.",
        "## What gold has to hold",
        "\n".join(f"- {'holds' if ok else 'FAILS'}: {told}." for told, ok in verdicts(found)),
    ]
    return "\n\n".join(parts) + "\n"


def _spelled(x: Estimate, form: str) -> str:
    return f"{x.mean:{form}} [{x.low:{form}}, {x.high:{form}}]"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    raise SystemExit(main())
