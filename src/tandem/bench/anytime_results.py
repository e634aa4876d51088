"""A comparison that adds seeds until it is resolved: when to go on, and intervals that hold then.

Whoever looks after every seed and stops when it suits him needs a confidence sequence: ordinary
intervals are for a number of seeds that was fixed before (docs/adr/0019). No torch.

Shapes: S seeds, P prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from tandem.bench.finished import Finished
from tandem.bench.outcomes import Outcomes, claim_standing, correct_claims, with_wins
from tandem.bench.plan import Plan
from tandem.evaluation.tables import plain_cell
from tandem.statistics import (
    Estimate,
    bounded_win_rate,
    confidence_sequence,
    holm,
    length_controlled,
    outcomes_of,
)
from tandem.statistics.crossed import ALPHA
from tandem.statistics.intervals import without_interval

NOT_HERE = "no interval: none is known that holds at any stopping time"


def unresolved_claims(plan: Plan, out: Path) -> list[str]:
    """Name what the finished seeds of a comparison do not resolve yet, of those that may go on.

    These are the plan's claims, or the wins of every method against SFT where it has none. The
    numbers, and Holm over them, are those that the results then report.

    Args:
        plan: what is compared; its seeds are the most there may be.
        out: the comparison's folder.

    Raises:
        RunError: no seed is finished.
    """
    outcomes = Finished(plan, out, {}).outcomes
    if len(outcomes.seeds) >= len(plan.seeds):
        return []
    if not plan.claims:
        corrected = _corrected_wins(outcomes)
        names = [e.name for e in plan.entries if e.name in corrected]
        return [f"{plan.opponent} < {n}" for n in names if not corrected[n] < ALPHA]
    told = _order([{"a": c.a, "b": c.b, "claim": str(c)} for c in plan.claims], outcomes)
    return [row["claim"] for row in told if row["verdict"] == "not resolved"]


def with_anytime_intervals(results: Mapping[str, Any], outcomes: Outcomes) -> dict[str, Any]:
    """Return results with intervals and p-values that hold whenever one stops.

    The length-controlled win rate, a fit, keeps its number and has no interval.
    """
    wins = {
        (a, b): _win(outcomes, a, b)
        for a in outcomes.columns for b in outcomes.columns if a != b
    }  # fmt: skip
    p_values, columns = _corrected_wins(outcomes), with_wins(outcomes)
    return {
        **results,
        "policies": [
            row | _row(outcomes, row["policy"], columns[row["policy"]], wins, p_values)
            if row["policy"] in columns and row["status"] == "done"
            else row
            for row in results["policies"]
        ],
        "order": _order(results.get("order", []), outcomes),
        "matrix": _matrix(outcomes, wins),
    }


def _corrected_wins(outcomes: Outcomes) -> dict[str, float]:
    """Return Holm's p-value of every policy's win rate against the opponent."""
    names = [n for n in outcomes.columns if n != outcomes.opponent]
    adjusted = holm([_win(outcomes, n, outcomes.opponent).p_value for n in names])
    return dict(zip(names, adjusted.tolist(), strict=True))


def _row(
    outcomes: Outcomes,
    name: str,
    columns: Mapping[str, np.ndarray],
    wins: Mapping[tuple[str, str], Estimate],
    p_values: Mapping[str, float],
) -> dict[str, Any]:
    told: dict[str, Any] = {
        k: bounded_win_rate(x, _share_sequence) if k.endswith("_win") else confidence_sequence(x)
        for k, x in columns.items()
    }  # fmt: skip
    opponent = outcomes.opponent
    if name != opponent:
        own, main = outcomes.columns[name], outcomes.main
        won = outcomes_of(own[outcomes.judge], main[outcomes.judge])
        fitted = length_controlled(won, own["length"] - main["length"])
        told |= {
            f"win vs {opponent}": wins[name, opponent],
            f"{outcomes.judge} gain": _gain(outcomes, opponent, name),
            "lc_win": without_interval(fitted.mean, fitted.n, NOT_HERE, fitted.seeds, 0.5),
        }
    cells = {k: plain_cell(x) for k, x in told.items()}
    return cells | ({"Holm p": p_values[name]} if name in p_values else {})


def _order(claims: Sequence[Mapping[str, Any]], outcomes: Outcomes) -> list[dict[str, Any]]:
    known = outcomes.columns.keys()
    gains = [_gain(outcomes, c["a"], c["b"]) if {c["a"], c["b"]} <= known else None for c in claims]
    return [
        {
            **claim,
            "verdict": claim_standing(gain, p),
            "holm_p": p,
            "gain": plain_cell(gain),
            "win": plain_cell(gain and _win(outcomes, claim["b"], claim["a"])),
            "needs": None,
        }
        for claim, gain, p in zip(claims, gains, correct_claims(gains), strict=True)
    ]


def _matrix(outcomes: Outcomes, wins: Mapping[tuple[str, str], Estimate]) -> dict[str, Any]:
    names = list(outcomes.columns)
    pairs = list(combinations(names, 2))
    told = holm([wins[pair].p_value for pair in pairs]).tolist()
    adjusted = dict(zip(pairs, told, strict=True))
    adjusted |= {(b, a): p for (a, b), p in adjusted.items()}
    return {
        "names": names,
        "win": [[plain_cell(wins.get((a, b))) for b in names] for a in names],
        "holm_p": [[adjusted.get((a, b)) for b in names] for a in names],
    }


def _gain(outcomes: Outcomes, less: str, more: str) -> Estimate:
    columns, judge = outcomes.columns, outcomes.judge
    return confidence_sequence(columns[more][judge] - columns[less][judge])


def _win(outcomes: Outcomes, a: str, b: str) -> Estimate:
    columns, judge = outcomes.columns, outcomes.judge
    won = outcomes_of(columns[a][judge], columns[b][judge])
    return _share_sequence(won)


def _share_sequence(outcomes: np.ndarray) -> Estimate:
    share = confidence_sequence(outcomes, null=0.5)
    return replace(share, low=max(share.low, 0.0), high=min(share.high, 1.0))
