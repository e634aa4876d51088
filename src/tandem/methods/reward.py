"""Bradley-Terry reward model: a scalar head on the SFT model, fitted to comparisons.

L = - log sigma(r(x, y_w) - r(x, y_l)), with soft labels, margins, smoothing, the correction for
known label noise, centring and K-way ranking (docs/theory/reward_models.md#losses). Both answers of
a pair are read in one forward pass. Afterwards rewards are shifted to mean 0 (and, if asked, scaled
to unit variance) on reference answers; gain and bias are stored in the model's configuration.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from tandem.batching.batch import Batch, Outputs, Pairs, Terms
from tandem.data.groups import Groups
from tandem.errors import ConfigError, DataError
from tandem.machine import Machine
from tandem.models.forward import forward_groups
from tandem.models.packed import PackedModel
from tandem.objectives.reward import bradley_terry, rank_weight
from tandem.ranges import Count, LabelNoise, NotNegative, check_ranges
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.context import StageContext, every_rank
from tandem.runs.run import Run
from tandem.training.fitting import open_trained_scalar, require_value, save_checkpoint
from tandem.training.loop import LossFunction, train
from tandem.training.multiview import MultiViewConfig, MultiViewHead, MultiViewSource
from tandem.training.optim import Optim
from tandem.training.sources import DatasetSource, ZippedSource


@dataclass(frozen=True)
class RewardConfig:
    """Settings of a reward model; defaults are AlpacaFarm's.

    >>> RewardConfig(noise=0.2).noise  # a fifth of the labels is known to be wrong
    0.2
    >>> r_phi = recipe(run, pi_sft, D, RewardConfig())  # doctest: +SKIP

    Attributes:
        epochs: passes over the comparisons; more than one overfits.
        batch: prompts per optimiser step.
        smoothing: share of labels taken to be wrong, pulls them towards 1/2.
        noise: known flip rate, corrected for (excludes `smoothing`).
        centring: weight of (r_w + r_l)^2.
        per: `pair` counts every comparison once, `prompt` every prompt once (1/C(K,2) a pair).
        head: draw the new head from N(0, 1/(d + 1)), or start it at `zero`, which is steadier on
            a few hundred comparisons.
        layers: keep only the first layers of the initial model; None keeps all.
        unit_variance: also scale rewards to variance 1 on the reference answers.
        optim: optimiser and schedule.
    """

    epochs: Count = 1
    batch: Count = 16
    smoothing: LabelNoise = 0.0
    noise: LabelNoise = 0.0
    centring: NotNegative = 0.0
    per: Literal["pair", "prompt"] = "pair"
    head: Literal["normal", "zero"] = "normal"
    layers: Count | None = None
    unit_variance: bool = False
    optim: Optim = field(default_factory=lambda: Optim(lr=3e-6))

    def __post_init__(self) -> None:
        check_ranges(self, "reward")


@every_rank
def fit(
    init: Checkpoint,
    data: Groups,
    cfg: RewardConfig = RewardConfig(),
    *,
    zero_on: Groups | None = None,
    views: Groups | None = None,
    lam: float = 0.0,
    uml: MultiViewConfig = MultiViewConfig(),
    name: str = "reward",
    ctx: StageContext,
) -> Checkpoint:
    """Fit r(x, y) to the preferences of `data`, from the policy `init` and a fresh head.

    Args:
        zero_on: answers on which the mean reward shall be 0; those of `data` by default.
        views: a policy's samples, two or more a prompt, for multi-view learning (RLP-UML).
        lam: weight of that loss; at 0 the views are not read, and nothing else changes.
        uml: settings of multi-view learning.

    Raises:
        DataError: no group has a preference, or the samples give no views.
        ConfigError: `lam` is below 0, or above 0 without views.
    """
    data = with_preferences(data)
    _check_views(views, lam)
    model = open_trained_scalar(init, ctx, zero=cfg.head == "zero", layers=cfg.layers)
    batches = DatasetSource.of(data, model, ctx, size=cfg.batch, epochs=cfg.epochs)

    def loss(out: Outputs, batch: Batch) -> dict[str, Terms]:
        return {"bradley_terry": preference_terms(out, batch, cfg)}

    if views is None or lam == 0:
        train(model, batches, loss, cfg.optim, ctx)
    else:
        fit_with_views(model, batches, loss, views, lam, uml, cfg, ctx)
    normalise_scores(model, data if zero_on is None else zero_on, ctx.machine, cfg.unit_variance)
    return save_checkpoint(model, init, ctx, name)


def preference_terms(out: Outputs, batch: Batch, cfg: RewardConfig) -> Terms:
    """Bradley-Terry over the comparisons of a micro-batch, which may have none."""
    score = require_value(out.score)
    none = torch.zeros(0, dtype=torch.long, device=score.device)
    pairs = batch.pairs or Pairs(none, none, none.float())
    return bradley_terry(
        score,
        pairs,
        smoothing=cfg.smoothing,
        noise=cfg.noise,
        centring=cfg.centring,
        weight=rank_weight(pairs, batch.group) if cfg.per == "prompt" else None,
    )


def fit_with_views(
    model: PackedModel,
    batches: DatasetSource,
    loss: LossFunction,
    views: Groups,
    lam: float,
    uml: MultiViewConfig,
    cfg: RewardConfig,
    ctx: StageContext,
) -> None:
    """Train with lambda L_M beside the comparisons (RLP, eq. 1): equal batches of D and of P.

    Encoder and critic are a named part of the module while it trains. Every micro-batch makes
    both terms, of comparisons or views that it may not have, so that each rank of a launch
    touches every weight.
    """
    net = MultiViewHead(int(model.inner.config.hidden_size), uml, ctx.seed.at("bottleneck"))
    model.heads["views"] = net.to(model.device)
    pairs = MultiViewSource(
        views,
        size=cfg.batch,
        total=batches.total,
        cfg=uml,
        seed=ctx.seed.at("views"),
        layout=model.layout,
        tokens=ctx.machine.tokens,
    )

    def both(out: Outputs, batch: Batch) -> dict[str, Terms]:
        L_M = net.terms(out, batch)
        return {**loss(out, batch), "multiview": L_M._replace(loss=lam * L_M.loss)}

    train(model, ZippedSource(batches, pairs), both, cfg.optim, ctx, want={"features": True})
    del model.heads["views"]


def normalise_scores(
    model: PackedModel, answers: Groups, machine: Machine, unit_variance: bool
) -> None:
    """Make these answers' mean 0, by a stored bias (and their variance 1, by the head's weights).

    So another program that serves the folder, and knows no gain or bias, gives the same scores up
    to a constant.
    """
    rows = [r.score for _, r in forward_groups(model, answers, machine.tokens, logp=False)]
    raw = np.concatenate([r for r in rows if r is not None]).astype(np.float64)
    gain = 1 / max(float(raw.std()), 1e-8) if unit_variance else 1.0
    if gain != 1.0:
        head: Any = model.inner.score
        with torch.no_grad():
            for weight in head.parameters():
                weight.mul_(gain)
    model.inner.config.tandem = {"gain": 1.0, "bias": -gain * float(raw.mean())}


def _check_views(views: Groups | None, lam: float) -> None:
    if lam < 0 or (lam > 0 and views is None):
        raise ConfigError(
            f"lam = {lam} with {'no views' if views is None else f'{len(views)} views'}",
            "it weighs the multi-view loss on a policy's samples: it needs some, and below 0 it "
            "would undo what the loss is for",
            "give `views` and a weight of 0 or more; the paper's is 0.5",
        )


def with_preferences(data: Groups) -> Groups:
    """Return the groups that hold a preference.

    Raises:
        DataError: there is none.
    """
    kept = Groups.of(g for g in data if g.preferences)
    if not len(kept):
        raise DataError(
            f"none of {len(data)} groups has a preference",
            "a reward model learns from comparisons between answers to one prompt",
            "let a judge compare them first, or import data with chosen and rejected answers",
        )
    return kept


def recipe(
    run: Run, pi_sft: Checkpoint, D: Groups, cfg: RewardConfig = RewardConfig()
) -> Checkpoint:
    """Comparisons in, a reward model out."""
    return run("reward", fit, pi_sft, D, cfg)
