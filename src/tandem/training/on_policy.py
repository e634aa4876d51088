"""Climbing a reward: what every on-policy method does besides its algorithm.

Opens the policy, its reference and its judges once; samples, trains, watches; exports the actor.
A method brings its `Algorithm`: samples to frozen columns, and columns to a loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from tandem.batching.batch import Batch, Outputs, Terms
from tandem.batching.ragged import Ragged
from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.engines import Sampling
from tandem.engines.torch import TorchEngine
from tandem.errors import ConfigError, JudgeError
from tandem.judges import Judge, open_judge
from tandem.judges.reward_model import reward_models
from tandem.machine import Machine
from tandem.models.forward import forward_groups
from tandem.models.opening import open_policy
from tandem.models.packed import ActorCritic, PackedModel
from tandem.models.saving import save_model
from tandem.models.tokenizers import load_tokenizer, same_tokens
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.context import StageContext
from tandem.runs.events import Events
from tandem.training.loop import train
from tandem.training.optim import Optim
from tandem.training.rollouts import Experience, RolloutShape, RolloutSource
from tandem.training.validation import Validation, Validator


@dataclass(frozen=True)
class RolloutModels:
    """Who takes part: the trained policy, the frozen reference, the reward, and the machine."""

    policy: ActorCritic
    pi_ref: PackedModel
    reward: Callable[[Iterable[Group]], Iterator[Group]]
    machine: Machine

    def scores(self, groups: Sequence[Group]) -> Tensor:
        """[N] scores of all completions of judged groups.

        Raises:
            JudgeError: the judge wrote none, or what it wrote is not a number.
        """
        for group in groups:
            if group.scores is None:
                raise JudgeError(
                    f"the reward wrote no scores for group `{group.id}`",
                    "a policy climbs numbers, and preferences alone are none",
                    "use a scoring judge: a reward model, a programmatic truth",
                )
            if not np.isfinite(group.scores).all():
                raise JudgeError(
                    f"the reward scored an answer to `{group.id}` with {group.scores}",
                    "one score that is not a number spoils the advantages of the whole round",
                    "look at the answer: an empty one, or one longer than the judge can read?",
                )
        return torch.from_numpy(np.concatenate([g.scores for g in groups])).float()  # type: ignore[arg-type]

    def old(self, groups: list[Group]) -> tuple[Ragged, Ragged | None]:
        """log pi_old, and V where there is a value function, at every token."""
        readings = [r for _, r in forward_groups(self.policy, groups, self.machine.tokens)]
        value = [r.value for r in readings if r.value is not None]
        return mean_over_ranks([r.logp or () for r in readings]), mean_over_ranks(
            value
        ) if value else None

    def ref(self, groups: list[Group]) -> Ragged:
        """log pi_ref at every token."""
        return mean_over_ranks(
            [r.logp or () for _, r in forward_groups(self.pi_ref, groups, self.machine.tokens)]
        )

    def numbers(self, groups: list[Group], r: Tensor, old: Ragged, ref: Ragged) -> dict[str, float]:
        """The dials of every round, see docs/metrics.md."""
        stopped = [c.stopped for g in groups for c in g.completions]
        drawn = mean_over_ranks(
            [[c.logp for c in g.completions if c.logp is not None] for g in groups]
        )
        return {
            "proxy": float(r.mean()),
            "kl": float((old - ref).sum().mean()),
            "entropy": float(-old.values.mean()),
            "length": float(old.count().mean()),
            "stopped": float(np.mean(stopped)),
            "mismatch": float((drawn - old).values.abs().mean()),
        }


class Algorithm(Protocol):
    """What makes a method: its experience and its loss."""

    def experience(self, groups: list[Group]) -> Experience:
        """Turn fresh samples into frozen columns."""
        ...

    def loss(self, out: Outputs, batch: Batch) -> dict[str, Terms]:
        """The terms that are minimised."""
        ...


def train_on_policy(
    policy: ActorCritic,
    init: Checkpoint,
    prompts: Groups,
    reward: Judge,
    algorithm: Callable[[RolloutModels], Algorithm],
    shape: RolloutShape,
    optim: Optim,
    *,
    ref: Checkpoint | None,
    sampling: Sampling,
    validation: Validation | None,
    name: str,
    ctx: StageContext,
) -> Checkpoint:
    """Train a policy on its own samples and export it.

    Args:
        policy: the opened policy; its temperature is set to the sampling temperature.
        init: where it came from; the reference unless `ref` is given.
        prompts: U, tokenised.
        reward: a scoring judge.
        algorithm: builds the method's algorithm on the cast.
        shape: prompts, completions, rounds, epochs, minibatches.
        sampling: sampling of the episodes.
        validation: held-out signals, or None.

    Raises:
        ConfigError: the episodes are greedy or truncated.
    """
    _check_sampling(sampling)
    _log_other_tokenizer(reward, init, ctx.events)
    policy.actor.temperature = sampling.temperature
    pi_ref = open_policy((ref or init).path, replace(ctx.machine, lora=None))
    pi_ref.temperature = sampling.temperature
    cast = RolloutModels(policy, pi_ref, open_judge(reward, ctx.machine), ctx.machine)
    method = algorithm(cast)
    tokenizer = load_tokenizer(init.path)
    engine = TorchEngine(
        policy.actor.lm,
        tokenizer,
        dtype=policy.actor.dtype,
        name=name,
        compiled=ctx.machine.compiled,
    )
    watch = validation and _open_validator(validation, cast, engine, shape, sampling, ctx)
    source = RolloutSource(
        prompts,
        engine,
        _actor_of,
        method.experience,
        shape,
        sampling=sampling,
        seed=ctx.seed,
        layout=policy.layout,
        tokens=ctx.machine.tokens,
        events=ctx.events,
        watch=watch,
        controllers=getattr(method, "controllers", {}),
    )
    train(policy, source, method.loss, optim, ctx)
    if watch is not None and (best := watch.restore(policy)) is not None:
        ctx.events.log("chosen", **best)
    save_model(policy.actor.lm, tokenizer, ctx.out)
    return Checkpoint(ctx.out, name)


def _open_validator(
    validation: Validation,
    cast: RolloutModels,
    engine: TorchEngine,
    shape: RolloutShape,
    sampling: Sampling,
    ctx: StageContext,
) -> Validator:
    """Open the judges that look on."""
    judges = {column: open_judge(j, ctx.machine) for column, j in validation.judges}
    return Validator(
        validation.prompts,
        engine,
        _actor_of,
        {"proxy": cast.reward, **judges},
        cast.pi_ref,
        sampling=sampling,
        seed=ctx.seed.at("watch"),
        every=validation.every,
        rounds=shape.rounds,
        tokens=ctx.machine.tokens,
        events=ctx.events,
        choose=validation.choose,
        patience=validation.patience,
        keep=ctx.scratch / "best",
    )


def mean_over_ranks(rows: Sequence[Sequence[Any]]) -> Ragged:
    """Join per-group, per-completion arrays into one ragged column over all completions."""
    return Ragged.of([torch.from_numpy(np.array(x)).float() for group in rows for x in group])


def is_finished(groups: Sequence[Group]) -> Tensor:
    """[N] True for completions that ended themselves."""
    return torch.tensor([c.stopped for g in groups for c in g.completions])


def _check_sampling(sampling: Sampling) -> None:
    """Refuse episodes from another law than the one whose log-probabilities are trained."""
    if sampling.temperature == 0 or sampling.top_k or sampling.top_p < 1 or sampling.min_p:
        raise ConfigError(
            f"episodes were to be sampled with {sampling}",
            "a policy gradient is right for samples of the policy itself; greedy or truncated "
            "ones come from another law, whose probabilities are not what is trained",
            "set temperature above 0, top_k = 0, top_p = 1 and min_p = 0; truncate when deploying",
        )


def _log_other_tokenizer(reward: Judge, init: Checkpoint, events: Events) -> None:
    for model in reward_models(reward):
        if not same_tokens(init.path, model.path):
            events.log(
                "retokenised",
                judge=str(model),
                text=f"the reward `{model}` has another tokenizer than {init}: it reads the "
                "answers' text in its own tokens",
            )


def _actor_of(module: nn.Module) -> nn.Module:
    assert isinstance(module, ActorCritic)
    return module.actor.lm
