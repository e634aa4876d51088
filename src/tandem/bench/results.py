"""From the evaluations of all seeds to one table of numbers: `results.json`, which reports read.

Policies are compared on the same prompts, seeds and judges; every interval is over prompts and
seeds together (docs/adr/0018), and Holm corrects each family of comparisons. No torch.

Shapes: S seeds, P prompts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from tandem.bench import details
from tandem.bench.anytime_results import with_anytime_intervals
from tandem.bench.finished import Finished, Tally
from tandem.bench.limits import limit_notes
from tandem.bench.outcomes import (
    JUDGES,
    OUTCOMES,
    Outcomes,
    claim_standing,
    correct_claims,
    read_outcomes,
    with_wins,
    write_outcomes,
)
from tandem.bench.plan import Plan
from tandem.errors import DataError
from tandem.evaluation import policy_evaluation
from tandem.evaluation.tables import plain_cell
from tandem.runs.atomic_files import read_json
from tandem.runs.environment import code_commit, environment_snapshot
from tandem.statistics import (
    Estimate,
    comparisons_needed,
    deviant_seeds,
    holm,
    length_controlled,
    outcomes_of,
    paired_difference,
    win_rate,
)
from tandem.statistics.crossed import ALPHA

RESULTS = "results.json"
INTERVALS = "docs/adr/0018"
"""How the intervals of these results are made."""
ABOUT = ("policy", "status", "method", "settings", "paper", "reason", "seconds", "peak_bytes")
"""What a policy's row has besides statistics."""
Claimed = tuple[str, str, str]
"""The policy that is less, the one that is more, and the claim in words."""


def collect_results(
    plan: Plan, out: Path, command: str, tallies: Mapping[str, Tally] | None = None
) -> dict[str, Any]:
    """Gather everything that the finished seeds of a plan say, and keep their outcomes.

    Every policy's numbers on every prompt are written to `outcomes.parquet` in the folder, from
    which `remake_statistics` makes all statistics again.

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
    write_outcomes(found.outcomes, out / OUTCOMES)
    told = {
        "title": plan.title,
        "question": plan.question,
        "task": plan.start_label,
        "command": command,
        "commit": code_commit(),
        "environment": environment_snapshot(),
        "seeds": found.seeds,
        "prompts": int(found.main["length"].shape[1]),
        "budget": plan.sizes.amounts(plan.task is not None),
        "judge": found.judge,
        "opponent": plan.opponent,
        "alpha": ALPHA,
        "intervals": INTERVALS,
        "policies": list(_policies(found)),
        "order": judge_claims(found.outcomes, [(c.a, c.b, str(c)) for c in plan.claims]),
        "matrix": win_matrix(found.outcomes),
        "curves": list(details.training_curves(found)),
        "bon": details.best_of_n_details(found),
        "reward": details.reward_details(found),
        "gold": details.gold_details(found),
        "length_bias": details.length_bias_details(found),
        "samples": details.sample_details(found),
        "cost": list(details.stage_costs(found)),
        "limits": limit_notes(found),
    }
    if plan.fewest_seeds is None:
        return told
    told["until_resolved"] = {"fewest": plan.fewest_seeds, "most": len(plan.seeds)}
    return with_anytime_intervals(told, found.outcomes)


def results_so_far(plan: Plan, out: Path) -> dict[str, Any]:
    """Return the part of the results that a table on a terminal shows; nothing is written.

    Raises:
        RunError: no seed of the plan is finished.
    """
    found = Finished(plan, out, {})
    claims = [(c.a, c.b, str(c)) for c in plan.claims]
    return {
        "judge": found.judge,
        "opponent": plan.opponent,
        "policies": list(_policies(found)),
        "order": judge_claims(found.outcomes, claims),
    }


def remake_statistics(folder: Path, outcomes: Path | None = None) -> dict[str, Any]:
    """Make every statistic of a comparison again from its outcomes; nothing is sampled.

    Win rates, gains, means, length-controlled rates, claims, the matrix and wins by length are
    new; what was watched, sampled and spent stays.

    Args:
        folder: with `results.json`, or such a file.
        outcomes: the Parquet file; `outcomes.parquet` beside the results unless given.

    Raises:
        DataError: one of the two is missing or broken, or they are about other policies.
    """
    file = folder / RESULTS if folder.is_dir() else folder
    results = read_json(file)
    if results is None or "policies" not in results:
        raise DataError(
            f"{file} holds no results of a comparison",
            "statistics replace those of a results.json",
            "name the folder of a `tandem bench` that has ended",
        )
    return restate_results(results, read_outcomes(outcomes or file.parent / OUTCOMES))


def restate_results(results: Mapping[str, Any], outcomes: Outcomes) -> dict[str, Any]:
    """Return results with all statistics made again from outcomes.

    Raises:
        DataError: a policy of the results has no outcomes.
    """
    rows, found = policy_statistics(outcomes), list[dict[str, Any]]()
    for row in results["policies"]:
        about = {k: v for k, v in row.items() if k in ABOUT}
        if row["status"] == "done" and row["policy"] not in rows:
            raise DataError(
                f"no outcomes of {row['policy']!r}",
                "results and outcomes have to come from the same comparison",
                "give the outcomes.parquet that was written with these results",
            )
        found.append(about | rows[row["policy"]] if row["status"] == "done" else about)
    told = [(c["a"], c["b"], c["claim"]) for c in results.get("order", [])]
    length = dict(results.get("length_bias") or {})
    if by := length.get("by"):
        length["by_difference"] = details.sort_by_difference(outcomes, by)
    told = {
        **results,
        "intervals": INTERVALS,
        "policies": found,
        "order": judge_claims(outcomes, told),
        "matrix": win_matrix(outcomes),
        "length_bias": length,
    }
    return with_anytime_intervals(told, outcomes) if results.get("until_resolved") else told


def _policies(found: Finished) -> Iterator[dict[str, Any]]:
    rows = policy_statistics(found.outcomes)
    entries = {e.name: e for e in found.plan.entries}
    for name in found.names:
        about: dict[str, Any] = {"policy": name, "status": "done"}
        if entry := entries.get(name):
            about |= {"method": entry.method, "settings": dict(entry.changed)}
            about |= {"paper": dict(entry.paper) or None}
        if name in found.failed:
            yield about | {"status": "failed", "reason": found.failed[name]}
        else:
            yield about | rows[name] | _costs(found, name)


def policy_statistics(outcomes: Outcomes) -> dict[str, dict[str, Any]]:
    """Return every policy's numbers with their intervals, as JSON holds them."""
    rows = policy_evaluation(
        with_wins(outcomes), opponents=(outcomes.opponent,), judge=outcomes.judge
    ).table()
    return {row["policy"]: row | _against(outcomes, row["policy"]) for row in rows.as_dicts()}


