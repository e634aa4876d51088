"""IPO-MD: online IPO on answers of the policy's mixture with its reference.

Calandriello et al. 2024, arXiv:2403.08635. Each round, for every prompt:

    y_1 .. y_n ~ m = pi^(1-b) mu^b, mixed and renormalised at every token
    descend  (h(y) - h(y') - 1 / (2 tau))^2  over all pairs, h = log (pi / mu) summed over tokens,
    in expectation over the label, which is drawn from P(y > y')

At b = 0 this is online IPO, at b = 1 offline IPO on answers of the reference.

Where it comes to rest (docs/theory/nash.md#relatives): at the fixed point of Nash-MD-PG with the
same tau and b. The mixture is the equilibrium at tau / (1 - b), and the policy the best response to
it at tau. A regression reaches that point without weighing its samples, so the mixture's answers
serve as they are, where the policy gradient of `methods.nash_md` needs answers of both.

Pitfalls: the pull towards 1 / (2 tau) is 62 nats at the default tau, so the learning rate, and not
tau, says how far a short run goes. What a round reports of the policy (win rate, KL, length) is
weighed by pi / m; where `effective` is small, believe the validation alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from tandem.batching.batch import Batch, Outputs, Terms
from tandem.batching.ragged import Ragged
from tandem.data.groups import Groups
from tandem.data.record import FloatArray, Group, Preference
from tandem.engines import Sampling
from tandem.errors.ranges import MANY, Positive, Range, Share, check_ranges
from tandem.judges import Judge
from tandem.judges.ai_feedback import AIFeedback
from tandem.judges.open_preference import OpenPreference
from tandem.methods.configs import PreferenceKind
from tandem.methods.nash_md import PlayConfig, mean_wins, open_players
from tandem.objectives.pairwise import PAIRWISE
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.context import StageContext, every_rank
from tandem.runs.run import Run
from tandem.training.fitting import require_value
from tandem.training.on_policy import train_on_policy
from tandem.training.rollout_models import RolloutModels, is_finished, token_column
from tandem.training.rollouts import Experience, RolloutConfig
from tandem.training.validation import Validation, keep_last_policy


@dataclass(frozen=True)
class IPOMDConfig(PlayConfig):
    """Settings of IPO-MD; tau and the share are Nash-MD's, because both rest at the same policy.

    >>> IPOMDConfig(n=8, share=0.25).share
    0.25

    Attributes:
        n: answers of the mixture to a prompt; each is compared with each.
        tau: pull to the reference; the price of a nat of KL where it comes to rest.
        share: b, the reference's exponent in the mixture that answers: 0 is online IPO, 1 IPO on
            answers of the reference.
    """

    n: Annotated[int, Range(2, MANY)] = 4
    tau: Positive = 0.008
    share: Share = 0.125

    def __post_init__(self) -> None:
        check_ranges(self, "ipo_md")


class IPOMDAlgorithm:
    """Experience and loss of IPO-MD.

    Args:
        models: the opened policy and reference; its reward is not read.
        preference: who says which answer is better.
        cfg: the settings.
    """

    def __init__(self, models: RolloutModels, preference: OpenPreference, cfg: IPOMDConfig) -> None:
        self.models, self.preference, self.cfg = models, preference, cfg
        self.controllers: dict[str, Any] = {}

    def experience(self, groups: list[Group]) -> Experience:
        """Compare each answer of the mixture with each other to its prompt."""
        tables = list(self.preference.matrices(groups))
        old, _ = self.models.old_logprobs(groups)
        ref = self.models.ref_logprobs(groups)
        compared = [
            replace(g, preferences=list_preferences(p, self.preference.name))
            for g, p in zip(groups, tables, strict=True)
        ]
        wins = torch.from_numpy(np.concatenate([mean_wins(p) for p in tables])).float()
        return Experience(compared, {"ref_logp": ref}, policy_metrics(groups, wins, old, ref))

    def loss(self, out: Outputs, batch: Batch) -> dict[str, Terms]:
        """IPO of summed log-ratios, on all pairs."""
        logp, pairs = require_value(out.logp), require_value(batch.pairs)
        return {"ipo": PAIRWISE["ipo_sum"](logp, batch.ref_logp, pairs, tau=self.cfg.tau)}


def list_preferences(p: FloatArray, by: str) -> tuple[Preference, ...]:
    """Return a comparison of each answer with each later one.

    >>> import numpy as np
    >>> list_preferences(np.array([[0.5, 0.75], [0.25, 0.5]]), "ann")
    (Preference(i=0, j=1, p=0.75, margin=None, by='ann'),)

    Args:
        p: [n, n] that answer i beats j.
        by: who says so.
    """
    pairs = itertools.combinations(range(len(p)), 2)
    return tuple(Preference(i, j, float(p[i, j]), by=by) for i, j in pairs)


def policy_metrics(groups: list[Group], wins: Tensor, old: Ragged, ref: Ragged) -> dict[str, float]:
    """The numbers of a round for the policy, from answers of the mixture (docs/metrics.md).

    Each answer weighs pi / m, so the means are those of the policy up to noise. `effective` is the
    share of the answers that this leaves, 1 where policy and mixture are one.

    Args:
        groups: answers of the mixture, with its log-probabilities.
        wins: [N] how likely each beats another answer of the mixture.
        old: log pi at every token.
        ref: log mu at every token.
    """
    drawn = token_column([[c.logp for c in g.completions] for g in groups])
    weight = (old - drawn).sum().softmax(0)
    length = old.count()
    return {
        "proxy": float(weight @ wins),
        "kl": float(weight @ (old - ref).sum()),
        "entropy": float(-(weight @ old.sum()) / (weight @ length)),
        "length": float(weight @ length),
        "stopped": float(weight @ is_finished(groups).float()),
        "effective": float(1 / weight.square().sum() / len(weight)),
    }


@every_rank
def fit(
    init: Checkpoint,
    prompts: Groups,
    judge: Judge,
    cfg: IPOMDConfig = IPOMDConfig(),
    *,
    ref: Checkpoint | None = None,
    sampling: Sampling = Sampling(),
    validation: Validation | None = None,
    name: str = "IPO-MD",
    ctx: StageContext,
) -> Checkpoint:
    """Train a policy by IPO on comparisons of its mixture's answers, by a judge of pairs.

        judge = PreferenceModel(rho)
        policy = run("ipo-md", ipo_md.fit, pi_sft, prompts, judge, IPOMDConfig(tau=0.05))

    In a validation, `proxy` is how likely an answer beats the reference's, by this judge.

    Args:
        init: the policy to start from.
        prompts: tokenised prompts to be answered.
        judge: who says which of two answers is better; see `judges.open_preference`.
        cfg: the mixture, the pull to the reference and the optimiser.
        ref: the frozen reference policy; `init` by default.
        sampling: how answers are drawn: whole distributions, temperature above 0.
        validation: held-out prompts and judges, or None; see `Validation`.
        name: the trained policy's name in tables and in `Completion.author`.

    Raises:
        ConfigError: answers would be greedy or truncated, or vLLM is to sample a mixture.
        JudgeError: the judge gives no probability.
    """
    rollout = RolloutConfig(cfg.shape, sampling, validation)
    models, preference, players = open_players(init, judge, ref=ref, sampling=sampling, ctx=ctx)
    algorithm = IPOMDAlgorithm(models, preference, cfg)
    mixture = (players.reference, cfg.share) if cfg.share else None
    return train_on_policy(
        models, algorithm, prompts, rollout, cfg.optim, init=init, name=name, ctx=ctx,
        mixture=mixture,
    )  # fmt: skip


def recipe(
    run: Run,
    pi_sft: Checkpoint,
    prompts: Groups,
    preference_judge: Callable[[PreferenceKind, AIFeedback], Judge],
    sampling: Sampling,
    validation: Validation | None,
    cfg: IPOMDConfig = IPOMDConfig(),
) -> Checkpoint:
    """Prompts and somebody who compares in, a policy out."""
    judge = preference_judge(cfg.judge, cfg.asking)
    watched = keep_last_policy(validation)
    return run("ipo-md", fit, pi_sft, prompts, judge, cfg, sampling=sampling, validation=watched)
