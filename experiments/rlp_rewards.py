"""What the rewards of a finished RLP comparison know about pairs of each policy, seed by seed.

    python experiments/rlp_rewards.py runs/bench-rlp

Samples two answers of pi_sft, pi_theta and each pi_hat to the evaluation prompts, labels them by
the truth, and measures every reward on all of them. Stages are kept beside the seed's others, in
the scope `rewards`, so a killed run goes on. Hypotheses 6 and 7 of rlp.md.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tandem.artifacts import Checkpoint
from tandem.engines import Sampling
from tandem.groups import Groups
from tandem.judges.models import RewardModel
from tandem.on_policy import examine_labels, examine_rewards
from tandem.runs import Record, Run, records
from tandem.stages import sample
from tandem.tasks.micro import Truth

ROWS = {
    "RLP-SPG": ("rlp-spg", "spg"),
    "RLP-UML": ("rlp-uml", "uml"),
    "reward again": ("reward-again", "again"),
    "true labels": ("true-labels", "relabelled"),
    "shuffled clusters": ("shuffled-clusters", "shuffled"),
}
LABELS = {
    "agreement": ("rlp-spg", "pairs-spg"),
    "select all": ("select-all", "pairs-spg-all"),
    "shuffled clusters": ("shuffled-clusters", "pairs-shuffled"),
    "r_phi": ("labels-by-r-phi", "pairs-by-reward"),
    "pi_theta": ("labels-by-pi-theta", "pairs-by-policy"),
    "annotator": ("true-labels", "pairs-relabelled"),
}


def stage(seed: Path, scope: str, name: str) -> Any:
    """Return a stage's artifact, or None where the row was not run."""
    found: list[Record] = [r for r in records(seed / scope) if r.name == name]
    return found[0].load() if found else None


def measured(seed: Path) -> str:
    """Measure one seed's rewards and labels."""
    rewards: dict[str, Checkpoint] = {"r_phi": stage(seed, "rlp-spg", "reward")}
    policies: dict[str, Checkpoint] = {
        "pi_sft": stage(seed, "sft", "sft"),
        "pi_theta": stage(seed, "rlp-spg", "ppo"),
    }
    for name, (scope, tag) in ROWS.items():
        if (fit := stage(seed, scope, f"reward-{tag}")) is not None:
            rewards[f"r_hat {name}"] = fit
            policies[f"pi_hat {name}"] = stage(seed, scope, f"ppo-{tag}")
    asked: Groups = stage(seed, "sft", "evaluation")
    how = Sampling(max_tokens=32)
    number = int(seed.name.partition("-")[2])
    with Run(seed, number) as run:
        own = run.scope("rewards", run.seed)
        fresh = {
            name: own(f"fresh-{k}", sample, policy, asked, n=2, how=how)
            for k, (name, policy) in enumerate(policies.items())
        }
        judges = {name: RewardModel(fit) for name, fit in rewards.items()}
        exam = own("rewards", examine_rewards, judges, fresh, Truth())
        found = {name: stage(seed, *where) for name, where in LABELS.items()}
        pairs = {name: groups for name, groups in found.items() if groups is not None}
        labels = own("labels", examine_labels, pairs, Truth())
    return f"{exam['text']}\n\n{labels['text']}"


def main() -> None:
    """Print both tables for every seed of a comparison."""
    for seed in sorted(Path(sys.argv[1]).glob("seed-*")):
        print(f"{seed.name}\n{measured(seed)}\n", flush=True)


if __name__ == "__main__":
    main()
