"""While a seed is at work: what its methods are worth so far, and how long the rest takes.

No torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tandem.bench.plan import BASE, OPPONENT, Plan
from tandem.bench.results import results_so_far
from tandem.bench.table import results_table
from tandem.runs.display import spell_duration
from tandem.runs.names import folder_name
from tandem.runs.records import read_records


def describe_seed(plan: Plan, out: Path, seed: int, done: int) -> str:
    """Return the table of a seed's first methods, and how long its others will take.

    Args:
        plan: what is compared.
        out: the comparison's folder.
        seed: the one at work.
        done: methods that have ended, in the plan's order.
    """
    part = replace(plan, entries=plan.entries[:done], seeds=(seed,), claims=(), fewest_seeds=None)
    rest = seconds_left(plan, out, seed, done)
    total = len(plan.entries)
    said = f"{done} of {total} methods are done" + ("" if rest is None else f", {spell_rest(rest)}")
    return f"{results_table(results_so_far(part, out))}\n\n{said}"


def seconds_left(plan: Plan, out: Path, seed: int, done: int) -> float | None:
    """Return about how many seconds a seed's other methods will take; None where nobody knows.

    What the finished methods took is compared with the plan's costs; where it has none, another
    method takes as long as one of those.
    """
    first = len(plan.policies) - len(plan.entries) + done
    before, left = plan.policies[:first], plan.policies[first:]
    took = sum(work_seconds(plan.folder(out, seed) / folder_name(n)) for n in before)
    return scale_costs(plan.costs, before, left, took)


def scale_costs(
    costs: Mapping[str, float], done: Sequence[str], left: Sequence[str], took: float
) -> float | None:
    """Return what `left` will take, if `done` took so many seconds.

    scale_costs({"SFT": 10, "DPO": 20}, ["SFT"], ["DPO"], took=15)      # 30.0
    """
    if not left:
        return 0.0
    if all(name in costs for name in left):
        known = sum(costs.get(name, 0.0) for name in done)
        if known > 0:
            return took * sum(costs[name] for name in left) / known
    methods = [name for name in done if name not in (BASE, OPPONENT)]
    return took / len(methods) * len(left) if methods else None


def work_seconds(scope: Path) -> float:
    """Return the seconds of every stage that was really done in a scope."""
    return sum(r.seconds for r in read_records(scope) if r.same_as is None)


def spell_rest(seconds: float) -> str:
    """Say how long it will still take: `about 2:10 left`."""
    return f"about {spell_duration(seconds)} left"
