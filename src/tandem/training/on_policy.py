"""On-policy training: what every method does that learns from its own samples.

Sample from the policy, score, take gradient steps, repeat; validate; save the best policy. A
method brings its `Algorithm`: from samples to frozen columns, and from columns to a loss.
"""

from __future__ import annotations

from tandem.data.groups import Groups
from tandem.engines.open_engine import open_engine
from tandem.errors import ConfigError
from tandem.models.packed import PackedModel
from tandem.models.tokenizers import load_tokenizer
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.context import StageContext
from tandem.training.fitting import save_checkpoint
from tandem.training.loop import train
from tandem.training.optim import Optim
from tandem.training.rollout_models import RolloutModels
from tandem.training.rollouts import Algorithm, RolloutConfig, RolloutSource
from tandem.training.validator import Validator


def train_on_policy(
    models: RolloutModels,
    algorithm: Algorithm,
    prompts: Groups,
    rollout: RolloutConfig,
    optim: Optim,
    *,
    init: Checkpoint,
    name: str,
    ctx: StageContext,
    mixture: tuple[PackedModel, float] | None = None,
) -> Checkpoint:
    """Sample from the policy, score, take gradient steps, repeat; save the best policy or the last.

        models = RolloutModels.open(policy, init, reward, ref=None, sampling=sampling, ctx=ctx)
        rollout = RolloutConfig(RolloutShape(64, 8, 40, 1, 64), sampling, validation)
        train_on_policy(
            models, GRPOAlgorithm(models, cfg, sampling.max_tokens), prompts, rollout, cfg.optim,
            init=init, name="GRPO", ctx=ctx,
        )

    Args:
        models: the policy that is trained, its frozen reference, and the reward.
        algorithm: turns samples into advantages, and advantages into a loss.
        prompts: tokenised; every round samples the next of them.
        rollout: how much, how, and how it is validated; `validation.choose` names the judge whose
            best policy is saved.
        optim: optimiser and schedule.
        init: the checkpoint that the policy was opened from; its tokenizer is saved with the
            result.
        name: the saved policy's name in tables.
        ctx: the stage.
        mixture: (other, share) to learn from samples of the geometric mixture with another model,
            token by token; the policy alone is validated.

    Raises:
        ConfigError: rollouts were to run ahead of a loss that cannot weigh what an older policy
            drew.
    """
    if ctx.machine.rollouts_ahead and not getattr(algorithm, "is_policy_gradient", False):
        raise refuse_rollouts_ahead(name)
    tokenizer, actor = load_tokenizer(init.path), models.policy.actor
    engine = open_engine(actor, tokenizer, ctx.machine, name=name, mixture=mixture)
    validator = None
    if rollout.validation is not None:
        alone = engine
        if mixture is not None:
            alone = open_engine(actor, tokenizer, ctx.machine, name=name)
        validator = Validator(rollout.validation, models, alone, rollout, ctx)
    layout = models.policy.layout
    rollouts = RolloutSource(prompts, engine, algorithm, rollout, layout, ctx, validator)
    train(models.policy, rollouts, algorithm.loss, optim, ctx)
    if validator is not None:
        validator.restore_best(models.policy)
    return save_checkpoint(models.policy, init, ctx, name)


def refuse_rollouts_ahead(method: str) -> ConfigError:
    """Say why a method's samples are drawn by the policy as it is."""
    return ConfigError(
        f"machine.rollouts_ahead = true for {method}",
        "samples of an older policy are weighed by the ratio of the two laws, and a loss that is "
        "no policy gradient has no place for the weight",
        "leave machine.rollouts_ahead out",
    )