def _costs(found: Finished, name: str) -> dict[str, Any]:
    seconds, peaks = zip(*found.spent(name), strict=True)
    return {
        "seconds": {"mean": float(np.mean(seconds)), "each": list(seconds)},
        "peak_bytes": max(peaks),
    }


def _against(outcomes: Outcomes, name: str) -> dict[str, Any]:
    """Each seed's own means, seeds that fall out of line, and the win rate at equal length."""
    own, main, judge = outcomes.columns[name], outcomes.main, outcomes.judge
    gain = own[judge] - main[judge]
    won = outcomes_of(own[judge], main[judge])
    means = {k: own[k].mean(axis=1) for k in ("kl", "length", *JUDGES) if k in own}
    each = {
        f"{judge} gain": gain.mean(axis=1),
        f"win vs {outcomes.opponent}": won.mean(axis=1),
        **means,
    }
    told: dict[str, Any] = {"per_seed": {k: v.tolist() for k, v in each.items()}}
    if name != outcomes.opponent:
        told["lc_win"] = plain_cell(length_controlled(won, own["length"] - main["length"]))
        told["deviant_seeds"] = [outcomes.seeds[k] for k in deviant_seeds(gain)]
    return told


def judge_claims(outcomes: Outcomes, claims: Iterable[Claimed]) -> list[dict[str, Any]]:
    """Judge the orderings that were expected, with Holm over all of them.

    A claim about a method that failed is not measured, and stays in the family.
    """
    stacks = {name: own[outcomes.judge] for name, own in outcomes.columns.items()}
    told = list(claims)
    gains = [
        paired_difference(stacks[b], stacks[a]) if {a, b} <= stacks.keys() else None
        for a, b, _ in told
    ]
    return [
        {
            "a": a,
            "b": b,
            "claim": claim,
            "verdict": claim_standing(gain, p),
            "holm_p": p,
            "gain": plain_cell(gain),
            "win": plain_cell(gain and win_rate(outcomes_of(stacks[b], stacks[a]))),
            "needs": gain and _needs(gain),
        }
        for (a, b, claim), gain, p in zip(told, gains, correct_claims(gains), strict=True)
    ]


def _needs(gain: Estimate) -> int | None:
    """Return how many more comparisons would resolve a difference; None where that is unknown."""
    unknown = gain.mean == gain.null or math.isnan(gain.se)
    return None if unknown else comparisons_needed(gain)


def win_matrix(outcomes: Outcomes) -> dict[str, Any]:
    """Win rate of every row's policy against every column's, with Holm over all pairs."""
    stacks = {name: own[outcomes.judge] for name, own in outcomes.columns.items()}
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
