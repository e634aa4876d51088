"""Rounds in the micro world: an even mix of tranches, Elo over rounds, online beside offline DPO.

    python experiments/iterated.py [--seeds 5] [--only dpo] [--runs runs/iterated] [--out FOLDER]
    python experiments/iterated.py --page-only [--out FOLDER]    # the page, from its JSON alone

See experiments/online.md for what was expected. Every seed is a run folder: a command that was
stopped goes on where it was. Writes iterated.json and iterated.md of the seeds that are done. All
seeds meet the same evaluation prompts; a JSON without `exam` is of seeds that had their own each.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pages import measured_today
from tandem.bench.outcomes import claim_standing
from tandem.cli.run import default_configs
from tandem.data.groups import Groups
from tandem.evaluation import score_column
from tandem.evaluation.tables import Table
from tandem.judges.reward_model import RewardModel
from tandem.methods import dpo, iterated_rlhf, load_method, online_dpo, ppo, reward
from tandem.pipeline.inputs import Inputs
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.environment import code_commit
from tandem.runs.records import read_records
from tandem.runs.run import Run
from tandem.stages.judging import judge
from tandem.stages.sampling import BestOf, Policy, sample
from tandem.statistics import Estimate, fit_bradley_terry, holm, mean_of, mean_over_seeds
from tandem.tasks import Sizes
from tandem.tasks.load import load_task

SIZES = Sizes(demonstrations=3000, pairs=600, held_out=100, prompts=3000, evaluation=500)
SHARE, LABELS_ONLINE, ROUNDS = 200, 1280, 4
EXAM = 0
"""Seed of the evaluation prompts."""
CLAIMS = (
    ("mix", "base"), ("round 1", "SFT"), ("round 4", "round 1"), ("online DPO", "offline DPO"),
    ("200 more labels", "free labels"),
)  # fmt: skip


def policies_of_mix(run: Run, inputs: Inputs) -> dict[str, Policy]:
    """Bai's controlled experiment: one source against three, the same number of labels."""
    configs, sampling, pi_sft = inputs.configs, inputs.sampling, inputs.pi_sft
    asked, humans = inputs.task.asked, inputs.humans
    assert asked is not None
    assert humans is not None
    base = inputs.D
    first = run("first-reward", reward.fit, pi_sft, base[:SHARE], configs["reward"], name="first")
    climbed = run(
        "first-policy", ppo.fit, pi_sft, inputs.prompts, RewardModel(first), configs["ppo"],
        sampling=sampling, name="first",
    )  # fmt: skip
    writers: tuple[Policy, ...] = (BestOf(pi_sft, RewardModel(first), 4), climbed)
    tranches = [base[:SHARE]]
    for k, writer in enumerate(writers):
        X = asked[SHARE * (k + 1) : SHARE * (k + 2)]
        pairs = run(f"tranche-{k + 1}-pairs", sample, writer, X, n=2, sampling=sampling)
        tranches.append(run(f"tranche-{k + 1}", judge, pairs, humans))
    mixed = Groups.of(g for tranche in tranches for g in tranche)
    found: dict[str, Policy] = {}
    for name, D in (("base", base), ("mix", mixed)):
        r = run(f"reward-{name}", reward.fit, pi_sft, D, configs["reward"], name=f"r-{name}")
        found[name] = run(
            f"ppo-{name}", ppo.fit, pi_sft, inputs.prompts, RewardModel(r), configs["ppo"],
            sampling=sampling, name=name,
        )  # fmt: skip
    return found


def policies_of_rounds(run: Run, inputs: Inputs) -> dict[str, Policy]:
    """Four rounds of 200 labels; and two rounds, the second with labels or with free ones."""
    cfg = replace(
        inputs.configs["iterated_rlhf"], rounds=ROUNDS, labels=SHARE, comparisons=400,
        **{part: inputs.configs[part] for part in ("reward", "ppo", "dpo", "rlp")},
    )  # fmt: skip
    found: dict[str, Policy] = {}
    for name, own in {
        "rounds": cfg,
        "free": replace(cfg, rounds=2, free_labels=True, growth=1e-9, comparisons=0),
    }.items():
        scope = run.scope(name, run.seed)
        iterated_rlhf.recipe(
            scope, inputs.base, inputs.pi_sft, None, inputs.prompts, inputs.humans,
            inputs.formats, inputs.same, inputs.truth, inputs.sampling, own,
        )  # fmt: skip
        last = [r for r in _below(scope) if r.name == "ppo"]
        found |= {f"{name} {k + 1}": r.load() for k, r in enumerate(last)}
    return {
        **{f"round {k}": found[f"rounds {k}"] for k in range(1, ROUNDS + 1)},
        "200 more labels": found["rounds 2"],
        "free labels": found[f"free {sum(n.startswith('free') for n in found)}"],
    }


