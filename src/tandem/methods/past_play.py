"""Past play: a policy learns to beat the mixture of all that it has been.

The update of `methods.nash_md` against the policies of the rounds so far, one drawn for each
prompt: all alike (as in fictitious play, whose average goes to the equilibrium), or recent ones
more often. Only their trained weights are kept, the adapters where LoRA is on, in the stage's
scratch folder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tandem.data.groups import Groups
from tandem.engines import Sampling
from tandem.errors.ranges import Count, Share, check_ranges
from tandem.judges import Judge
from tandem.judges.ai_feedback import AIFeedback
from tandem.methods.configs import PreferenceKind
from tandem.methods.nash_md import NashConfig, fit
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.run import Run
from tandem.training.opponents import Opponent, PastOpponent, Players
from tandem.training.validation import Validation, keep_last_policy


@dataclass(frozen=True)
class PastPlayConfig(NashConfig):
    """Settings of play against past policies.

    >>> PastPlayConfig(keep=4, recency=0.5).keep  # the last four, each half as often as the next
    4

    Attributes:
        keep: how many policies are remembered, the latest ones.
        every: rounds between two of them.
        recency: an older policy counts this much of the next younger one; 1 makes all equal.
    """

    keep: Count = 16
    every: Count = 1
    recency: Share = 1.0

    def __post_init__(self) -> None:
        check_ranges(self, "past_play")

    def opponent(self, players: Players) -> Opponent | None:
        """Open the mixture of past policies."""
        return PastOpponent(players, self.keep, self.every, self.recency)


def recipe(
    run: Run,
    pi_sft: Checkpoint,
    prompts: Groups,
    preference_judge: Callable[[PreferenceKind, AIFeedback], Judge],
    sampling: Sampling,
    validation: Validation | None,
    cfg: PastPlayConfig = PastPlayConfig(),
) -> Checkpoint:
    """Prompts and somebody who compares in, a policy out."""
    judge = preference_judge(cfg.judge, cfg.asking)
    how = {"sampling": sampling, "validation": keep_last_policy(validation), "name": "past-play"}
    return run("nash", fit, pi_sft, prompts, judge, cfg, **how)
