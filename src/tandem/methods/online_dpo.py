"""Online DPO: every step compares the policy's own answers. Guo et al. 2024, arXiv:2402.04792.

    repeat:
        1. y_1 .. y_K ~ pi_theta                    for each of some prompts
        2. a judge compares them, or scores them    people, a language model, a reward
        3. one step of DPO, IPO or SLiC on the pairs, against the fixed reference

Any judge will do: where it writes scores, they are made into pairs here. DPO ends where offline
DPO does. IPO does not: its limit is the policy that is its own best answer under the reference's
pull (docs/theory/online.md#exact-values).

Departures: a policy is read at the temperature that it is sampled with; with `inner` above 1 a
round's pairs are gone over again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import numpy as np
import torch

from tandem.batching.batch import Batch, Outputs, Terms
from tandem.batching.ragged import Ragged
from tandem.data.groups import Groups
from tandem.data.record import Group, Preference
from tandem.engines import Sampling
from tandem.errors import JudgeError
from tandem.errors.ranges import MANY, Count, NotNegative, Positive, Range, check_ranges
from tandem.judges import Judge
from tandem.judges.reward_model import reward_judge
from tandem.models.packed import ActorCritic
from tandem.objectives.pairwise import PAIRWISE
from tandem.operators import Pairing, clean_pairs, rank_pairs
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.context import StageContext, every_rank
from tandem.runs.run import Run
from tandem.training.fitting import open_trained, require_value
from tandem.training.on_policy import train_on_policy
from tandem.training.optim import Optim
from tandem.training.rollout_models import RolloutModels, is_finished, token_column
from tandem.training.rollouts import Experience, RolloutConfig, RolloutShape
from tandem.training.validation import Validation

OnlineLoss = Literal["dpo", "ipo", "slic"]
ONLINE_LOSSES: dict[OnlineLoss, tuple[str, str, float]] = {
    "dpo": ("sigmoid", "beta", 0.1),
    "ipo": ("ipo_sum", "tau", 1.0),
    "slic": ("hinge_norm", "beta", 0.002),
}
"""The paper's losses: the row of `PAIRWISE`, its setting that the paper calls beta, its value."""
NO_DRAW = Seed(0)
"""For operators that draw nothing."""


@dataclass(frozen=True)
class OnlineDPOConfig:
    """Settings of online DPO; defaults are the paper's, but for the number of rounds.

    >>> OnlineDPOConfig(loss="ipo").strength
    {'tau': 1.0}
    >>> OnlineDPOConfig(n=8, beta=0.05).strength
    {'beta': 0.05}

    Attributes:
        prompts: prompts per round.
        n: K, answers a prompt.
        rounds: how often to sample.
        inner: passes over a round's pairs.
        minibatch: prompts per optimiser step.
        loss: dpo, ipo (of summed log-ratios) or slic (the hinge, with a reference).
        beta: pull to the reference; None takes the loss's: .1, ipo 1.0, slic .002.
        pairing: of a scoring judge: which answers meet. A judge that compares decides itself.
        soft: of a scoring judge: labels sigmoid(difference) in place of 1 and 0.
        gap: of a scoring judge: pairs closer than this are left out.
        optim: optimiser and schedule.
    """

    prompts: Count = 128
    n: Annotated[int, Range(2, MANY)] = 2
    rounds: Count = 40
    inner: Count = 1
    minibatch: Count = 128
    loss: OnlineLoss = "dpo"
    beta: Positive | None = None
    pairing: Pairing = "best-worst"
    soft: bool = False
    gap: NotNegative = 0.0
    optim: Optim = field(default_factory=lambda: Optim(lr=5e-7, schedule="constant"))

    def __post_init__(self) -> None:
        check_ranges(self, "online_dpo")

    @property
    def strength(self) -> dict[str, float]:
        """The loss's setting that holds the policy near the reference."""
        _, name, usual = ONLINE_LOSSES[self.loss]
        return {name: usual if self.beta is None else self.beta}

    @property
    def shape(self) -> RolloutShape:
        """How much is sampled, and how often it is gone over."""
        return RolloutShape(self.prompts, self.n, self.rounds, self.inner, self.minibatch)


