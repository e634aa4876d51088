"""SPPO: each round fits the multiplicative-weights step against the policy of the round before.

Wu et al. 2024, arXiv:2405.00675, Algorithm 1. Each round t, for every prompt:

    y_1 .. y_n ~ pi_t,  P_i = mean over the others of P(y_i > y_j)
    descend  (log (pi / pi_t)(y_i) - eta (P_i - 1/2))^2  for `inner` passes;  pi_{t+1} = pi

The round's own policy takes the reference's place, so nothing pulls back to the first one: `ref` is
only what KL and win rates are measured to. After T rounds a policy may be as far from the first as
a price of tau = 1 / (eta T) would let it.

Where it goes (docs/theory/nash.md#relatives): the average of all rounds' policies goes to an
equilibrium of the unregularised game. The last one goes to the best answer where preferences are a
ranking, and goes round the equilibrium where they circle. What is saved is the last one.

Departures: an answer's win rate leaves the answer itself out, which makes it unbiased; the paper
counts it in. All n answers teach; the paper's code keeps the best and the worst of 5.

Pitfalls: the paper's eta of 1000 asks for hundreds of nats, so its learning rate and its one pass
stop the step, and eta alone does not say how far it goes. Where a step is fitted to the end, the
loss's minimum is the multiplicative step up to the cube of eta. Few passes at a high rate overshoot
it, because Adam's momentum goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import torch

from tandem.batching.batch import Batch, Outputs, Terms
from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.engines import Sampling
from tandem.errors.ranges import MANY, Count, Positive, Range, check_ranges
from tandem.judges import Judge
from tandem.judges.ai_feedback import AIFeedback
from tandem.judges.open_preference import OpenPreference
from tandem.methods.configs import PreferenceKind
from tandem.methods.nash_md import PlayConfig, mean_wins, open_players
from tandem.objectives.unpaired import sppo_regression
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.context import StageContext, every_rank
from tandem.runs.run import Run
from tandem.training.fitting import require_value
from tandem.training.on_policy import train_on_policy
from tandem.training.optim import Optim
from tandem.training.rollout_models import RolloutModels
from tandem.training.rollouts import Experience, RolloutConfig
from tandem.training.validation import Validation, keep_last_policy


@dataclass(frozen=True)
class SPPOConfig(PlayConfig):
    """Settings of SPPO; n, eta, rounds and the rate are the paper's, which has 20,000 prompts.

    >>> SPPOConfig(eta=2.0, inner=4).n
    5

    Attributes:
        n: K, answers to a prompt; each one's win rate is over the others.
        eta: size of a round's step, in nats a win rate.
    """

    prompts: Count = 2048
    n: Annotated[int, Range(2, MANY)] = 5
    rounds: Count = 3
    eta: Positive = 1000.0
    optim: Optim = field(default_factory=lambda: Optim(lr=5e-7, schedule="linear"))

    def __post_init__(self) -> None:
        check_ranges(self, "sppo")


class SPPOAlgorithm:
    """Experience and loss of SPPO.

    Args:
        models: the opened policy, and the reference that KL is measured to.
        preference: who says which answer is better.
        cfg: the settings.
    """

    def __init__(self, models: RolloutModels, preference: OpenPreference, cfg: SPPOConfig) -> None:
        self.models, self.preference, self.cfg = models, preference, cfg
        self.controllers: dict[str, Any] = {}

    def experience(self, groups: list[Group]) -> Experience:
        """Let each answer play against the others to its prompt."""
        rows = [mean_wins(p) for p in self.preference.matrices(groups)]
        wins = torch.from_numpy(np.concatenate(rows)).float()
        old, _ = self.models.old_logprobs(groups)
        ref = self.models.ref_logprobs(groups)
        columns = {"old_logp": old, "returns": old.expand(wins)}
        return Experience(groups, columns, self.models.metrics(groups, wins, old, ref))

    def loss(self, out: Outputs, batch: Batch) -> dict[str, Terms]:
        """The squared distance of each answer's log-ratio to its share of the step."""
        logp, old = require_value(out.logp), require_value(batch.old_logp)
        wins = require_value(batch.returns).mean()
        return {"sppo": sppo_regression((logp - old).sum(), wins, eta=self.cfg.eta)}


@every_rank
def fit(
    init: Checkpoint,
    prompts: Groups,
    judge: Judge,
    cfg: SPPOConfig = SPPOConfig(),
    *,
    ref: Checkpoint | None = None,
    sampling: Sampling = Sampling(),
    validation: Validation | None = None,
    name: str = "SPPO",
    ctx: StageContext,
) -> Checkpoint:
    """Train a policy to be preferred to that of the round before, by a judge of pairs.

        judge = PreferenceModel(rho)
        policy = run("sppo", sppo.fit, pi_sft, prompts, judge, SPPOConfig(eta=1.0, rounds=20))

    In a validation, `proxy` is how likely an answer beats the reference's, by this judge.

    Args:
        init: the policy to start from.
        prompts: tokenised prompts to be answered.
        judge: who says which of two answers is better; see `judges.open_preference`.
        cfg: the step, the rounds and the optimiser.
        ref: the policy that KL and win rates are measured to; `init` by default.
        sampling: how answers are drawn: whole distributions, temperature above 0.
        validation: held-out prompts and judges, or None; see `Validation`.
        name: the trained policy's name in tables and in `Completion.author`.

    Raises:
        ConfigError: answers would be greedy or truncated.
        JudgeError: the judge gives no probability.
    """
    rollout = RolloutConfig(cfg.shape, sampling, validation)
    models, preference, _ = open_players(init, judge, ref=ref, sampling=sampling, ctx=ctx)
    algorithm = SPPOAlgorithm(models, preference, cfg)
    return train_on_policy(
        models, algorithm, prompts, rollout, cfg.optim, init=init, name=name, ctx=ctx
    )


def recipe(
    run: Run,
    pi_sft: Checkpoint,
    prompts: Groups,
    preference_judge: Callable[[PreferenceKind, AIFeedback], Judge],
    sampling: Sampling,
    validation: Validation | None,
    cfg: SPPOConfig = SPPOConfig(),
) -> Checkpoint:
    """Prompts and somebody who compares in, a policy out."""
    judge = preference_judge(cfg.judge, cfg.asking)
    watched = keep_last_policy(validation)
    return run("sppo", fit, pi_sft, prompts, judge, cfg, sampling=sampling, validation=watched)
