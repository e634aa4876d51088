"""GRPO, RLOO and relatives: policy gradients whose baseline is the rest of the group.

Each round: sample n completions of each prompt; advantage from the group's scores; K passes.

    GRPO       A = (r - mean)/std,  clip .2 .2,  k3 to the reference as a loss   arXiv:2402.03300
    RLOO       A = r - mean of the others, KL in the reward (k1), REINFORCE      arXiv:2402.14740
    Dr. GRPO   A = r - mean, tokens averaged by a constant length                arXiv:2503.20783
    DAPO       clip .2 .28, token average, a soft penalty on overlong answers,
               groups without spread replaced by others                          arXiv:2503.14476
    GSPO       the ratio and its clip are of whole sequences                     arXiv:2507.18071

They are choices of `advantage`, `ratio`, `clip`, `per` and `kl`, not copies: `GRPO_VARIANTS` has
the papers' settings. GRPO's k3 loss has its own optimum, which is not the exponential tilt
(docs/theory/ppo.md#three-estimators-of-the-kl); `kl="reward"` and `kl="k2"` share PPO's.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

from tandem.batching.batch import Batch, Outputs, Terms
from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.engines import Sampling
from tandem.errors import ConfigError
from tandem.errors.ranges import (
    MANY,
    Count,
    NotNegative,
    Number,
    Positive,
    Range,
    Share,
    check_ranges,
)
from tandem.judges import Judge
from tandem.judges.reward_model import reward_judge
from tandem.models.packed import ActorCritic
from tandem.objectives.advantages import group_mean, group_std, has_score_spread, leave_one_out
from tandem.objectives.policy_gradient import kl, ppo_clip, reinforce
from tandem.objectives.shaped_rewards import missing_eos, overlong_penalty
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.context import StageContext, every_rank
from tandem.runs.run import Run
from tandem.training.fitting import open_trained, require_value
from tandem.training.on_policy import train_on_policy
from tandem.training.optim import Optim
from tandem.training.rollout_models import RolloutModels, is_finished
from tandem.training.rollouts import Experience, RolloutConfig, RolloutShape
from tandem.training.validation import Validation

STD_FLOOR = 1e-4
K3 = (
    "the KL is k3 as a loss, as in GRPO's paper: its optimum is pi_ref beta/(beta + E r - r), not "
    "pi_ref exp(r/beta)/Z; kl = reward or k2 have the latter"
)


@dataclass(frozen=True)
class GRPOConfig:
    """Settings of group-baseline policy gradients; defaults are GRPO's (DeepSeekMath).

    >>> GRPOConfig(n=4, advantage="rest", ratio="none").advantage  # RLOO on fresh samples
    'rest'

    Attributes:
        prompts: prompts per round.
        n: completions per prompt, 2 or more.
        rounds: how often to sample.
        inner: passes over a round's samples.
        minibatch: prompts per optimiser step.
        advantage: baseline: group `mean`, group mean over `std`, or mean of the others (`rest`).
        beta: KL coefficient.
        kl: where it acts: in the `reward` (k1), or as a loss `k2` or `k3`, averaged like the
            surrogate; k2 on fresh samples alone.
        ratio: whose probability ratio is clipped; `none` is REINFORCE, on fresh samples alone.
        clip: lower and upper epsilon.
        per: average over tokens, sequences, or a `constant` length (the sampling limit).
        informative: replace groups whose scores are all equal by samples of further prompts, ten
            times at most (DAPO's dynamic sampling).
        overlong: share of the longest answer over whose last tokens a penalty falls to -1 (DAPO:
            0.2); 0 is no penalty.
        no_eos: score of an answer that never ends, in place of its own; None leaves it.
        optim: optimiser and schedule.
    """

    prompts: Count = 64
    n: Annotated[int, Range(2, MANY)] = 8
    rounds: Count = 40
    inner: Count = 1
    minibatch: Count = 64
    advantage: Literal["std", "mean", "rest"] = "std"
    beta: NotNegative = 0.04
    kl: Literal["reward", "k2", "k3"] = "k3"
    ratio: Literal["token", "sequence", "none"] = "token"
    clip: tuple[Positive, Positive] = (0.2, 0.2)
    per: Literal["token", "sequence", "constant"] = "sequence"
    informative: bool = False
    overlong: Share = 0.0
    no_eos: Number | None = None
    optim: Optim = field(default_factory=lambda: Optim(lr=1e-6, schedule="constant"))

    def __post_init__(self) -> None:
        check_ranges(self, "grpo")
        self._check_stale_steps()

    def _check_stale_steps(self) -> None:
        """Refuse losses that are right on fresh samples alone, where a round has several steps."""
        if self.inner == 1 and self.minibatch >= self.prompts:
            return
        steps = f"inner = {self.inner}, prompts = {self.prompts}, minibatch = {self.minibatch}"
        if self.ratio == "none":
            raise ConfigError(
                f"grpo.ratio = none with {steps}",
                "REINFORCE is right on samples of the policy itself, and after a round's first "
                "step they are of an older one",
                f"set inner to 1 and minibatch to {self.prompts}, or ratio to token or sequence",
            )
        if self.kl == "k2" and self.beta:
            raise ConfigError(
                f"grpo.kl = k2 with {steps}",
                "the gradient of k2 is the KL's on samples of the policy itself, and after a "
                "round's first step they are of an older one",
                f"set inner to 1 and minibatch to {self.prompts}, or kl to reward or k3",
            )


GRPO_VARIANTS: dict[str, GRPOConfig] = {
    "grpo": GRPOConfig(),
    "rloo": GRPOConfig(advantage="rest", kl="reward", ratio="none", per="constant", beta=0.05),
    "dr-grpo": GRPOConfig(advantage="mean", per="constant", beta=0.0),
    "dapo": GRPOConfig(clip=(0.2, 0.28), per="token", beta=0.0, informative=True, overlong=0.2),
    "gspo": GRPOConfig(ratio="sequence", clip=(3e-4, 4e-4), beta=0.0),
}


class GRPOAlgorithm:
    """Experience and loss of a group-baseline policy gradient.

    Args:
        models: the opened policy, reference and reward.
        cfg: the variant's settings.
        longest: the most tokens that an answer may have; Dr. GRPO divides by it.
    """

    is_policy_gradient = True

    def __init__(self, models: RolloutModels, cfg: GRPOConfig, longest: int) -> None:
        self.models, self.cfg, self.longest = models, cfg, longest
        self.controllers: dict[str, Any] = {}
        # REINFORCE sums over tokens (arXiv:2402.14740); Dr. GRPO divides by the longest answer
        self.length = 1.0 if cfg.ratio == "none" else float(longest)

    def experience(self, groups: list[Group]) -> Experience:
        """Score the group and centre it."""
        cfg, models = self.cfg, self.models
        asked = len(groups)
        groups = self.judge_samples(groups)
        score = missing_eos(models.scores(groups), is_finished(groups), replace=cfg.no_eos)
        old, _ = models.old_logprobs(groups)
        score = score + self.length_penalty(old.count())
        ref = models.ref_logprobs(groups)
        r = score - cfg.beta * (old - ref).sum() if cfg.kl == "reward" else score
        group = _group(groups)
        A = r - (leave_one_out(r, group) if cfg.advantage == "rest" else group_mean(r, group))
        if cfg.advantage == "std":
            A = A / (group_std(r, group) + STD_FLOOR)
        metrics = models.metrics(groups, score, old, ref)
        metrics["spread"] = float(group_std(score, group).mean())
        if asked > len(groups):
            metrics["unrated"] = float(asked - len(groups))
        columns = {"old_logp": old, "ref_logp": ref, "advantages": old.expand(A)}
        return Experience(groups, columns, metrics)

    def judge_samples(self, groups: list[Group]) -> list[Group]:
        """Return the groups with the judge's scores; those whose rating failed are left out."""
        fewest = -(-self.cfg.prompts // self.cfg.minibatch)
        return self.models.judge(groups, fewest=min(fewest, len(groups)))

    def length_penalty(self, length: Tensor) -> Tensor:
        """[N] what answers of these lengths lose, from 0 to -1."""
        if not self.cfg.overlong:
            return torch.zeros_like(length)
        buffer = max(1, round(self.cfg.overlong * self.longest))
        return overlong_penalty(length, limit=self.longest, buffer=buffer)

    def loss(self, out: Outputs, batch: Batch) -> dict[str, Terms]:
        """Clipped surrogate or REINFORCE, and the KL where it is a loss."""
        cfg = self.cfg
        logp, A = require_value(out.logp), require_value(batch.advantages)
        if cfg.ratio == "none":
            surrogate = reinforce(logp, A, per=cfg.per, length=self.length)
        else:
            low, high = cfg.clip
            surrogate = ppo_clip(
                logp,
                require_value(batch.old_logp),
                A,
                clip_low=low,
                clip_high=high,
                ratio=cfg.ratio,
                per=cfg.per,
                length=self.length,
            )
        terms = {"policy": surrogate}
        if cfg.beta and cfg.kl != "reward":
            penalty = kl(
                logp,
                require_value(batch.ref_logp),
                estimator=cfg.kl,
                ratio="sequence" if cfg.kl == "k2" else "token",
                per=cfg.per,
                length=self.length,
            )
            terms["kl"] = penalty._replace(loss=cfg.beta * penalty.loss)
        return terms


class SelectiveGRPO(GRPOAlgorithm):
    """The same on groups whose scores differ; a group of equal scores has no gradient.

    Scores are the judge's own, before penalties for length: DAPO tells prompts that are always or
    never solved by what was solved.
    """

    def __init__(self, models: RolloutModels, cfg: GRPOConfig, longest: int) -> None:
        super().__init__(models, cfg, longest)
        self._seen = self._kept = 0

    def part_groups(self, groups: list[Group]) -> tuple[list[Group], list[Group]]:
        """Judge fresh samples; return the groups in which scores differ, and the others."""
        judged = super().judge_samples(groups)
        spread = has_score_spread(self.models.scores(judged), _group(judged))
        first = np.cumsum([0, *map(len, judged)])[:-1].tolist()
        differs = [bool(spread[at]) for at in first]
        self._seen, self._kept = self._seen + len(judged), self._kept + sum(differs)
        kept = [g for g, yes in zip(judged, differs, strict=True) if yes]
        return kept, [g for g, yes in zip(judged, differs, strict=True) if not yes]

    def judge_samples(self, groups: list[Group]) -> list[Group]:
        """Return the groups: `part_groups` has judged them."""
        return groups

    def experience(self, groups: list[Group]) -> Experience:
        """Also log the share of the round's samples that were kept."""
        found = super().experience(groups)
        share = self._kept / max(1, self._seen)
        self._seen = self._kept = 0
        return replace(found, metrics={**found.metrics, "informative": share})


def _group(groups: list[Group]) -> Tensor:
    """[N] the group of each completion."""
    sizes = torch.tensor([len(g) for g in groups])
    return torch.repeat_interleave(torch.arange(len(groups)), sizes)


@every_rank
def fit(
    init: Checkpoint,
    prompts: Groups,
    reward: Judge,
    cfg: GRPOConfig = GRPOConfig(),
    *,
    ref: Checkpoint | None = None,
    sampling: Sampling = Sampling(),
    validation: Validation | None = None,
    name: str = "GRPO",
    ctx: StageContext,
) -> Checkpoint:
    """Train a policy on its own samples to raise a reward, with GRPO or a relative of it.

        policy = run("grpo", grpo.fit, pi_sft, prompts, RewardModel(r_phi), GRPO_VARIANTS["dapo"])

    Where the KL is k3 as a loss, the events say that its optimum is another than PPO's.

    Args:
        init: the policy to start from.
        prompts: tokenised prompts to be answered.
        reward: a scoring judge.
        cfg: baseline, ratio, KL and optimiser.
        ref: the frozen reference policy; `init` by default.
        sampling: how episodes are drawn: whole distributions, temperature above 0.
        validation: held-out prompts and judges, or None; see `Validation`.
        name: the trained policy's name in tables and in `Completion.author`.

    Raises:
        ConfigError: the episodes would be greedy or truncated; or rollouts were to run ahead of a
            k2 loss, which is right on fresh samples alone.
        JudgeError: the reward wrote no score, or one that is not a number.
    """
    if ctx.machine.rollouts_ahead and cfg.kl == "k2" and cfg.beta:
        raise ConfigError(
            "machine.rollouts_ahead = true with grpo.kl = k2",
            "the gradient of k2 is the KL's on samples of the policy itself, and those of an "
            "older one are weighed in the surrogate alone",
            "leave machine.rollouts_ahead out, or set grpo.kl to reward or k3",
        )
    shape = RolloutShape(cfg.prompts, cfg.n, cfg.rounds, cfg.inner, cfg.minibatch)
    rollout = RolloutConfig(shape, sampling, validation)
    if cfg.kl == "k3" and cfg.beta:
        ctx.events.log("estimator", kl="k3", text=K3)
    policy = ActorCritic(open_trained(init, ctx))
    models = RolloutModels.open(policy, init, reward, ref=ref, sampling=sampling, ctx=ctx)
    kind = SelectiveGRPO if cfg.informative else GRPOAlgorithm
    algorithm = kind(models, cfg, sampling.max_tokens)
    return train_on_policy(
        models, algorithm, prompts, rollout, cfg.optim, init=init, name=name, ctx=ctx
    )


def recipe(
    run: Run,
    pi_sft: Checkpoint,
    prompts: Groups,
    r_phi: Checkpoint | Judge,
    sampling: Sampling,
    validation: Validation | None,
    cfg: GRPOConfig = GRPOConfig(),
) -> Checkpoint:
    """Prompts and a reward in, a policy out."""
    return run(
        "grpo",
        fit,
        pi_sft,
        prompts,
        reward_judge(r_phi),
        cfg,
        sampling=sampling,
        validation=validation,
    )
