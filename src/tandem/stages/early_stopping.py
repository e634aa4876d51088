"""Stopping between stages, by judges who did not choose what was trained on.

A method that samples, filters and fits again and again needs somebody to say when it is enough.
The filter's own reward cannot: the policy is fitted to it. `look` asks the held-out judges of a
`Watching` after each fit, on the same prompts with the same draws; `enough` and `chosen` read
what they said. See docs/theory/raft.md and docs/theory/rest.md.
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
    validation: Validation,
    *,
    sampling: Sampling,
    seed: Seed,
    machine: Machine,
    events: Events,
) -> dict[str, float]:
    """Sample once for every held-out prompt and return each judge's mean score, and the length."""
    drawn = sample(
        policy,
        validation.prompts,
        n=1,
        sampling=sampling,
        seed=seed,
        machine=machine,
        events=events,
    )
    answers = Groups.of(drawn)
    numbers = {
        column: float(np.mean(np.concatenate([scores_of(g, column) for g in judged])))
        for column, who in validation.judges
        for judged in [list(open_judge(who, replace(machine, lora=None))(answers))]
    }
    numbers["length"] = float(np.mean([len(g.completions[0].tokens) for g in answers]))
    for group in answers[:3]:
        events.log("sample", prompt=group.prompt.text, answer=group.completions[0].text)
    events.log("looked", text=spell_numbers(numbers), **numbers)
    return numbers


def validated(
    run: Run, name: str, policy: Checkpoint, validation: Validation | None, sampling: Sampling
) -> ValidatedPolicy:
    """Look at a policy as the stage `name`; the draws are the same for every policy of a run."""
    if validation is None:
        return ValidatedPolicy(policy, {})
    columns = [column for column, _ in validation.judges]
    if validation.choose is not None and validation.choose not in columns:
        raise ConfigError(
            f"validation.choose = {validation.choose!r} with judges {', '.join(columns) or 'none'}",
            "a method that samples, filters and fits is stopped by judges who did not filter",
            "name one of the judges, or give `choose = None` for the last policy",
        )
    draws = run.seed.at("held-out")
    return ValidatedPolicy(
        policy, run(name, validate_policy, policy, validation, sampling=sampling, seed=draws)
    )


def should_stop(trail: Sequence[ValidatedPolicy], validation: Validation | None) -> bool:
    """True when the last `patience` policies in a row brought no new best.

    The trail begins with the policy that they are to be better than.
    """
    if validation is None or validation.patience is None:
        return False
    return len(trail) - 1 - trail.index(_best(trail, validation)) >= validation.patience


def best_policy(trail: Sequence[ValidatedPolicy], validation: Validation | None) -> ValidatedPolicy:
    """Return the policy that `validation.choose` liked best; the last one where nobody chooses."""
    if validation is None or validation.choose is None:
        return trail[-1]
    return _best(trail, validation)


def _best(trail: Sequence[ValidatedPolicy], validation: Validation) -> ValidatedPolicy:
    column = validation.choose or ""
    return max(trail, key=lambda s: s.numbers[column])