def _below(scope: Run) -> list[Any]:
    folders = [scope.path, *sorted(scope.path.glob("round-*"))]
    return [record for folder in folders for record in read_records(folder)]


def policies_of_dpo(run: Run, inputs: Inputs) -> dict[str, Policy]:
    """Online and offline DPO: as many of the annotator's labels, as many optimiser steps."""
    humans, sampling, pi_sft = inputs.humans, inputs.sampling, inputs.pi_sft
    assert humans is not None
    cfg = replace(inputs.configs["online_dpo"], prompts=64, minibatch=64, n=2)
    cfg = replace(cfg, rounds=LABELS_ONLINE // cfg.prompts)
    online = run("online", online_dpo.fit, pi_sft, inputs.prompts, humans, cfg, sampling=sampling)
    X = inputs.prompts[:LABELS_ONLINE]
    pairs = run("offline-pairs", sample, pi_sft, X, n=2, sampling=sampling)
    D = run("offline-labels", judge, pairs, humans)
    same = dpo.DPOConfig(beta=0.1, epochs=1, batch=cfg.minibatch, optim=cfg.optim)
    offline = run("offline", dpo.fit, pi_sft, D, same, name="offline DPO")
    return {"online DPO": online, "offline DPO": offline}


PARTS: dict[str, Callable[[Run, Inputs], dict[str, Policy]]] = {
    "dpo": policies_of_dpo, "mix": policies_of_mix, "rounds": policies_of_rounds,
}  # fmt: skip


Seedful = dict[str, Any]
"""Of a seed: policy -> [P] truths; and `meetings` and `rounds`, where the rounds were done."""


def run_seed(place: Path, seed: int, only: list[str]) -> Seedful:
    """Return the truth of every policy's answer to each evaluation prompt, and Elo's votes."""
    configs: dict[str, Any] = default_configs(load_method("iterated_rlhf"), "micro")
    configs |= default_configs(load_method("online_dpo"), "micro")
    task = load_task("micro", SIZES, seed, exam=Seed(EXAM))
    with Run(place / f"seed-{seed}", seed, machine=configs["machine"]) as run:
        inputs = Inputs(run, task, configs)
        found: dict[str, Policy] = {"SFT": inputs.pi_sft}
        for part in only:
            found |= PARTS[part](run.scope(part, run.seed), inputs)
        told: Seedful = {name: truth_of(run, name, pi, inputs) for name, pi in found.items()}
        if "rounds" in only:
            rounds = run.path / "rounds" / "rounds"
            last = next(r for r in read_records(rounds) if r.name == "rounds")
            told |= {"meetings": meetings_of(rounds), "rounds": last.load()["numbers"]}
        return told


def truth_of(run: Run, name: str, policy: Policy, inputs: Inputs) -> list[float]:
    """[P] the truth of one answer to each evaluation prompt."""
    assert inputs.truth is not None
    assert isinstance(policy, Checkpoint | BestOf)
    stage = f"said-{name.lower().replace(' ', '-')}"
    said = run(stage, sample, policy, inputs.eval_prompts, n=1, sampling=inputs.sampling)
    return [float(x) for x in score_column(inputs.truth(said))]


def meetings_of(place: Path) -> list[list[Any]]:
    """Return what was compared at the end of the rounds: first, second, P(first wins), prompt.

    A prompt is named by a few digits of its text's hash.
    """
    met = next((r for r in read_records(place) if r.name == "comparisons"), None)
    return [
        [g.completions[v.i].author, g.completions[v.j].author, v.p, _mark(g.prompt.text)]
        for g in (met.load() if met is not None else ())
        for v in g.preferences
    ]


def _mark(text: str) -> str:
    return hashlib.blake2s(text.encode(), digest_size=5).hexdigest()


def elo_table(kept: Mapping[str, Seedful]) -> Table:
    """Place the snapshots of all rounds by Elo above SFT, over prompts and seeds."""
    votes = [(*row, seed) for seed, told in kept.items() for row in told.get("meetings", ())]
    first, second, wins, prompt, seeds = zip(*votes, strict=True)
    fitted = fit_bradley_terry(first, second, wins, prompt, seeds)
    rows = tuple((name, elo) for name, elo in sorted(fitted.elo("SFT").items()))
    title = (
        f"{len(votes)} comparisons of {len(set(seeds))} seeds by the annotators; SFT stands at 0"
    )
    return Table(("snapshot", "Elo above SFT"), rows, title)


def accuracy_table(kept: Mapping[str, Seedful]) -> Table:
    """Show how often each round's reward is right on held-out labels of each tranche."""
    told = [seed["rounds"] for seed in kept.values() if "rounds" in seed]
    rows = tuple(
        (f"reward of round {t}", *(_mean_right(told, t, k) for k in range(ROUNDS)))
        for t in range(1, ROUNDS + 1)
    )
    heads = ("", *(f"tranche {k}" for k in range(ROUNDS)))
    title = f"mean over {len(told)} seeds; tranche 0 is of SFT's answers, later ones of snapshots'"
    return Table(heads, rows, title)


def _mean_right(told: Sequence[Sequence[Mapping[str, Any]]], t: int, k: int) -> Estimate:
    return mean_over_seeds([seed[t][f"right on {k}"]["mean"] for seed in told])


def table_of(record: Mapping[str, Any]) -> Table:
    """Lay out the claims over the seeds that have both sides, with Holm over all of them."""
    rows, gains = [], list[Estimate]()
    for better, worse in CLAIMS:
        both = [told for told in record["found"].values() if better in told and worse in told]
        if both:
            a, b = (np.array([told[name] for told in both]) for name in (better, worse))
            gains.append(difference(a - b, same_prompts="exam" in record))
            rows.append((better, worse, len(both), a.mean(), b.mean(), gains[-1]))
    adjusted = holm([gain.p_value for gain in gains]).tolist()
    told = [(p, claim_standing(gain, p)) for gain, p in zip(gains, adjusted, strict=True)]
    heads = ("policy", "against", "seeds", "truth", "truth of the other", "difference")
    lines = tuple((*row, *more) for row, more in zip(rows, told, strict=True))
    return Table((*heads, "Holm p", "above 0"), lines, "expected: above 0")


def difference(d: np.ndarray, *, same_prompts: bool) -> Estimate:
    """Estimate the mean of [S, P] differences.

    Where each seed has prompts of its own, its mean is one number, and seeds bring the prompts'
    share of chance with them.
    """
    return mean_of(d) if same_prompts else mean_over_seeds(d.mean(axis=1))


def main() -> int:
    """Run what is missing, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--runs", type=Path, default=Path("runs/iterated"))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--page-only", action="store_true", help="the page, from its JSON alone")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "iterated.json"
    record: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    if not args.page_only and record.get("exam") != EXAM:
        record = {"found": {}}
    for seed in () if args.page_only else range(args.seeds):
        found, kept = run_seed(args.runs, seed, args.only), record["found"]
        kept[str(seed)] = kept.get(str(seed), {}) | found
        record = {"commit": code_commit(), **measured_today(), "exam": EXAM, "found": kept}
        file.write_text(json.dumps(record) + "\n")
        print(table_of(record), flush=True)
    (args.out / "iterated.md").write_text(page_of(record))
    return 0


def page_of(record: Mapping[str, Any]) -> str:
    """Return the page of the seeds that are done."""
    kept: Mapping[str, Seedful] = record["found"]
    same = "exam" in record
    over = "prompts and seeds" if same else "seeds, each with evaluation prompts of its own"
    when = f" {record['date']}, commit `{record['commit']}`." if same else ""
    parts = [
        "# Rounds in the micro world",
        f"Made by `python experiments/iterated.py`.{when} What was expected was written down "
        "before: [experiments/online.md](../../experiments/online.md).",
        "## What was expected, and what came",
        "Truth of one answer to each evaluation prompt. Differences are paired by prompt, with "
        f"95 % intervals over {over}; *resolved* is after Holm over the table, and *reversed* is "
        "resolved the other way.",
        f"```text\n{table_of(record)}\n```",
    ]
    if any("meetings" in seed for seed in kept.values()):
        parts += [
            "## Elo over the rounds",
            f"```text\n{elo_table(kept)}\n```",
            "## Is the reward right on new answers?",
            f"```text\n{accuracy_table(kept)}\n```",
        ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.exit(main())
