"""What the rewards of a finished RLP comparison know about pairs of each policy.

    python experiments/rlp_rewards.py runs/bench-rlp [--out docs/results] [--name rlp-rewards]
    python experiments/rlp_rewards.py --page          # the page again, from its JSON

The page of NAME-rewards points at the comparison NAME.

Samples two answers of pi_sft, pi_theta and each pi_hat to evaluation prompts, and labels them by
the truth. Every reward is measured on pairs of pi_sft and pi_theta, r_phi and each r_hat on those
of its own pi_hat; then the labels of D_hat, and others of the
same policy's pairs, beside the truth. Stages are kept beside the seed's others, in the scope
`rewards`, so a killed run goes on. Hypotheses 6 and 7 of rlp.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from outcome_trees import read_outcomes, write_outcomes
from pages import (
    FOLDER,
    intervals_of,
    listed,
    markdown,
    measured_today,
    not_again,
    with_interval,
)
from tandem.data.groups import Groups
from tandem.engines import Sampling
from tandem.judges.ai_feedback import AIFeedback
from tandem.judges.reward_model import RewardModel
from tandem.methods.controls import first_two
from tandem.operators import rank_pairs, synthetic_pairs
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.environment import code_commit
from tandem.runs.records import Record, read_records
from tandem.runs.run import Run
from tandem.stages.judging import judge
from tandem.stages.reward_shift import evaluate_pseudo_labels, evaluate_reward_shift
from tandem.stages.sampling import sample
from tandem.stages.selection import select
from tandem.statistics import holm, mean_of, mean_over_seeds
from tandem.tasks.micro import Micro, Truth
from tandem.tasks.micro.feedback import FEEDBACK_FORMATS

FIRST = "r_phi"
ROWS = {
    "RLP-SPG": ("rlp-spg", "spg"),
    "RLP-UML": ("rlp-uml", "uml"),
    "reward again": ("reward-again", "again"),
    "true labels": ("true-labels", "relabelled"),
    "shuffled clusters": ("shuffled-clusters", "shuffled"),
}
WHERE = {"pi_sft": "pi_sft", "pi_theta": "pi_theta", "own": "own pi_hat"}
PROMPTS = 500
"""Evaluation prompts that are used: the first of them."""
FLAT = 0.02
"""Accuracy on pi_sft's pairs may change by this much and still be called equal (rlp.md)."""


def main(words: list[str] | None = None) -> int:
    """Measure every seed, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bench", nargs="?", type=Path, help="the folder of a finished comparison")
    parser.add_argument("--seeds", type=int, help="only the first seeds of the comparison")
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--name", default="rlp-rewards")
    parser.add_argument("--page", action="store_true", help="only the page, from the JSON")
    asked = parser.parse_args(words)
    file = asked.out / f"{asked.name}.json"
    if not asked.page:
        if asked.bench is None:
            parser.error("give the folder of a comparison, or --page")
        seeds = sorted(asked.bench.glob("seed-*"), key=_number)[: asked.seeds]
        asked.out.mkdir(parents=True, exist_ok=True)
        kept = [measured(s) for s in seeds]
        write_outcomes(kept, file.with_suffix(".parquet"))
        found = collected([_number(s) for s in seeds], kept)
        file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    found = json.loads(file.read_text(encoding="utf-8"))
    if (outcomes := file.with_suffix(".parquet")).exists():
        found |= numbers(read_outcomes(outcomes))
        file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    file.with_suffix(".md").write_text(page(found, asked.name), encoding="utf-8")
    print(file.with_suffix(".md"))
    return 0


# --- one seed -------------------------------------------------------------------------------------


def measured(seed: Path) -> dict[str, Any]:
    """Measure one seed's rewards and labels; `prompts` are all that were asked."""
    rewards: dict[str, Checkpoint] = {FIRST: stage(seed, "rlp-spg", "reward")}
    policies: dict[str, Checkpoint] = {
        "pi_sft": stage(seed, "sft", "sft"),
        "pi_theta": stage(seed, "rlp-spg", "ppo"),
    }
    for name, (scope, tag) in ROWS.items():
        if (fit := stage(seed, scope, f"reward-{tag}")) is not None:
            rewards[f"r_hat {name}"] = fit
            policies[f"pi_hat {name}"] = stage(seed, scope, f"ppo-{tag}")
    asked: Groups = stage(seed, "sft", "evaluation")[:PROMPTS]
    sampling = Sampling(max_tokens=32)
    with Run(seed, _number(seed)) as run:
        own = run.scope("rewards", run.seed)
        fresh = {
            name: own(f"fresh-{k}", sample, policy, asked, n=2, sampling=sampling)
            for k, (name, policy) in enumerate(policies.items())
        }
        judges = {name: RewardModel(fit) for name, fit in rewards.items()}
        exams = [own("rewards", evaluate_reward_shift, judges, first(fresh, 2), Truth())]
        for k, name in enumerate(list(fresh)[2:]):
            two = {n: judges[n] for n in (FIRST, name.replace("pi_hat", "r_hat"))}
            exams.append(
                own(f"rewards-{k}", evaluate_reward_shift, two, {name: fresh[name]}, Truth())
            )
        labels = own("labels", evaluate_pseudo_labels, labelled(own, seed), Truth())
    return {
        "rewards": [row for exam in exams for row in exam["numbers"]],
        "credits": {name: x for exam in exams for name, x in exam["credits"].items()},
        "labels": labels["numbers"],
        "prompts": [g.id for g in asked],
    }


