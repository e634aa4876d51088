"""Nash-MD-PG: a policy that learns from preferences by playing against itself and its reference.

Munos et al. 2023, arXiv:2312.00886. No reward: the judge says which of two answers is better, and
may go round in circles. Each round, for every prompt:

    y ~ pi_theta,  y' ~ the opponent, here pi^(1-b) mu^b token by token
    ascend  grad log pi_theta(y) [ P(y > y') - 1/2 - tau log (pi_theta / mu)(y) ]

The bracket carries no gradient, and log-ratios are sums over the answer. With n answers a prompt
1/2 gives way to the mean bracket of the other n - 1, which has the same expectation and less
noise. Nash-EMA-PG, self-play, best responses and play against past policies are the same update
with another opponent: `methods.nash_ema`, `self_play`, `best_response`, `past_play`. IPO-MD and
SPPO learn from the same comparisons by losses of their own: `methods.ipo_md`, `sppo`.

Where it comes to rest (docs/theory/nash.md#nash-md): self-play at the equilibrium of the game in
which leaving mu costs tau a nat. Nash-MD-PG at b > 0 elsewhere: its mixture is the equilibrium at
tau / (1 - b), and the policy is the best response to that mixture at tau. Both are so for answers
of one token; mixing token by token is not mixing whole answers. The policy that is saved is the
last one, because no score of single answers can say which policy of a circle is best.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from tandem.batching.batch import Batch, Outputs, Terms
from tandem.data.groups import Groups
from tandem.data.record import FloatArray, Group
from tandem.engines import Sampling
from tandem.errors import ConfigError
from tandem.errors.ranges import Count, Positive, Share, check_ranges
from tandem.judges import Judge
from tandem.judges.ai_feedback import AIFeedback
from tandem.judges.open_preference import OpenPreference, open_preference
from tandem.methods.configs import SHARED, PreferenceKind
from tandem.methods.cyclic_preference import CyclicPreferenceConfig
from tandem.methods.preference import PreferenceConfig
from tandem.models.packed import ActorCritic
from tandem.objectives.advantages import leave_one_out
from tandem.objectives.policy_gradient import ppo_clip
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.context import StageContext, every_rank
from tandem.runs.run import Run
from tandem.training.fitting import open_trained, require_value
from tandem.training.on_policy import train_on_policy
from tandem.training.opponents import MixtureOpponent, Opponent, Players, wins_over_reference
from tandem.training.optim import Optim
from tandem.training.rollout_models import RolloutModels, log_other_tokenizer, open_reference
from tandem.training.rollouts import Experience, RolloutConfig, RolloutShape
from tandem.training.validation import Validation, keep_last_policy


@dataclass(frozen=True)
class PlayConfig:
    """What all methods share that sample answers and have them compared.

    Attributes:
        prompts: prompts per round.
        n: answers of the policy to a prompt.
        rounds: how often to sample.
        inner: passes over a round's answers.
        minibatch: prompts per optimiser step.
        judge: who says which answer is better: a `cyclic` model, a model of `pairs`, a `reward`
            (Bradley-Terry), the `people` of the task themselves, or an `llm`.
        asking: which language model, and how it is asked, where the judge is one.
        cyclic_preference: the cyclic model's settings.
        preference: the settings of the model of two arguments.
        optim: optimiser and schedule.
    """

    chooses_policy: ClassVar[bool] = False
    """No score of single answers says which policy of a circle is best: the last one is kept."""

    prompts: Count = 64
    n: Count = 4
    rounds: Count = 40
    inner: Count = 1
    minibatch: Count = 64
    judge: PreferenceKind = "cyclic"
    asking: AIFeedback = field(default=AIFeedback())
    cyclic_preference: CyclicPreferenceConfig = field(
        default_factory=CyclicPreferenceConfig, metadata=SHARED
    )
    preference: PreferenceConfig = field(default_factory=PreferenceConfig, metadata=SHARED)
    optim: Optim = field(default_factory=lambda: Optim(lr=1e-6, schedule="linear"))

    @property
    def shape(self) -> RolloutShape:
        """How much is sampled, and how often it is gone over."""
        return RolloutShape(self.prompts, self.n, self.rounds, self.inner, self.minibatch)


@dataclass(frozen=True)
class NashConfig(PlayConfig):
    """What the methods share that play against an opponent; each adds its own.

    Attributes:
        rivals: answers of the opponent to a prompt; each of the n is compared with each of them.
        tau: price of a nat of KL to the reference.
        clip: epsilon of the probability ratio, which is 1 on a round's first step.
    """

    rivals: Count = 2
    tau: Positive = 0.008
    clip: Positive = 0.2

    def opponent(self, players: Players) -> Opponent | None:
        """Open the opponent; None where a group's answers play against each other."""
        raise NotImplementedError


