"""Early stopping between stages, by judges that the policy was not fitted to.

RAFT and ReST sample, filter and fit again and again. The reward that filters cannot say when to
stop, because every fit raises it. So each new policy is validated on held-out prompts, always
with the same draws:

    history = [run_validation(run, "watch-0", pi, validation, sampling)]
    for t in range(1, stages + 1):
        pi = ...                                    # the next fit
        history.append(run_validation(run, f"watch-{t}", pi, validation, sampling))
        if should_stop(history, validation):
            break
    return best_policy(history, validation).policy

See docs/theory/raft.md and docs/theory/rest.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from tandem.data.groups import Groups
from tandem.engines import Sampling
from tandem.errors import ConfigError
from tandem.judges import judge_once
from tandem.machine import Machine
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.display import spell_numbers
from tandem.runs.events import Events
from tandem.runs.run import Run
from tandem.stages.sampling import sample
from tandem.statistics import best_index, is_out_of_patience
from tandem.training.validation import Validation, log_samples, score_policy


@dataclass(frozen=True)
class ValidatedPolicy:
    """A policy and its validation metrics.

    Attributes:
        policy: the checkpoint.
        metrics: judge's column -> mean score over the held-out prompts, and `length`. Empty where
            nothing was validated.
    """

    policy: Checkpoint
    metrics: dict[str, float]


def validate_policy(
    policy: Checkpoint,
    validation: Validation,
    *,
    sampling: Sampling,
    seed: Seed,
    machine: Machine,
    events: Events,
) -> dict[str, float]:
    """Stage: sample one answer to every held-out prompt; return each judge's mean score.

    Returns:
        judge's column -> mean score, and the mean `length` in tokens.

    Raises:
        DataError: a judge wrote no scores.
    """
    given = {"sampling": sampling, "seed": seed, "machine": machine, "events": events}
    answers = Groups.of(sample(policy, validation.prompts, n=1, **given))
    judges = {column: partial(judge_once, j, machine) for column, j in validation.judges}
    found = score_policy(answers, judges)
    metrics = {column: float(values.mean()) for column, values in found.items()}
    log_samples(answers, events)
    events.log("looked", text=spell_numbers(metrics), **metrics)
    return metrics


def run_validation(
    run: Run, stage: str, policy: Checkpoint, validation: Validation | None, sampling: Sampling
) -> ValidatedPolicy:
    """Validate a policy as a stage of the run; every policy of the run answers with the same draws.

    Args:
        run: where the stage is remembered.
        stage: the stage's name.
        policy: the policy to validate.
        validation: the held-out prompts and their judges; None validates nothing.
        sampling: how the answers are drawn.

    Raises:
        ConfigError: `validation.choose` names none of its judges.
    """
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
        policy, run(stage, validate_policy, policy, validation, sampling=sampling, seed=draws)
    )


def should_stop(history: Sequence[ValidatedPolicy], validation: Validation | None) -> bool:
    """True when the last `patience` policies in a row were no better than the best before them.

    The history begins with the policy to be improved on.
    """
    if validation is None or validation.patience is None:
        return False
    return is_out_of_patience(_scores(history, validation), validation.patience)


def best_policy(
    history: Sequence[ValidatedPolicy], validation: Validation | None
) -> ValidatedPolicy:
    """Return the first policy with the highest score of `validation.choose`; else the last one."""
    if validation is None or validation.choose is None:
        return history[-1]
    return history[best_index(_scores(history, validation))]


def _scores(history: Sequence[ValidatedPolicy], validation: Validation) -> list[float]:
    return [known.metrics[validation.choose or ""] for known in history]