def first(fresh: Mapping[str, Groups], count: int) -> dict[str, Groups]:
    """The first policies: pi_sft and pi_theta, on whose pairs every reward is measured."""
    return {name: fresh[name] for name in list(fresh)[:count]}


def labelled(run: Run, seed: Path) -> dict[str, Groups]:
    """Pairs of pi_theta's samples with the labels that RLP, its controls and ablations learn from.

    The old reward and pi_theta label two sets: the first two samples of as many prompts, which
    the paper's ablations use, and SPG's own pairs.
    """
    P, D_hat = stage(seed, "rlp-spg", "samples"), stage(seed, "rlp-spg", "pairs-spg")
    opinions, pi_theta = stage(seed, "rlp-spg", "opinions"), stage(seed, "rlp-spg", "ppo")
    r_phi = RewardModel(stage(seed, "rlp-spg", "reward"))
    asks = AIFeedback(hard=True).labeller(
        pi_theta, FEEDBACK_FORMATS.compare, FEEDBACK_FORMATS.principles
    )
    two = run("asked", first_two, P, len(D_hat))
    found = {"agreement: SPG": D_hat}
    found["agreement, all prompts (gamma 0)"] = run(
        "pairs-all", select, opinions, synthetic_pairs(0.0)
    )
    for name, (scope, tag) in {
        "clusters dealt at random": ("shuffled-clusters", "pairs-shuffled"),
        "the annotator, SPG's pairs": ("true-labels", "pairs-relabelled"),
    }.items():
        if (pairs := stage(seed, scope, tag)) is not None:
            found[name] = pairs
    people = Micro().annotator(seed=Seed(_number(seed)).at("rewards"))
    found["the annotator, two samples"] = run("by-annotator-two", judge, two, people)
    for name, pairs, where in (("two", two, "two samples"), ("spg", D_hat, "SPG's pairs")):
        scored = run(f"scored-{name}", judge, pairs, r_phi)
        found[f"r_phi, {where}"] = run(f"by-r-phi-{name}", select, scored, rank_pairs())
        found[f"pi_theta, {where}"] = run(f"by-pi-theta-{name}", judge, pairs, asks)
    return found


def stage(seed: Path, scope: str, name: str) -> Any:
    """Return a stage's artifact, or None where the row was not run."""
    found: list[Record] = [r for r in read_records(seed / scope) if r.name == name]
    return found[0].load() if found else None


def _number(seed: Path) -> int:
    return int(seed.name.partition("-")[2])


# --- all seeds ------------------------------------------------------------------------------------