@dataclass(frozen=True)
class NashMDConfig(NashConfig):
    """Settings of Nash-MD-PG; tau and the share are the paper's.

    >>> NashMDConfig(share=0.25).share
    0.25
    >>> NashMDConfig().tau
    0.008

    Attributes:
        share: b, the reference's exponent in the mixture that is played against: 0 is self-play,
            1 the best response to the reference; the paper's best are .125 to .375.
    """

    share: Share = 0.125

    def __post_init__(self) -> None:
        check_ranges(self, "nash_md")

    def opponent(self, players: Players) -> Opponent | None:
        """Open the mixture of policy and reference."""
        return MixtureOpponent(players, self.share)


class NashAlgorithm:
    """Experience and loss of a policy gradient against an opponent.

    Args:
        models: the opened policy and reference; its reward is not read.
        preference: who says which answer is better.
        opponent: who is played against; None plays a group's answers against each other.
        cfg: the settings.
    """

    is_policy_gradient = True

    def __init__(
        self,
        models: RolloutModels,
        preference: OpenPreference,
        opponent: Opponent | None,
        cfg: NashConfig,
    ) -> None:
        self.models, self.preference, self.opponent, self.cfg = models, preference, opponent, cfg
        self.controllers: dict[str, Any] = {} if opponent is None else {"opponent": opponent}

    def experience(self, groups: list[Group]) -> Experience:
        """Let the opponent answer, compare, and price the distance to the reference."""
        models, n = self.models, self.cfg.n
        wins = self._wins(groups)
        old, _ = models.old_logprobs(groups)
        ref = models.ref_logprobs(groups)
        price = self.cfg.tau * (old - ref).sum()
        group = torch.arange(len(groups)).repeat_interleave(n)
        A = wins - 0.5 - price
        if self.opponent is None:
            # the others' wins are over this answer too, so their baseline stays at 1/2
            A = A + leave_one_out(price, group)
        elif n > 1:
            A = A - leave_one_out(A, group)
        metrics = models.metrics(groups, wins, old, ref)
        columns = {"old_logp": old, "ref_logp": ref, "advantages": old.expand(A)}
        return Experience(groups, columns, metrics)

    def loss(self, out: Outputs, batch: Batch) -> dict[str, Terms]:
        """REINFORCE over whole answers, with a clipped ratio once a round takes several steps."""
        cfg = self.cfg
        old, A = require_value(batch.old_logp), require_value(batch.advantages)
        surrogate = ppo_clip(
            require_value(out.logp), old, A, clip_low=cfg.clip, clip_high=cfg.clip, per="constant"
        )
        return {"policy": surrogate}

    def _wins(self, groups: list[Group]) -> Tensor:
        """[N] how likely each answer beats its opponent's, averaged over these."""
        if self.opponent is None:
            rows = [mean_wins(p) for p in self.preference.matrices(groups)]
        else:
            rivals = self.opponent.draw(groups, self.cfg.rivals)
            rows = [p.mean(axis=1) for p in self.preference.against(groups, rivals)]
        return torch.cat([torch.from_numpy(x) for x in rows]).float()


