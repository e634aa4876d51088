"""The models of on-policy training: the policy, its frozen reference and the reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tandem.batching.batch import Outputs, Packed
from tandem.batching.packing import Layout
from tandem.batching.ragged import Ragged
from tandem.data.record import Group
from tandem.engines import Sampling
from tandem.errors import JudgeError
from tandem.judges import Judge, ScoringFunction, only_compares, open_judge
from tandem.judges.llm import is_unjudged
from tandem.judges.reward_model import reward_models
from tandem.machine import Machine
from tandem.models.forward import forward_groups
from tandem.models.opening import open_policy
from tandem.models.packed import ActorCritic, PackedModel
from tandem.models.tokenizers import same_tokens
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.context import StageContext
from tandem.runs.events import Events


class BaseOfAdapters:
    """Reads a policy as it was before its adapters were trained: with the adapters switched off."""

    def __init__(self, policy: PackedModel) -> None:
        self.policy = policy

    @property
    def layout(self) -> Layout:
        """The policy's."""
        return self.policy.layout

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.policy.device

    def __call__(self, tokens: Packed, **want: bool) -> Outputs:
        """Read one pack."""
        lm: Any = self.policy.lm
        with lm.disable_adapter():
            return self.policy(tokens, **want)


@dataclass(frozen=True)
class RolloutModels:
    """The models of on-policy training, and what they say of fresh samples.

        models = RolloutModels.open(policy, init, reward, ref=None, sampling=sampling, ctx=ctx)
        judged = models.judge(groups, fewest=1)
        log_ratio = models.old_logprobs(groups)[0] - models.ref_logprobs(groups)

    Attributes:
        policy: the actor, and the critic where there is one; the only module that is trained.
        reference: the frozen policy that the KL is measured to; where adapters are trained it is
            the policy itself without them, so that the base is in memory once.
        reward: the opened judge.
        machine: where they run.
        compares: the judge compares answers and gives none a score, so that a single answer
            cannot be followed by it.
    """

    policy: ActorCritic
    reference: PackedModel | BaseOfAdapters
    reward: ScoringFunction
    machine: Machine
    compares: bool = False

    @classmethod
    def open(
        cls,
        policy: ActorCritic,
        init: Checkpoint,
        reward: Judge,
        *,
        ref: Checkpoint | None,
        sampling: Sampling,
        ctx: StageContext,
    ) -> RolloutModels:
        """Open the reference and the reward; both policies are read at the sampling temperature.

        Args:
            policy: the opened policy; its temperature is set.
            init: the checkpoint that it was opened from.
            reward: the judge.
            ref: the reference; `init` where there is none.
            sampling: how episodes are drawn.
            ctx: the stage.
        """
        log_other_tokenizer(reward, init, ctx.events)
        if ctx.machine.lora is not None and ctx.machine.sharding == "none" and ref is None:
            policy.actor.temperature = sampling.temperature
            reference = BaseOfAdapters(policy.actor)
        else:
            reference = open_reference(policy, init, ref=ref, sampling=sampling, ctx=ctx)
        judge = open_judge(reward, ctx.machine)
        return cls(policy, reference, judge, ctx.machine, only_compares(reward))

    def judge(self, groups: Sequence[Group], *, fewest: int) -> list[Group]:
        """Return the judged groups; those about which questions failed at a server are left out.

        Args:
            groups: fresh samples.
            fewest: groups that a round cannot do without: one for every minibatch of a pass.

        Raises:
            JudgeError: fewer are left.
        """
        kept = [group for group in self.reward(groups) if not is_unjudged(group)]
        if len(kept) < fewest:
            raise JudgeError(
                f"{len(kept)} of {len(groups)} prompts of a round were judged",
                f"questions about the others failed, and a round has {fewest} minibatches or more",
                "look at the server, then give the same command again: what was answered is kept",
            )
        return kept

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

    def old_logprobs(self, groups: list[Group]) -> tuple[Ragged, Ragged | None]:
        """log pi_old, and V where there is a value function, at every token."""
        found = [r for _, r in forward_groups(self.policy, groups, self.machine.tokens)]
        value = [r.value for r in found if r.value is not None]
        return token_column([r.logp or () for r in found]), token_column(value) if value else None

    def ref_logprobs(self, groups: list[Group]) -> Ragged:
        """log pi_ref at every token."""
        found = forward_groups(self.reference, groups, self.machine.tokens)
        return token_column([r.logp or () for _, r in found])

    def metrics(
        self, groups: list[Group], scores: Tensor, old: Ragged, ref: Ragged
    ) -> dict[str, float]:
        """The numbers of every round, see docs/metrics.md.

        Args:
            groups: the round's samples.
            scores: [N] their rewards.
            old: log pi_old at every token.
            ref: log pi_ref at every token.
        """
        stopped = [c.stopped for g in groups for c in g.completions]
        drawn = token_column(
            [[c.logp for c in g.completions if c.logp is not None] for g in groups]
        )
        return {
            "proxy": float(scores.mean()),
            "kl": float((old - ref).sum().mean()),
            "entropy": float(-old.values.mean()),
            "length": float(old.count().mean()),
            "stopped": float(np.mean(stopped)),
            "mismatch": float((drawn - old).values.abs().mean()),
        }


def open_reference(
    policy: ActorCritic,
    init: Checkpoint,
    *,
    ref: Checkpoint | None,
    sampling: Sampling,
    ctx: StageContext,
) -> PackedModel:
    """Open the frozen reference; it and the policy are read at the sampling temperature.

    Args:
        policy: the opened policy; its temperature is set.
        init: the checkpoint that it was opened from.
        ref: the reference; `init` where there is none.
        sampling: how episodes are drawn.
        ctx: the stage.
    """
    policy.actor.temperature = sampling.temperature
    alone = replace(ctx.machine, lora=None)
    reference = open_policy((ref or init).path, alone, reference=True)
    reference.temperature = sampling.temperature
    return reference


def token_column(rows: Sequence[Sequence[Any]]) -> Ragged:
    """Join the arrays of each group's completions into one ragged column over all completions."""
    return Ragged.of([torch.from_numpy(np.array(x)).float() for group in rows for x in group])


def is_finished(groups: Sequence[Group]) -> Tensor:
    """[N] True for completions that ended themselves."""
    return torch.tensor([c.stopped for g in groups for c in g.completions])


def actor_of(module: nn.Module) -> nn.Module:
    """Return what an engine samples from: the actor's language model."""
    assert isinstance(module, ActorCritic)
    return module.actor.lm


def log_other_tokenizer(reward: Judge, init: Checkpoint, events: Events) -> None:
    """Say where a judge's model has another tokenizer than the policy."""
    for model in reward_models(reward):
        if not same_tokens(init.path, model.path):
            events.log(
                "retokenised",
                judge=str(model),
                text=f"the reward `{model}` has another tokenizer than {init}: it reads the "
                "answers' text in its own tokens",
            )
