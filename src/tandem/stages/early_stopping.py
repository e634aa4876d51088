"""Stopping between stages, by judges who did not choose what was trained on.

A method that samples, filters and fits again and again needs somebody to say when it is enough.
The filter's own reward cannot: the policy is fitted to it. `look` asks the held-out judges of a
`Watching` after each fit, on the same prompts with the same draws; `enough` and `chosen` read
what they said. METHODS sections 7 and 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tandem.data.groups import Groups
from tandem.engines import Sampling
from tandem.errors import ConfigError
from tandem.judges import open_judge
from tandem.machine import Machine
from tandem.operators.columns import scores_of
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.display import spell_numbers
from tandem.runs.events import Events
from tandem.runs.run import Run
from tandem.stages.sampling import sample
from tandem.training.validation import Validation


@dataclass(frozen=True)
class ValidatedPolicy:
    """A policy and what the held-out judges said of it: column -> mean score."""

    policy: Checkpoint
    numbers: dict[str, float]


def validate_policy(
    policy: Checkpoint,
    watching: Validation,
    *,
    how: Sampling,
    seed: Seed,
    machine: Machine,
    events: Events,
) -> dict[str, float]:
    """Sample once for every held-out prompt and return each judge's mean score, and the length."""
    drawn = sample(
        policy, watching.prompts, n=1, how=how, seed=seed, machine=machine, events=events
    )
    answers = Groups.of(drawn)
    numbers = {
        column: float(np.mean(np.concatenate([scores_of(g, column) for g in judged])))
        for column, who in watching.judges
        for judged in [list(open_judge(who, replace(machine, lora=None))(answers))]
    }
    numbers["length"] = float(np.mean([len(g.completions[0].tokens) for g in answers]))
    for group in answers[:3]:
        events.log("sample", prompt=group.prompt.text, answer=group.completions[0].text)
    events.log("looked", text=spell_numbers(numbers), **numbers)
    return numbers


def validated(
    run: Run, name: str, policy: Checkpoint, watching: Validation | None, how: Sampling
) -> ValidatedPolicy:
    """Look at a policy as the stage `name`; the draws are the same for every policy of a run."""
    if watching is None:
        return ValidatedPolicy(policy, {})
    columns = [column for column, _ in watching.judges]
    if watching.choose is not None and watching.choose not in columns:
        raise ConfigError(
            f"watching.choose = {watching.choose!r} with judges {', '.join(columns) or 'none'}",
            "a method that samples, filters and fits is stopped by judges who did not filter",
            "name one of the judges, or give `choose = None` for the last policy",
        )
    draws = run.seed.at("held-out")
    return ValidatedPolicy(
        policy, run(name, validate_policy, policy, watching, how=how, seed=draws)
    )


def should_stop(trail: Sequence[ValidatedPolicy], watching: Validation | None) -> bool:
    """True when the last `patience` policies in a row brought no new best.

    The trail begins with the policy that they are to be better than.
    """
    if watching is None or watching.patience is None:
        return False
    return len(trail) - 1 - trail.index(_best(trail, watching)) >= watching.patience


def best_policy(trail: Sequence[ValidatedPolicy], watching: Validation | None) -> ValidatedPolicy:
    """Return the policy that `watching.choose` liked best; the last one where nobody chooses."""
    if watching is None or watching.choose is None:
        return trail[-1]
    return _best(trail, watching)


def _best(trail: Sequence[ValidatedPolicy], watching: Validation) -> ValidatedPolicy:
    column = watching.choose or ""
    return max(trail, key=lambda s: s.numbers[column])
