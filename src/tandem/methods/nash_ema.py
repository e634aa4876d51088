"""Nash-EMA-PG: play against an average of one's own weights.

Munos et al. 2023, arXiv:2312.00886, section 7: the update of `methods.nash_md` against the policy
with the weights theta_bar <- decay theta_bar + (1 - decay) theta. A decay of 0 is self-play, 1
plays against the first policy for ever. The paper averages at every step of 10,000 and tries 0,
.999, .9995, .9999 and 1; we average once a round, so decays are smaller here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tandem.data.groups import Groups
from tandem.engines import Sampling
from tandem.errors.ranges import Share, check_ranges
from tandem.judges import Judge
from tandem.judges.ai_feedback import AIFeedback
from tandem.methods.configs import PreferenceKind
from tandem.methods.nash_md import NashConfig, fit
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.run import Run
from tandem.training.opponents import AveragedOpponent, Opponent, Players
from tandem.training.validation import Validation, keep_last_policy


@dataclass(frozen=True)
class NashEMAConfig(NashConfig):
    """Settings of Nash-EMA-PG.

    >>> NashEMAConfig(decay=0.9).decay
    0.9

    Attributes:
        decay: of the averaged weights, a round: 0 is self-play, 1 an opponent that stays.
    """

    decay: Share = 0.8

    def __post_init__(self) -> None:
        check_ranges(self, "nash_ema")

    def opponent(self, players: Players) -> Opponent | None:
        """Open the policy with averaged weights."""
        return AveragedOpponent(players, self.decay)


def recipe(
    run: Run,
    pi_sft: Checkpoint,
    prompts: Groups,
    preference_judge: Callable[[PreferenceKind, AIFeedback], Judge],
    sampling: Sampling,
    validation: Validation | None,
    cfg: NashEMAConfig = NashEMAConfig(),
) -> Checkpoint:
    """Prompts and somebody who compares in, a policy out."""
    judge = preference_judge(cfg.judge, cfg.asking)
    how = {"sampling": sampling, "validation": keep_last_policy(validation), "name": "Nash-EMA"}
    return run("nash", fit, pi_sft, prompts, judge, cfg, **how)