class OnlineDPOAlgorithm:
    """Experience and loss of online DPO.

    Args:
        models: the opened policy, reference and judge.
        cfg: the loss and how pairs are made.
        seed: orders the answers where the pairing is random.
    """

    def __init__(self, models: RolloutModels, cfg: OnlineDPOConfig, seed: Seed) -> None:
        self.models, self.cfg, self.seed = models, cfg, seed
        self.loss_fn = PAIRWISE[ONLINE_LOSSES[cfg.loss][0]]
        self.controllers: dict[str, Any] = {}

    def experience(self, groups: list[Group]) -> Experience:
        """Have the round's answers compared, and keep the pairs that teach something."""
        paired = self.compare(groups)
        ref = self.models.ref_logprobs(paired)
        kept, places = keep_informative(paired, self.cfg.shape.per_pass, self.cfg.gap)
        good = float(np.mean([is_informative(g, self.cfg.gap) for g in paired]))
        metrics = {**self.metrics(paired, ref), "informative": good}
        return Experience(kept, {"ref_logp": ref.select(torch.tensor(places))}, metrics)

    def compare(self, groups: list[Group]) -> list[Group]:
        """Return the groups with preferences: the judge's own, or made from its scores.

        Raises:
            JudgeError: it wrote neither.
        """
        judged = self.models.judge(groups, fewest=self.cfg.shape.per_pass)
        if all(g.preferences for g in judged):
            return judged
        if silent := next((g for g in judged if g.scores is None), None):
            raise JudgeError(
                f"the judge wrote neither scores nor preferences for group `{silent.id}`",
                "online DPO learns from comparisons of fresh answers",
                "use a judge that scores or compares: a reward model, an annotator, a labeller",
            )
        self.models.scores(judged)  # refuses what is not a number
        pairs = rank_pairs(self.cfg.pairing, self.cfg.soft)
        return list(pairs(judged, self.seed.at("pairs")))

    def metrics(self, paired: list[Group], ref: Ragged) -> dict[str, float]:
        """The numbers of a round, see docs/metrics.md.

        Args:
            paired: the policy's answers, compared.
            ref: log pi_ref at every token of theirs.
        """
        rows = [[c.logp for c in g.completions if c.logp is not None] for g in paired]
        drawn = token_column(rows)
        found = {
            "kl": float((drawn - ref).sum().mean()),
            "entropy": float(-drawn.values.mean()),
            "length": float(drawn.count().mean()),
            "stopped": float(is_finished(paired).float().mean()),
        }
        if all(g.scores is not None for g in paired):
            found["proxy"] = float(self.models.scores(paired).mean())
        return found

    def loss(self, out: Outputs, batch: Batch) -> dict[str, Terms]:
        """The pairwise loss on the round's comparisons."""
        pairs = replace(require_value(batch.pairs), margin=None)
        logp = require_value(out.logp)
        return {self.cfg.loss: self.loss_fn(logp, batch.ref_logp, pairs, **self.cfg.strength)}


def is_informative(group: Group, gap: float = 0.0) -> bool:
    """True where a group has a pair of different answers that is no tie."""
    return bool(list(clean_pairs(gap)([group], NO_DRAW)))


def keep_informative(
    groups: Sequence[Group], at_least: int, gap: float = 0.0
) -> tuple[list[Group], list[int]]:
    """Leave out what no pair needs: ties, equal answers, answers that were not compared.

    Where fewer than `at_least` groups are left, the first others fill up, each as an answer beside
    itself: a step needs a pair, and such a pair moves nothing.

    Args:
        groups: compared groups.
        at_least: steps that need a group of their own.
        gap: pairs whose scores are closer teach nothing.

    Returns:
        the groups, and the places of their completions among all completions of `groups`.
    """
    clean = [next(clean_pairs(gap)([g], NO_DRAW), None) for g in groups]
    short = at_least - sum(c is not None for c in clean)
    kept: list[Group] = []
    places: list[int] = []
    start = 0
    for group, good in zip(groups, clean, strict=True):
        if good is not None:
            met = sorted({k for p in good.preferences for k in (p.i, p.j)})
            kept.append(good.keep(met))
            places += [start + k for k in met]
        elif short > 0:
            short -= 1
            kept.append(
                replace(group.keep([0, 0]), preferences=(Preference(0, 1, 0.5, by="fill"),))
            )
            places += [start, start]
        start += len(group)
    return kept, places


@every_rank
def fit(
    init: Checkpoint,
    prompts: Groups,
    reward: Judge,
    cfg: OnlineDPOConfig = OnlineDPOConfig(),
    *,
    ref: Checkpoint | None = None,
    sampling: Sampling = Sampling(),
    validation: Validation | None = None,
    name: str = "online DPO",
    ctx: StageContext,
) -> Checkpoint:
    """Train a policy on comparisons of its own fresh answers.

        policy = run("online", online_dpo.fit, pi_sft, prompts, annotator, OnlineDPOConfig(n=2))

    Args:
        init: the policy to start from.
        prompts: tokenised prompts to be answered.
        reward: a judge that scores or compares.
        cfg: the loss, the pairs and the optimiser.
        ref: the frozen reference policy; `init` by default.
        sampling: how answers are drawn: whole distributions, temperature above 0.
        validation: held-out prompts and judges, or None; see `Validation`.
        name: the trained policy's name in tables and in `Completion.author`.

    Raises:
        ConfigError: the answers would be greedy or truncated.
        JudgeError: the judge wrote neither scores nor preferences.
    """
    rollout = RolloutConfig(cfg.shape, sampling, validation)
    policy = ActorCritic(open_trained(init, ctx))
    models = RolloutModels.open(policy, init, reward, ref=ref, sampling=sampling, ctx=ctx)
    algorithm = OnlineDPOAlgorithm(models, cfg, ctx.seed)
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
    cfg: OnlineDPOConfig = OnlineDPOConfig(),
) -> Checkpoint:
    """Prompts and a reward in, a policy out."""
    judges = {"sampling": sampling, "validation": validation}
    return run("online-dpo", fit, pi_sft, prompts, reward_judge(r_phi), cfg, **judges)
