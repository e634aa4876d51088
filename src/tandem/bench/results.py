"""From the evaluations of all seeds to one table of numbers: `results.json`, which reports read.

Policies are compared on the same prompts, seeds and judges; every interval is over prompts and
seeds together (docs/adr/0006), and Holm corrects each family of comparisons. No torch.

Shapes: S seeds, P prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from tandem.bench import details
from tandem.bench.finished import JUDGES, Finished, Stack, Tally
from tandem.bench.limits import limit_notes
from tandem.bench.plan import OPPONENT, Plan
from tandem.evaluation import policy_evaluation
from tandem.evaluation.tables import plain_cell
from tandem.runs.environment import code_commit, environment_snapshot
from tandem.statistics import (
    Estimate,
    comparisons_needed,
    holm,
    length_controlled,
    outcomes_of,
    paired_difference,
    win_rate,
)

ALPHA = 0.05


def collect_results(
    plan: Plan, out: Path, command: str, tallies: Mapping[str, Tally] | None = None
) -> dict[str, Any]:
    """Gather everything that the finished seeds of a plan say.

    Args:
        plan: what was compared.
        out: the comparison's folder.
        command: what repeats it.
        tallies: column -> what is counted in an answer, for tasks that can tell.

    Returns:
        the content of `results.json`.

    Raises:
        RunError: no seed is finished.
    """
    found = Finished(plan, out, tallies or {})
    return {
        "title": plan.title,
        "question": plan.question,
        "task": plan.task or f"{plan.model} on {plan.data}",
        "command": command,
        "commit": code_commit(),
        "environment": environment_snapshot(),
        "seeds": found.seeds,
        "prompts": int(found.main["length"].shape[1]),
        "budget": plan.sizes.amounts(plan.task is not None),
        "judge": found.judge,
        "opponent": OPPONENT,
        "alpha": ALPHA,
        "policies": list(_policies(found)),
        "order": _order(found),
        "matrix": _matrix(found),
        "curves": list(details.training_curves(found)),
        "bon": details.best_of_n_details(found),
        "reward": details.reward_details(found),
        "length_bias": details.length_bias_details(found),
        "samples": details.sample_details(found),
        "cost": list(details.stage_costs(found)),
        "limits": limit_notes(found),
    }


def _policies(found: Finished) -> Iterator[dict[str, Any]]:
    rows = policy_evaluation(_with_wins(found), opponents=(OPPONENT,), judge=found.judge)
    told = {row["policy"]: row for row in rows.table().as_dicts()}
    entries = {e.name: e for e in found.plan.entries}
    for name in found.names:
        about: dict[str, Any] = {"policy": name, "status": "done"}
        if entry := entries.get(name):
            about |= {"method": entry.method, "settings": dict(entry.changed)}
            about |= {"paper": dict(entry.paper) or None}
        if name in found.failed:
            yield about | {"status": "failed", "reason": found.failed[name]}
        else:
            yield about | told[name] | _costs(found, name) | _against(found, name)


def _with_wins(found: Finished) -> dict[str, Stack]:
    """Add outcomes against the opponent by every judge that does not decide."""
    main, more = found.main, dict[str, Stack]()
    for name, own in found.columns.items():
        if name == OPPONENT:
            more[name] = {k: v for k, v in own.items() if not k.endswith("_win")}
        else:
            others = [j for j in JUDGES if j in own and j != found.judge]
            more[name] = own | {f"{j}_win": outcomes_of(own[j], main[j]) for j in others}
    return more


def _costs(found: Finished, name: str) -> dict[str, Any]:
    seconds, peaks = zip(*found.spent(name), strict=True)
    return {
        "seconds": {"mean": float(np.mean(seconds)), "each": list(seconds)},
        "peak_bytes": max(peaks),
    }


def _against(found: Finished, name: str) -> dict[str, Any]:
    """Each seed's own means, and the win rate at equal length."""
    own, main, judge = found.columns[name], found.main, found.judge
    gain = (own[judge] - main[judge]).mean(axis=1)
    won = outcomes_of(own[judge], main[judge])
    means = {k: own[k].mean(axis=1) for k in ("kl", "length", *JUDGES) if k in own}
    each = {f"{judge} gain": gain, f"win vs {OPPONENT}": won.mean(axis=1), **means}
    told: dict[str, Any] = {"per_seed": {k: v.tolist() for k, v in each.items()}}
    if name != OPPONENT:
        told["lc_win"] = plain_cell(_at_equal_length(won, own["length"] - main["length"]))
    return told


def _at_equal_length(won: np.ndarray, gap: np.ndarray) -> Estimate:
    prompt = np.broadcast_to(np.arange(won.shape[1]), won.shape)
    return length_controlled(won.ravel(), gap.ravel(), list(prompt.ravel()))


def _order(found: Finished) -> list[dict[str, Any]]:
    """Judge the orderings that were expected, with Holm over all of them."""
    columns, judge = found.columns, found.judge
    told = [c for c in found.plan.claims if c.a in columns and c.b in columns]
    gains = [paired_difference(columns[c.b][judge], columns[c.a][judge]) for c in told]
    adjusted = holm([g.p_value for g in gains]).tolist() if gains else []
    return [
        {
            "a": claim.a,
            "b": claim.b,
            "claim": str(claim),
            "verdict": claim_standing(gain, p),
            "holm_p": p,
            "gain": plain_cell(gain),
            "win": plain_cell(
                win_rate(outcomes_of(columns[claim.b][judge], columns[claim.a][judge]))
            ),
            "needs": None if gain.mean == gain.null else comparisons_needed(gain),
        }
        for claim, gain, p in zip(told, gains, adjusted, strict=True)
    ]


def claim_standing(gain: Estimate, adjusted_p: float) -> str:
    """Say what became of a claim: `resolved`, `not resolved`, or `reversed`."""
    if not adjusted_p < ALPHA:
        return "not resolved"
    return "resolved" if gain.mean > gain.null else "reversed"


def _matrix(found: Finished) -> dict[str, Any]:
    """Win rate of every row's policy against every column's, with Holm over all pairs."""
    stacks = {name: own[found.judge] for name, own in found.columns.items()}
    wins = {
        (a, b): win_rate(outcomes_of(stacks[a], stacks[b]))
        for a in stacks for b in stacks if a != b
    }  # fmt: skip
    pairs = list(combinations(stacks, 2))
    adjusted = dict(zip(pairs, holm([wins[pair].p_value for pair in pairs]).tolist(), strict=True))
    adjusted |= {(b, a): p for (a, b), p in adjusted.items()}
    return {
        "names": list(stacks),
        "win": [[plain_cell(wins.get((a, b))) for b in stacks] for a in stacks],
        "holm_p": [[adjusted.get((a, b)) for b in stacks] for a in stacks],
    }
