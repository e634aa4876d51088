"""PPO with a KL penalty on a learned reward, as InstructGPT's line of papers writes it.

    max E_{x ~ U, y ~ pi_theta} [ r_phi(x, y) - beta KL(pi_theta || pi_ref) ]

Each round: sample y ~ pi_old; R_t = -beta (log pi_old - log pi_ref)(y_t), plus r_phi(x, y) at the
last token; GAE; whiten; K passes of the clipped surrogate and the clipped value loss. The value
function is a trunk of its own that starts as the reward model (docs/adr/0009). See
docs/theory/ppo.md.

Departures: defaults are AlpacaFarm's (the baseline of RLP), but the log-ratio is not clamped at
0, because the clamp moves the optimum; and where a judge of the validation chooses, the exported
policy is the best by that judge, not the last.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from tandem.batching.batch import Batch, Outputs, Terms
from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.engines import Sampling
from tandem.errors import ConfigError
from tandem.errors.ranges import Count, NotNegative, Number, Positive, Share, check_ranges
from tandem.judges import Judge
from tandem.judges.reward_model import reward_judge, reward_models
from tandem.models import loading
from tandem.models.opening import open_scalar
from tandem.models.packed import ActorCritic
from tandem.models.tokenizers import same_tokens
from tandem.objectives.advantages import explained_variance, gae, whiten
from tandem.objectives.kl_controller import AdaptiveBeta
from tandem.objectives.policy_gradient import ppo_clip, value_clip
from tandem.objectives.shaped_rewards import kl_shaping, missing_eos
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.context import StageContext, every_rank
from tandem.runs.run import Run
from tandem.training.fitting import open_trained, require_value
from tandem.training.on_policy import train_on_policy
from tandem.training.optim import Optim
from tandem.training.rollout_models import RolloutModels, is_finished
from tandem.training.rollouts import Experience, RolloutConfig, RolloutShape
from tandem.training.validation import Validation


@dataclass(frozen=True)
class PPOConfig:
    """Settings of PPO; defaults are AlpacaFarm's simulated ones.

    >>> PPOConfig(beta=0.05, rounds=20).beta
    0.05
    >>> policy = recipe(run, pi_sft, r_phi, prompts, ...)  # doctest: +SKIP

    Attributes:
        prompts: episodes per round.
        rounds: how often to sample.
        inner: passes over a round's episodes.
        minibatch: episodes per optimiser step.
        beta: KL coefficient, in nats of the whole sequence.
        kl_target: adapt beta to hold the KL near this many nats; None keeps it fixed.
        kl_horizon: episodes over which an adaptive beta can change by a fifth.
        kl_floor: clamp of the log-ratio from below; 0.0 reproduces AlpacaFarm.
        gamma: discount.
        lam: GAE's lambda.
        clip: epsilon of the ratio.
        value_clip: epsilon of the value; None does not clip.
        value_weight: share of the value loss.
        value: a `separate` trunk that starts as the (first) reward model, or as the policy where
            there is none in the policy's tokens; or a head `shared` with the policy.
        whiten_rewards: scale rewards by their spread, mean kept.
        whiten_advantages: shift and scale advantages over the whole round.
        no_eos: score of an answer that never ends, in place of its own; None leaves it.
        no_eos_penalty: what is subtracted from it instead; None subtracts nothing.
        optim: optimiser and schedule.
    """

    prompts: Count = 512
    rounds: Count = 40
    inner: Count = 2
    minibatch: Count = 256
    beta: NotNegative = 0.0067
    kl_target: Positive | None = None
    kl_horizon: Positive = 10_000.0
    kl_floor: Number | None = None
    gamma: Share = 1.0
    lam: Share = 1.0
    clip: Positive = 0.2
    value_clip: Positive | None = 0.2
    value_weight: NotNegative = 0.1
    value: Literal["separate", "shared"] = "separate"
    whiten_rewards: bool = True
    whiten_advantages: bool = True
    no_eos: Number | None = None
    no_eos_penalty: Number | None = None
    optim: Optim = field(default_factory=lambda: Optim(lr=1e-5, schedule="linear", eps=1e-5))

    def __post_init__(self) -> None:
        check_ranges(self, "ppo")
        if self.beta < 0 or (self.kl_target is not None and not self.beta > 0):
            raise ConfigError(
                f"ppo.beta = {self.beta}",
                "below 0 it pays the policy for leaving the reference, and an adaptive beta "
                "changes by factors",
                "set beta to 0 or more, above 0 with a kl_target",
            )
        if self.no_eos is not None and self.no_eos_penalty is not None:
            raise ConfigError(
                f"ppo.no_eos = {self.no_eos} with ppo.no_eos_penalty = {self.no_eos_penalty}",
                "they are two rules for the same answers, and one would undo the other",
                "set one of them to None",
            )


class PPOAlgorithm:
    """PPO's experience and loss."""

    is_policy_gradient = True

    def __init__(self, models: RolloutModels, cfg: PPOConfig) -> None:
        self.models, self.cfg = models, cfg
        self.controllers: dict[str, Any] = {}
        if cfg.kl_target is not None:
            self.controllers["beta"] = AdaptiveBeta(cfg.beta, cfg.kl_target, cfg.kl_horizon)

    def experience(self, groups: list[Group]) -> Experience:
        """Score, shape, estimate advantages: everything frozen before the first gradient."""
        cfg, models = self.cfg, self.models
        asked = len(groups)
        groups = models.judge(groups, fewest=-(-cfg.prompts // cfg.minibatch))
        r = models.scores(groups)
        r = missing_eos(r, is_finished(groups), replace=cfg.no_eos, penalty=cfg.no_eos_penalty)
        old, V = models.old_logprobs(groups)
        V = require_value(V)
        ref = models.ref_logprobs(groups)
        controller = self.controllers.get("beta")
        beta = cfg.beta if controller is None else controller.beta
        R = kl_shaping(r, old, ref, beta, floor=cfg.kl_floor)
        A, G = gae(whiten(R, shift=False) if cfg.whiten_rewards else R, V, cfg.gamma, cfg.lam)
        metrics = models.metrics(groups, r, old, ref)
        if asked > len(groups):
            metrics["unrated"] = float(asked - len(groups))
        metrics |= {"beta": beta, "explained_variance": float(explained_variance(V, G))}
        if controller is not None:
            controller.update(metrics["kl"], len(r))
        A = whiten(A) if cfg.whiten_advantages else A
        return Experience(
            groups, {"old_logp": old, "advantages": A, "returns": G, "old_values": V}, metrics
        )

    def loss(self, out: Outputs, batch: Batch) -> dict[str, Terms]:
        """Clipped surrogate and clipped value loss."""
        cfg = self.cfg
        logp, value = require_value(out.logp), require_value(out.value)
        old, A = require_value(batch.old_logp), require_value(batch.advantages)
        V, G = require_value(batch.old_values), require_value(batch.returns)
        L_pg = ppo_clip(logp, old, A, clip_low=cfg.clip, clip_high=cfg.clip)
        L_v = value_clip(value, V, G, clip=cfg.value_clip)
        return {"policy": L_pg, "value": L_v._replace(loss=cfg.value_weight * L_v.loss)}


@every_rank
def fit(
    init: Checkpoint,
    prompts: Groups,
    reward: Judge,
    cfg: PPOConfig = PPOConfig(),
    *,
    ref: Checkpoint | None = None,
    sampling: Sampling = Sampling(),
    validation: Validation | None = None,
    name: str = "PPO",
    ctx: StageContext,
) -> Checkpoint:
    """Train a policy on its own samples to raise a reward, with PPO.

        policy = run("ppo", ppo.fit, pi_sft, prompts, RewardModel(r_phi), PPOConfig(rounds=20))

    Args:
        init: the policy to start from.
        prompts: tokenised prompts to be answered.
        reward: a scoring judge.
        cfg: rounds, KL, clips and optimiser.
        ref: the frozen reference policy; `init` by default.
        sampling: how episodes are drawn: whole distributions, temperature above 0.
        validation: held-out prompts and judges, or None; see `Validation`.
        name: the trained policy's name in tables and in `Completion.author`.

    Raises:
        ConfigError: the episodes would be greedy or truncated.
        JudgeError: the reward wrote no score, or one that is not a number.
    """
    shape = RolloutShape(cfg.prompts, 1, cfg.rounds, cfg.inner, cfg.minibatch)
    rollout = RolloutConfig(shape, sampling, validation)
    policy = actor_critic(init, reward, cfg, ctx)
    models = RolloutModels.open(policy, init, reward, ref=ref, sampling=sampling, ctx=ctx)
    algorithm = PPOAlgorithm(models, cfg)
    return train_on_policy(
        models, algorithm, prompts, rollout, cfg.optim, init=init, name=name, ctx=ctx
    )


def actor_critic(
    init: Checkpoint,
    reward: Judge,
    cfg: PPOConfig,
    ctx: StageContext,
) -> ActorCritic:
    """Open the policy with its value function, whose head starts at zero.

    A value function reads the policy's tokens, so it cannot start from a reward model of another
    tokenizer; then, and where the reward is no model, it starts from the policy, and says so.
    """
    policy = open_trained(init, ctx)
    if cfg.value == "shared":
        policy.heads["value"] = loading.value_head(policy.inner).to(policy.device)
        return ActorCritic(policy)
    full = replace(ctx.machine, lora=None, quantise="none")  # all its weights are trained
    ours = [c for c in reward_models(reward) if same_tokens(init.path, c.path)]
    fresh = None if ours else ctx.seed.at("critic")
    start = ours[0] if ours else init
    ctx.events.log("value", text=f"the value function starts from {start}, its head at zero")
    critic = open_scalar(start.path, full, fresh=fresh, train=True)
    critic.inner.score.requires_grad_(False)  # type: ignore[union-attr]
    critic.heads["value"] = loading.value_head(critic.inner).to(critic.device)
    return ActorCritic(policy, critic)


def recipe(
    run: Run,
    pi_sft: Checkpoint,
    prompts: Groups,
    r_phi: Checkpoint | Judge,
    sampling: Sampling,
    validation: Validation | None,
    cfg: PPOConfig = PPOConfig(),
) -> Checkpoint:
    """Prompts and a reward in, a policy out."""
    return run(
        "ppo",
        fit,
        pi_sft,
        prompts,
        reward_judge(r_phi),
        cfg,
        sampling=sampling,
        validation=validation,
    )
