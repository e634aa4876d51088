"""Self-play: a policy learns to be preferred to itself.

The update of `methods.nash_md` without a mixture: a prompt's n answers are drawn from one policy,
so they play against each other, and no opponent has to be sampled. It rests at the equilibrium of
the game in which leaving the reference costs tau a nat (docs/theory/nash.md#game). With a small tau
and a circular preference it may go round for long before it does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tandem.data.groups import Groups
from tandem.engines import Sampling
from tandem.errors.ranges import check_ranges
from tandem.judges import Judge
from tandem.judges.ai_feedback import AIFeedback
from tandem.methods.configs import PreferenceKind
from tandem.methods.nash_md import NashConfig, check_several, fit
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.run import Run
from tandem.training.opponents import Opponent, Players
from tandem.training.validation import Validation, keep_last_policy


@dataclass(frozen=True)
class SelfPlayConfig(NashConfig):
    """Settings of self-play; `rivals` is not read, because a group's answers are each other's.

    >>> SelfPlayConfig(n=8).n
    8
    """

    def __post_init__(self) -> None:
        check_ranges(self, "self_play")
        check_several("self_play", self.n)

    def opponent(self, players: Players) -> Opponent | None:
        """Return None: a group's answers play against each other."""
        return None


def recipe(
    run: Run,
    pi_sft: Checkpoint,
    prompts: Groups,
    preference_judge: Callable[[PreferenceKind, AIFeedback], Judge],
    sampling: Sampling,
    validation: Validation | None,
    cfg: SelfPlayConfig = SelfPlayConfig(),
) -> Checkpoint:
    """Prompts and somebody who compares in, a policy out."""
    judge = preference_judge(cfg.judge, cfg.asking)
    how = {"sampling": sampling, "validation": keep_last_policy(validation), "name": "self-play"}
    return run("nash", fit, pi_sft, prompts, judge, cfg, **how)
