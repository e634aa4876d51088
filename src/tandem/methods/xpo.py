"""XPO: online DPO that explores. Xie et al. 2024, arXiv:2405.21046, Algorithm 1.

    repeat:
        1. y ~ pi_theta and y' ~ pi_ref             one answer of each to a prompt
        2. a judge compares them
        3. minimise  DPO(y, y')  +  alpha log pi_theta(y' | x)

The second term pushes probability off the answers that the reference would give, so that others
are tried, and the judge is asked about them. At alpha = 0 this is online DPO whose second answer
is the reference's, which keeps the data varied when the policy has collapsed.

Departures: a round learns from its own pairs, the paper's from all pairs so far. A pair that is a
tie, or of two equal answers, is left out with its second term.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch

from tandem.batching.batch import Batch, Outputs, Terms
from tandem.batching.ragged import Ragged
from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.engines import Engine, Sampling
from tandem.engines.open_engine import open_engine
from tandem.errors import ConfigError
from tandem.errors.ranges import Count, NotNegative, Positive, check_ranges
from tandem.judges import Judge
from tandem.judges.reward_model import reward_judge
from tandem.methods.online_dpo import OnlineDPOAlgorithm, OnlineDPOConfig, OnlineLoss
from tandem.models.packed import ActorCritic, PackedModel
from tandem.models.tokenizers import load_tokenizer
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.context import StageContext, every_rank
from tandem.runs.run import Run
from tandem.training.fitting import open_trained, require_value
from tandem.training.on_policy import train_on_policy
from tandem.training.optim import Optim
from tandem.training.rollout_models import RolloutModels
from tandem.training.rollouts import Experience, RolloutConfig, RolloutShape
from tandem.training.validation import Validation

REFERENCE = "reference"
"""The author of the answers that are drawn from the reference."""


@dataclass(frozen=True)
class XPOConfig:
    """Settings of XPO; beta is the paper's, alpha that of its published experiments.

    >>> XPOConfig(alpha=0.0).pairs.n  # a policy's answer and the reference's
    2

    Attributes:
        prompts: prompts per round.
        rounds: how often to sample.
        inner: passes over a round's pairs.
        minibatch: prompts per optimiser step.
        alpha: weight of the exploration term, in units of the DPO loss a nat.
        loss: dpo, ipo or slic, as in `online_dpo`.
        beta: pull to the reference; None takes the loss's.
        soft: of a scoring judge: labels sigmoid(difference) in place of 1 and 0.
        gap: of a scoring judge: pairs closer than this are left out.
        optim: optimiser and schedule.
    """

    prompts: Count = 128
    rounds: Count = 40
    inner: Count = 1
    minibatch: Count = 128
    alpha: NotNegative = 1e-5
    loss: OnlineLoss = "dpo"
    beta: Positive | None = None
    soft: bool = False
    gap: NotNegative = 0.0
    optim: Optim = field(default_factory=lambda: Optim(lr=5e-7, schedule="constant"))

    def __post_init__(self) -> None:
        check_ranges(self, "xpo")

    @property
    def pairs(self) -> OnlineDPOConfig:
        """How the pairs are made and learned from."""
        return OnlineDPOConfig(
            prompts=self.prompts,
            rounds=self.rounds,
            inner=self.inner,
            minibatch=self.minibatch,
            loss=self.loss,
            beta=self.beta,
            pairing="all",
            soft=self.soft,
            gap=self.gap,
            optim=self.optim,
        )


@dataclass
class RoundCount:
    """Counts rounds, so that a prompt that comes again is answered afresh; kept with the run."""

    rounds: int = 0

    def state_dict(self) -> dict[str, int]:
        """Return what a resumed run needs."""
        return {"rounds": self.rounds}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Take up where a run stopped."""
        self.rounds = int(state["rounds"])


