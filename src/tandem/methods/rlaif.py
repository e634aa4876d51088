"""RLAIF: a language model labels the pairs. Lee et al. 2023, arXiv:2309.00267.

    1. y1, y2 ~ pi_sft                                    two responses a prompt
    2. p = 1/2 [P("(A)" | y1, y2) + P("(B)" | y2, y1)]    soft label, both orders averaged
    3. r_phi: cross-entropy on p
    4. pi_theta: PPO on r_phi minus KL                    or DPO on the pairs

d-RLAIF leaves 1-3 out: PPO asks the language model for a number from 1 to 10 about every episode.

Departures: PPO stands for the paper's REINFORCE with a value baseline; DPO on the pairs is ours;
"(A)" and "(B)" stand for its "1" and "2"; the exported policy is the last one and not the best by
held-out human labels, because none are supposed to be there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from tandem.data.groups import Groups
from tandem.engines import Sampling
from tandem.errors.ranges import Count, check_ranges
from tandem.judges.ai_feedback import AIFeedback
from tandem.judges.llm import Rater
from tandem.judges.position_bias import position_bias
from tandem.judges.reward_model import RewardModel
from tandem.judges.templates import FeedbackFormats
from tandem.methods import dpo, ppo, reward
from tandem.methods.configs import SHARED
from tandem.methods.dpo import DPOConfig
from tandem.methods.ppo import PPOConfig
from tandem.methods.reward import RewardConfig
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.run import Run
from tandem.stages.judging import judge
from tandem.stages.sampling import sample
from tandem.training.validation import Validation, keep_last_policy


@dataclass(frozen=True)
class RLAIFConfig:
    """Settings of RLAIF; asking's orders and average are the paper's.

    >>> RLAIFConfig(pairs=500, learn="dpo").learn
    'dpo'

    Attributes:
        asking: which language model labels, and how.
        pairs: prompts that are sampled twice and labelled, the first ones; None takes all, and
            d-RLAIF none.
        learn: what is made of the labels: ppo on a reward model, dpo, or direct (d-RLAIF).
        reward: the reward model's settings.
        ppo: PPO's settings; the paper has a KL coefficient of .05 and a learning rate of 1e-5.
        dpo: DPO's settings.
    """

    chooses_policy: ClassVar[bool] = False
    """No human label chooses, where none are supposed to be there: the last policy is kept."""

    asking: AIFeedback = field(default=AIFeedback())
    pairs: Count | None = None
    learn: Literal["ppo", "dpo", "direct"] = "ppo"
    reward: RewardConfig = field(default_factory=RewardConfig, metadata=SHARED)
    ppo: PPOConfig = field(default_factory=PPOConfig, metadata=SHARED)
    dpo: DPOConfig = field(default_factory=DPOConfig, metadata=SHARED)

    def __post_init__(self) -> None:
        check_ranges(self, "rlaif")

    @property
    def unread(self) -> frozenset[str]:
        """Validation is of policies that sample while they train; DPO does not."""
        return frozenset({"validation"}) if self.learn == "dpo" else frozenset()


def recipe(
    run: Run,
    base: Checkpoint,
    pi_sft: Checkpoint,
    prompts: Groups,
    formats: FeedbackFormats,
    sampling: Sampling,
    validation: Validation | None,
    cfg: RLAIFConfig = RLAIFConfig(),
) -> Checkpoint:
    """Prompts and a language model in, a policy out; no human label."""
    if cfg.learn == "direct":
        rater = Rater(cfg.asking.lm(base), formats.rate)
        return ppo_on(run, pi_sft, prompts, rater, cfg, sampling, validation, "d-RLAIF")
    labeller = cfg.asking.labeller(base, formats.compare, formats.principles)
    pairs = run("ai-pairs", sample, pi_sft, prompts[: cfg.pairs], n=2, sampling=sampling)  # 1
    D_ai = run("ai-labels", judge, pairs, labeller)  # 2
    run("ai-labelling", position_bias, D_ai)
    return fit_policy(run, pi_sft, prompts, D_ai, cfg, sampling, validation)  # 3, 4


def fit_policy(
    run: Run,
    pi: Checkpoint,
    prompts: Groups,
    D: Groups,
    cfg: RLAIFConfig,
    sampling: Sampling,
    validation: Validation | None,
    name: str = "RLAIF",
) -> Checkpoint:
    """Make a policy of soft labels: DPO, or a reward model and PPO."""
    if cfg.learn == "dpo":
        return run("policy", dpo.fit, pi, D, cfg.dpo, name=name)
    r_phi = run("ai-reward", reward.fit, pi, D, cfg.reward, name="ai-reward")
    return ppo_on(run, pi, prompts, RewardModel(r_phi), cfg, sampling, validation, name)


def ppo_on(
    run: Run,
    pi: Checkpoint,
    prompts: Groups,
    r: RewardModel | Rater,
    cfg: RLAIFConfig,
    sampling: Sampling,
    validation: Validation | None,
    name: str,
) -> Checkpoint:
    """Train with PPO on a reward without human labels; human judges only validate."""
    last = keep_last_policy(validation)
    return run(
        "policy", ppo.fit, pi, prompts, r, cfg.ppo, sampling=sampling, validation=last, name=name
    )