def collected(seeds: Sequence[int], found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What was measured when, and its numbers."""
    return {
        "seeds": list(seeds),
        "prompts": len(found[0]["prompts"]),
        "commit": code_commit(),
        **measured_today(),
        **numbers(found),
    }


def numbers(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over seeds and prompts, of what each seed's exams said."""
    rewards = list(_rewards(found))
    compared = [row for row in rewards if row["gain"]]
    corrected = holm([row["gain"]["p_value"] for row in compared])
    for row, p in zip(compared, corrected, strict=True):
        row["holm_p"] = float(p)
    return {"rewards": rewards, "labels": list(_labels(found))}


def _rewards(found: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    tables = [one["rewards"] for one in found]
    for rows in zip(*tables, strict=True):
        policy, reward = rows[0]["pairs of"], rows[0]["reward"]
        credit, first = (cells(found, policy, name) for name in (reward, FIRST))
        scalars = ("pairs", "log-loss", "ECE", "temperature", "spread")
        means = {name: float(np.mean([_mean(row[name]) for row in rows])) for name in scalars}
        gain = None if reward == FIRST else mean_of(linear(credit - first)).as_dict()
        yield {
            "policy": policy,
            "reward": reward,
            "accuracy": mean_of(linear(credit)).as_dict(),
            "gain": gain,
            "seeds": [float(np.nanmean(c)) for c in credit],
            **means,
        }


def cells(found: Sequence[Mapping[str, Any]], policy: str, reward: str) -> np.ndarray:
    """[S, P] a reward's credit on a policy's pair; nan where the truth finds the two equal."""
    table = np.full((len(found), len(found[0]["prompts"])), np.nan)
    for row, one in zip(table, found, strict=True):
        place = {prompt: k for k, prompt in enumerate(one["prompts"])}
        credits = one["credits"][policy]
        row[[place[p] for p in credits["prompt"]]] = credits[reward]
    return table


def linear(x: np.ndarray) -> np.ndarray:
    """[S, P] numbers whose mean is the mean of what is there, and whose variance is that ratio's.

    m + (x - m) there / share: the linearised ratio estimator; m where nothing was measured.
    """
    there = np.isfinite(x)
    m = float(x[there].mean())
    return m + np.where(there, x - m, 0.0) / float(there.mean())


def _labels(found: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Means over seeds, whose prompts differ: an interval of Student's t over seeds."""
    for rows in zip(*(one["labels"] for one in found), strict=True):
        yield {
            "labels": rows[0]["labels"],
            "pairs": float(np.mean([row["pairs"] for row in rows])),
            **{
                name: mean_over_seeds([row[name]["mean"] for row in rows]).as_dict()
                if len(rows) > 1
                else rows[0][name]
                for name in ("right", "winner longer by")
            },
        }


def _mean(x: Any) -> float:
    return float(x["mean"]) if isinstance(x, Mapping) else float(x)


# --- the page -------------------------------------------------------------------------------------


def page(found: Mapping[str, Any], name: str) -> str:
    """The page, from the JSON alone."""
    comparison = name.removesuffix("-rewards")
    parts = [
        "# RLP: what the rewards know, and where",
        f"Generated by `python experiments/rlp_rewards.py` from [{name}.json]({name}.json); "
        "hypotheses 6 and 7 of [experiments/rlp.md](../../experiments/rlp.md), on the rewards and "
        f"policies of [{comparison}]({comparison}.md).",
        *not_again(found),
        f"Seeds {listed(found['seeds'])}; two fresh samples of each policy for each of "
        f"{found['prompts']:,} evaluation prompts, labelled by the truth (equal worth is left "
        f"out). Intervals are 95 %, over seeds and prompts ({intervals_of(found)}); *resolved* is "
        "after Holm over all gains of the page.",
        "## Accuracy",
        "A coin is right half of the time. *Own* is the policy that climbed this reward; r_phi is "
        "measured on the same pairs.",
        _accuracy(found["rewards"]),
        f"## Gain over {FIRST}, on the same pairs",
        _gains(found["rewards"]),
        "## Hypothesis 6",
        _sixth(found["rewards"]),
        "## Calibration",
        "Means over seeds. *Spread* is the standard deviation of the difference of two rewards, "
        "in nats; *temperature* is what that difference should be divided by: below 1 a reward "
        "says less than it knows. .693 is the log-loss of a coin.",
        _calibration(found["rewards"]),
        "## Labels (hypothesis 7)",
        "Labels on pairs of pi_theta's samples, beside the truth; intervals over seeds.",
        _right(found["labels"]),
        "Two samples: the first two of as many prompts as SPG kept, as in the paper's ablations. "
        "SPG's pairs: the same answers, the label of another judge. r_phi chose the winner among "
        "the majority there, so those pairs are not a fair sample for it.",
    ]
    return "\n\n".join(parts) + "\n"


def _grid(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Reward -> where -> row; where is `pi_sft`, `pi_theta`, `own`, and `first`: r_phi there."""
    grid: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        own = row["policy"].removeprefix("pi_hat ")
        if own == row["policy"]:
            grid.setdefault(row["reward"], {})[own] = row
        elif row["reward"] == FIRST:
            grid.setdefault(f"r_hat {own}", {})["first"] = row
        else:
            grid.setdefault(row["reward"], {})["own"] = row
    return grid


def _accuracy(rows: Sequence[Mapping[str, Any]]) -> str:
    where = {**WHERE, "first": "r_phi there"}
    lines = [
        [name, *(spelled(at[w]["accuracy"]) if w in at else "-" for w in where)]
        for name, at in _grid(rows).items()
    ]
    return markdown(["reward", *where.values()], lines)


def _gains(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        [name, *(f"{spelled(at[w]['gain'], '+')}{_resolved(at[w])}" for w in WHERE)]
        for name, at in _grid(rows).items()
        if name != FIRST
    ]
    return markdown(["reward", *WHERE.values()], lines) + "\n\n`*`: resolved."


def _sixth(rows: Sequence[Mapping[str, Any]]) -> str:
    """Each r_hat where it should be better than r_phi, and where it should be equal."""
    lines = []
    for name, at in _grid(rows).items():
        if name == FIRST:
            continue
        flat = at["pi_sft"]["gain"]
        known = flat["low"] is not None
        equal = known and flat["low"] >= -FLAT and flat["high"] <= FLAT
        told = "equal" if equal else f"not shown equal: {spelled(flat, '+')}"
        lines.append([name, _higher(at["pi_theta"]), _higher(at["own"]), told])
    head = ["reward", "more accurate on pi_theta", "on its own pi_hat", "equal on pi_sft"]
    return markdown(head, lines)


def _higher(row: Mapping[str, Any]) -> str:
    if not _resolved(row):
        return "not resolved"
    return "yes" if row["gain"]["mean"] > 0 else "less accurate"


def _resolved(row: Mapping[str, Any]) -> str:
    return " `*`" if row["holm_p"] < 0.05 else ""


def _calibration(rows: Sequence[Mapping[str, Any]]) -> str:
    kept = [r for r in rows if r["policy"] in ("pi_sft", "pi_theta")]
    lines = [
        [
            r["reward"], r["policy"], f"{r['log-loss']:.3f}", f"{r['ECE']:.3f}",
            f"{r['temperature']:.2f}", f"{r['spread']:.3f}",
        ]
        for r in sorted(kept, key=lambda r: r["policy"])
    ]  # fmt: skip
    return markdown(["reward", "pairs of", "log-loss", "ECE", "temperature", "spread"], lines)


def _right(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        [r["labels"], f"{r['pairs']:.0f}", spelled(r["right"]), _words(r["winner longer by"])]
        for r in rows
    ]
    return markdown(["labels by", "pairs", "right", "winner longer by, words"], lines)


def _words(x: Mapping[str, Any]) -> str:
    return with_interval(x, "+.2f")


def spelled(x: Mapping[str, Any], sign: str = "") -> str:
    """An accuracy or a difference of two, with its interval."""
    return with_interval(x, f"{sign}.3f")


if __name__ == "__main__":
    sys.exit(main())