class XPOAlgorithm(OnlineDPOAlgorithm):
    """Online DPO against the reference's answers, with the exploration term.

    Args:
        models: the opened policy, reference and judge.
        cfg: the loss and alpha.
        reference: draws the reference's answers.
        sampling: how they are drawn.
        seed: of these draws.
    """

    def __init__(
        self, models: RolloutModels, cfg: XPOConfig, reference: Engine, sampling: Sampling,
        seed: Seed,
    ) -> None:  # fmt: skip
        super().__init__(models, cfg.pairs, seed)
        self.alpha, self.reference, self.sampling = cfg.alpha, reference, sampling
        self.turn = RoundCount()
        self.controllers: dict[str, Any] = {"reference draws": self.turn}

    def experience(self, groups: list[Group]) -> Experience:
        """Add the reference's answers, compare, and mark them as those to move away from."""
        found = super().experience(self.add_reference_answers(groups))
        ref = found.columns["ref_logp"]
        theirs = [c.author == REFERENCE for g in found.groups for c in g.completions]
        marks = ref.expand(torch.tensor(theirs, dtype=ref.values.dtype))
        return replace(found, columns={**found.columns, "advantages": marks.map(torch.neg)})

    def metrics(self, paired: list[Group], ref: Ragged) -> dict[str, float]:
        """The numbers of the policy's own answers."""
        authors = [c.author for g in paired for c in g.completions]
        own = [k for k, author in enumerate(authors) if author != REFERENCE]
        return super().metrics([g.keep([0]) for g in paired], ref.select(torch.tensor(own)))

    def add_reference_answers(self, groups: list[Group]) -> list[Group]:
        """Return the groups with one more answer, the reference's."""
        self.turn.rounds += 1
        asked = [
            Group(replace(g.prompt, id=f"{g.id}/{self.turn.rounds}/{k}"))
            for k, g in enumerate(groups)
        ]
        drawn = self.reference.sample(asked, 1, self.sampling, self.seed.at("reference"))
        return [
            replace(g, completions=(*g.completions, *d.completions))
            for g, d in zip(groups, drawn, strict=True)
        ]

    def loss(self, out: Outputs, batch: Batch) -> dict[str, Terms]:
        """The pairwise loss, and alpha log pi of the reference's answers."""
        logp, marks = require_value(out.logp), require_value(batch.advantages)
        theirs = (marks.mean() < 0).to(logp.values.dtype)
        away = Terms(self.alpha * theirs * logp.sum(), theirs, {})
        return {**super().loss(out, batch), "exploration": away}


@every_rank
def fit(
    init: Checkpoint,
    prompts: Groups,
    reward: Judge,
    cfg: XPOConfig = XPOConfig(),
    *,
    ref: Checkpoint | None = None,
    sampling: Sampling = Sampling(),
    validation: Validation | None = None,
    name: str = "XPO",
    ctx: StageContext,
) -> Checkpoint:
    """Train a policy on comparisons of its answers with the reference's, and explore.

        policy = run("xpo", xpo.fit, pi_sft, prompts, annotator, XPOConfig(alpha=1e-5))

    Args:
        init: the policy to start from.
        prompts: tokenised prompts to be answered.
        reward: a judge that scores or compares.
        cfg: alpha, the loss and the optimiser.
        ref: the frozen reference policy; `init` by default.
        sampling: how both are drawn: whole distributions, temperature above 0.
        validation: held-out prompts and judges, or None; see `Validation`.
        name: the trained policy's name in tables and in `Completion.author`.

    Raises:
        ConfigError: the answers would be greedy or truncated, or the base is quantised.
        JudgeError: the judge wrote neither scores nor preferences.
    """
    shape = RolloutShape(cfg.prompts, 1, cfg.rounds, cfg.inner, cfg.minibatch)
    rollout = RolloutConfig(shape, sampling, validation)
    if ctx.machine.quantise != "none" and ref is None:
        raise ConfigError(
            f"machine.quantise = {ctx.machine.quantise} with XPO",
            "its reference answers as well, and is in memory only as the policy's own base",
            "give `ref`, or leave machine.quantise out",
        )
    policy = ActorCritic(open_trained(init, ctx))
    answering = ref or init  # the reference answers too, so it is a model of its own
    models = RolloutModels.open(policy, init, reward, ref=answering, sampling=sampling, ctx=ctx)
    tokenizer = load_tokenizer(answering.path)
    assert isinstance(models.reference, PackedModel)
    reference = open_engine(models.reference, tokenizer, ctx.machine, name=REFERENCE)
    algorithm = XPOAlgorithm(models, cfg, reference, sampling, ctx.seed)
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
    cfg: XPOConfig = XPOConfig(),
) -> Checkpoint:
    """Prompts and a reward in, a policy out."""
    judges = {"sampling": sampling, "validation": validation}
    return run("xpo", fit, pi_sft, prompts, reward_judge(r_phi), cfg, **judges)
