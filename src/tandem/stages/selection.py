"""An operator applied as a stage, and what is logged of what it kept."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.operators import Operator, above, rejection
from tandem.operators.columns import scores_of
from tandem.rng import Seed
from tandem.runs.display import spell_numbers
from tandem.runs.events import Events
from tandem.statistics import describe_tilt


def select(groups: Groups, operator: Operator, *, seed: Seed, events: Events) -> Iterator[Group]:
    """Apply an operator: it reads what judges wrote and opens no model.

    How much is left is logged: prompts, completions, and completions a prompt over all prompts
    that there were.
    """
    prompts, completions, pairs = 0, 0, 0
    for group in operator(groups, seed):
        prompts, completions = prompts + 1, completions + len(group)
        pairs += len(group.preferences)
        yield group
    before = sum(len(group) for group in groups)
    events.log(
        "selected",
        prompts=prompts,
        completions=completions,
        pairs=pairs,
        of_prompts=len(groups),
        of_completions=before,
        per_prompt=completions / max(1, len(groups)),
        text=f"{completions} of {before} completions left, of {prompts} of {len(groups)} prompts",
    )


def log_tilting(
    pool: Groups, accepted: Groups, rule: rejection, *, events: Events
) -> dict[str, float]:
    """Stage: log a rejection sample's acceptance rate, and how far it is tilted to high scores."""
    units = [rule.scale(group) for group in pool]
    rows = [
        scores_of(group, "tilt")[rule.candidates(group)] / unit
        for group, unit in zip(pool, units, strict=True)
    ]
    kept = [scores_of(group, "tilt") / unit for group, unit in zip(accepted, units, strict=True)]
    numbers = describe_tilt(rows, kept, rule.beta)
    events.log("tilt", text=spell_numbers(numbers), **numbers)
    return numbers


def log_above_mean(D: Groups, rule: above, *, events: Events) -> dict[str, float]:
    """Stage: log the share of completions above a threshold, and how many are below the mean.

    A threshold at or below the mean leaves answers to be learned from that make the policy no
    better: arXiv:2308.08998 asks for tau_1 > mean R. The mean is that of the threshold's scope.

    Returns:
        `mean` of all scores; `kept`, share of completions above the threshold; `worse`, share of
        the kept that score no more than the mean, above 0 where the threshold is too low.
    """
    rows = [scores_of(group, "threshold") for group in D]
    scopes = rows if rule.scope == "per_prompt" else [np.concatenate(rows)]
    kept = np.concatenate([r > rule.cut(r) for r in scopes])
    worse = kept & np.concatenate([r <= r.mean() for r in scopes])
    numbers = {
        "mean": float(np.concatenate(rows).mean()),
        "kept": float(kept.mean()),
        "worse": float(worse.sum() / max(1, kept.sum())),
    }
    text = f"{numbers['kept']:.0%} of answers lie above the first threshold"
    if worse.any():
        text += f", which is not above the mean: {numbers['worse']:.0%} of them score no more"
    events.log("threshold", text=text, **numbers)
    return numbers
