"""Validation: held-out prompts, and judges whose scores a policy was not trained on.

A proxy rises because it is optimised. Whether anything else rises is what validation says; where
nothing does, that is reward hacking (docs/theory/over_optimisation.md#detectors).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tandem.data.groups import Groups
from tandem.data.record import FloatArray, Group
from tandem.errors import ConfigError, nearest_name
from tandem.evaluation import length_column, score_column
from tandem.judges import Judge, ScoringFunction
from tandem.runs.events import Events

SHOWN = 3
"""Answers that are shown each time a policy is validated."""


@dataclass(frozen=True)
class Validation:
    """What a policy is validated with while it trains: prompts that it does not train on, judges.

        validation = Validation(prompts, (("truth", task.truth),), choose="truth", patience=3)
        policy = run("ppo", ppo.fit, pi_sft, U, reward, validation=validation)

    Attributes:
        prompts: tokenised held-out prompts.
        judges: (column, judge) beside `proxy`, the reward itself: `truth`, `held_out`.
        choose: the judge whose best point is exported; None exports the last policy.
        every: rounds between two evaluations.
        patience: early stopping: end after this many evaluations in a row without a new best by
            `choose`; None trains all rounds.

    Raises:
        ConfigError: `choose` names no judge, `every` or `patience` is below 1, or there is
            patience and nothing to choose by.
    """

    prompts: Groups
    judges: tuple[tuple[str, Judge], ...] = ()
    choose: str | None = None
    every: int = 4
    patience: int | None = None

    def __post_init__(self) -> None:
        known = ["proxy", *(column for column, _ in self.judges)]
        if self.choose is not None and self.choose not in known:
            raise ConfigError(
                f"validation.choose = {self.choose!r}",
                f"the policy that is exported is the best by a judge, and there are "
                f"{', '.join(known)}",
                f"name one of them, or None for the last policy.{nearest_name(self.choose, known)}",
            )
        if self.every < 1 or (self.patience is not None and self.patience < 1):
            raise ConfigError(
                f"validation.every = {self.every}, validation.patience = {self.patience}",
                "they count rounds and evaluations",
                "give 1 or more, or no patience",
            )
        if self.patience is not None and self.choose is None:
            raise ConfigError(
                f"validation.patience = {self.patience} without validation.choose",
                "it counts evaluations since the best one, and nothing says which is best",
                "name the judge to choose by: truth, or a reward model fitted to other data",
            )


def keep_last_policy(validation: Validation | None) -> Validation | None:
    """Return a validation that follows a policy and chooses none: the last one is saved."""
    return None if validation is None else replace(validation, choose=None, patience=None)


def score_policy(
    answers: Sequence[Group] | Groups, judges: Mapping[str, ScoringFunction]
) -> dict[str, FloatArray]:
    """Return what judges say of a policy's answers to held-out prompts, and how long these are.

    Args:
        answers: P prompts, each with one answer sampled from the policy.
        judges: column -> scoring judge, opened.

    Returns:
        column -> [P] scores; `length` -> [P] tokens.

    Raises:
        DataError: a judge wrote no scores.
    """
    scores = {column: score_column(judge(answers)) for column, judge in judges.items()}
    return {**scores, "length": length_column(answers)}


def log_samples(answers: Sequence[Group] | Groups, events: Events) -> None:
    """Log the first few answers, for people to read."""
    for group in answers[:SHOWN]:
        events.log("sample", prompt=group.prompt.text, answer=group.completions[0].text)
