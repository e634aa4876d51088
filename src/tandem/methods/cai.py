"""Constitutional AI: harmlessness from principles. Bai et al. 2022, arXiv:2212.08073.

Stage 1, supervised (section 3):

    1. y_0: the helpful model's response to a red-team prompt
    2. K times: sample a principle; critique y_{k-1} by it; revise -> y_k
    3. SFT of the base on y_1, ..., y_K and on the helpful model's own helpful responses

Stage 2, RLAIF (section 4), from SL-CAI:

    4. two responses of SL-CAI to red-team prompts, compared by the principles: soft labels
    5. one preference model on these and on human comparisons of helpfulness
    6. PPO on it                                          or DPO on the comparisons, which is ours

See docs/theory/ai_feedback.md#constitutional-ai. Departures: the base criticises, revises and
compares unless `asking.model` is another, and not the helpful model; each round is a conversation
of its own (prompt, the answer as it is now, critique, revision), where the paper's grows; labels
are averaged over all principles and both orders, where the paper draws one principle for each pair;
our constitution (`Formats.constitution`) has 4 principles, the paper's 16; SFT takes its own number
of epochs, 3 unless set, the paper 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from tandem.data.groups import Groups
from tandem.engines import Sampling
from tandem.errors import ConfigError
from tandem.errors.ranges import Count, check_ranges
from tandem.judges.position_bias import position_bias
from tandem.judges.templates import FeedbackFormats
from tandem.methods import sft
from tandem.methods.configs import SHARED
from tandem.methods.rlaif import RLAIFConfig, fit_policy
from tandem.methods.sft import SFTConfig
from tandem.operators import asks
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.run import Run
from tandem.stages.encoding import encode
from tandem.stages.judging import judge
from tandem.stages.revise import revise
from tandem.stages.sampling import sample
from tandem.stages.selection import select
from tandem.training.validation import Validation


@dataclass(frozen=True)
class CAIConfig:
    """Settings of constitutional AI; K is the paper's.

    >>> CAIConfig(K=1, learn="sl").K  # one revision of each response, and no RLAIF
    1

    Attributes:
        K: critiques and revisions of each response.
        learn: `rl` goes on to stage 2; `sl` stops at SL-CAI.
        helpful: helpful responses to each helpful prompt, mixed into stage 1.
        sft: settings of stage 1.
        rlaif: who criticises, revises and compares, and the settings of stage 2: `pairs` counts
            red-team prompts; `learn` is ppo or dpo.
    """

    chooses_policy: ClassVar[bool] = False
    """No human label chooses, where none are supposed to be there: the last policy is kept."""

    K: Count = 4
    learn: Literal["rl", "sl"] = "rl"
    helpful: Count = 1
    sft: SFTConfig = field(default_factory=SFTConfig, metadata=SHARED)
    rlaif: RLAIFConfig = field(default_factory=RLAIFConfig, metadata=SHARED)

    def __post_init__(self) -> None:
        check_ranges(self, "cai")
        if self.learn == "rl" and self.rlaif.learn == "direct":
            raise ConfigError(
                "rlaif.learn = 'direct' with cai.learn = 'rl'",
                "stage 2 learns from comparisons, AI and human ones together, and d-RLAIF has none",
                "give rlaif.learn = 'ppo' or 'dpo', or stop at SL-CAI with cai.learn = 'sl'",
            )

    @property
    def unread(self) -> frozenset[str]:
        """Validation, where no stage samples while it trains."""
        return frozenset({"validation"}) if self.learn == "sl" else self.rlaif.unread


def recipe(
    run: Run,
    base: Checkpoint,
    pi_sft: Checkpoint,
    D: Groups,
    prompts: Groups,
    formats: FeedbackFormats,
    sampling: Sampling,
    validation: Validation | None,
    cfg: CAIConfig = CAIConfig(),
) -> Checkpoint:
    """A helpful model, prompts of both kinds and principles in, a harmless one out."""
    asking, principles = cfg.rlaif.asking, formats.constitution
    red_team = run("red-team", select, prompts, asks("harmful"))
    helpful = run("helpful", select, prompts, asks("harmful", False))
    y_0 = run("responses", sample, pi_sft, red_team, n=1, sampling=sampling)  # 1
    lm = asking.lm(base)
    y_K = run("revisions", revise, y_0, lm, formats, K=cfg.K, sampling=sampling)  # 2
    y_K = run("revisions-encoded", encode, y_K, base)
    kept = run("helpful-responses", sample, pi_sft, helpful, n=cfg.helpful, sampling=sampling)
    sl_cai = run("sl-cai", sft.fit, base, y_K + kept, cfg.sft, name="SL-CAI")  # 3
    if cfg.learn == "sl":
        return sl_cai
    labeller = asking.labeller(base, formats.compare, principles)
    pairs = run("ai-pairs", sample, sl_cai, red_team[: cfg.rlaif.pairs], n=2, sampling=sampling)
    D_harmless = run("ai-labels", judge, pairs, labeller)  # 4
    run("ai-labelling", position_bias, D_harmless)
    D_helpful = run("helpful-preferences", select, D, asks("harmful", False))
    both = D_harmless + D_helpful  # 5
    return fit_policy(run, sl_cai, prompts, both, cfg.rlaif, sampling, validation, "RL-CAI")  # 6
