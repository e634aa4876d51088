"""Best response: a policy learns to beat another, frozen one.

The update of `methods.nash_md` against a policy that does not move: the reference by default, or
any checkpoint. The first is what a naive use of preferences amounts to, and the weakest method of
arXiv:2312.00886, because nobody answers back. The second measures how exploitable a policy is:
`tandem eval exploit`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tandem.data.groups import Groups
from tandem.engines import Sampling
from tandem.errors.ranges import check_ranges
from tandem.judges import Judge
from tandem.judges.ai_feedback import AIFeedback
from tandem.methods.configs import PreferenceKind
from tandem.methods.nash_md import NashConfig, fit
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.run import Run
from tandem.training.opponents import Opponent, Players, ReferenceOpponent
from tandem.training.validation import Validation, keep_last_policy


@dataclass(frozen=True)
class BestResponseConfig(NashConfig):
    """Settings of a best response.

    >>> BestResponseConfig().against is None  # the reference
    True

    Attributes:
        against: folder of the policy to beat; None is the reference.
    """

    against: str | None = None

    def __post_init__(self) -> None:
        check_ranges(self, "best_response")

    def opponent(self, players: Players) -> Opponent | None:
        """Open the policy to beat."""
        return ReferenceOpponent(players)


def recipe(
    run: Run,
    pi_sft: Checkpoint,
    prompts: Groups,
    preference_judge: Callable[[PreferenceKind, AIFeedback], Judge],
    sampling: Sampling,
    validation: Validation | None,
    cfg: BestResponseConfig = BestResponseConfig(),
) -> Checkpoint:
    """Prompts and somebody who compares in, a policy out."""
    judge = preference_judge(cfg.judge, cfg.asking)
    against = None if cfg.against is None else Checkpoint(Path(cfg.against))
    how = {
        "sampling": sampling,
        "validation": keep_last_policy(validation),
        "name": "best-response",
    }
    return run("nash", fit, pi_sft, prompts, judge, cfg, against=against, **how)