@every_rank
def fit(
    init: Checkpoint,
    prompts: Groups,
    judge: Judge,
    cfg: NashConfig = NashMDConfig(),
    *,
    ref: Checkpoint | None = None,
    against: Checkpoint | None = None,
    sampling: Sampling = Sampling(),
    validation: Validation | None = None,
    name: str = "Nash-MD",
    ctx: StageContext,
) -> Checkpoint:
    """Train a policy to be preferred to an opponent, by a judge of pairs.

        judge = PreferenceModel(rho)
        policy = run("nash", nash_md.fit, pi_sft, prompts, judge, NashMDConfig(tau=0.05))

    In a validation, `proxy` is how likely an answer beats the reference's, by this judge.

    Args:
        init: the policy to start from.
        prompts: tokenised prompts to be answered.
        judge: who says which of two answers is better; see `judges.open_preference`.
        cfg: the opponent, the price of KL and the optimiser: the config of any method that plays.
        ref: the frozen reference policy; `init` by default.
        against: the policy that a best response is learned to; the reference by default.
        sampling: how answers are drawn: whole distributions, temperature above 0.
        validation: held-out prompts and judges, or None; see `Validation`.
        name: the trained policy's name in tables and in `Completion.author`.

    Raises:
        ConfigError: answers would be greedy or truncated.
        JudgeError: the judge gives no probability.
    """
    rollout = RolloutConfig(cfg.shape, sampling, validation)
    models, preference, players = open_players(
        init, judge, ref=ref, against=against, sampling=sampling, ctx=ctx
    )
    algorithm = NashAlgorithm(models, preference, cfg.opponent(players), cfg)
    return train_on_policy(
        models, algorithm, prompts, rollout, cfg.optim, init=init, name=name, ctx=ctx
    )


def open_players(
    init: Checkpoint,
    judge: Judge,
    *,
    ref: Checkpoint | None,
    against: Checkpoint | None = None,
    sampling: Sampling,
    ctx: StageContext,
) -> tuple[RolloutModels, OpenPreference, Players]:
    """Open who plays and who compares; a policy is followed by its wins over the reference.

    Args:
        init: the policy to start from.
        judge: who says which of two answers is better.
        ref: the frozen reference policy; `init` where there is none.
        against: a frozen policy to play against, or None.
        sampling: how answers are drawn.
        ctx: the stage.
    """
    log_other_tokenizer(judge, init, ctx.events)
    policy = ActorCritic(open_trained(init, ctx))
    reference = open_reference(policy, init, ref=ref, sampling=sampling, ctx=ctx)
    preference = open_preference(judge, ctx.machine)
    players = Players(policy.actor, reference, init, sampling, ctx, against)
    proxy = wins_over_reference(preference, players)
    return RolloutModels(policy, reference, proxy, ctx.machine), preference, players


def mean_wins(p: FloatArray) -> FloatArray:
    """[n] how likely each answer of a group beats another of it.

    >>> import numpy as np
    >>> mean_wins(np.array([[0.5, 0.75, 1.0], [0.25, 0.5, 0.75], [0.0, 0.25, 0.5]])).tolist()
    [0.875, 0.5, 0.125]

    Args:
        p: [n, n] that answer i beats j, one half on the diagonal; n of 2 or more.
    """
    return (p.sum(axis=1) - 0.5) / (len(p) - 1)


def check_several(config: str, n: int) -> None:
    """Refuse one answer a prompt where a group's answers play against each other.

    Raises:
        ConfigError: n is 1.
    """
    if n < 2:
        raise ConfigError(
            f"{config}.n = {n}",
            "a group's answers play against each other, and one has nobody to play against",
            "set it to 2 or more",
        )


def recipe(
    run: Run,
    pi_sft: Checkpoint,
    prompts: Groups,
    preference_judge: Callable[[PreferenceKind, AIFeedback], Judge],
    sampling: Sampling,
    validation: Validation | None,
    cfg: NashMDConfig = NashMDConfig(),
) -> Checkpoint:
    """Prompts and somebody who compares in, a policy out."""
    judge = preference_judge(cfg.judge, cfg.asking)
    watched = keep_last_policy(validation)
    return run("nash", fit, pi_sft, prompts, judge, cfg, sampling=sampling, validation=watched)
