"""Bradley-Terry reward model: a scalar head on the SFT model, fitted to comparisons.

L = - log sigma(r(x, y_w) - r(x, y_l)), with soft labels, margins, smoothing, the correction for
known label noise, centring and K-way ranking (docs/theory/reward_models.md#losses). Both answers of
a pair are read in one forward pass. Afterwards rewards are shifted to mean 0 (and, if asked, scaled
to unit variance) on reference answers; gain and bias are stored in the model's configuration.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch

from tandem.batching.batch import Batch, Outputs, Pairs, Terms
from tandem.data.groups import Groups
from tandem.errors import ConfigError, DataError
from tandem.errors.ranges import Count, LabelNoise, NotNegative, Positive, check_ranges
from tandem.machine import Machine
from tandem.models.forward import forward_groups
from tandem.models.packed import PackedModel
from tandem.objectives.reward import bradley_terry, rank_weight
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.context import StageContext, every_rank
from tandem.runs.events import Events
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
        bound: with `noise`, the difference of rewards beyond which a pair pulls no more: its
            corrected loss would fall for ever.
        margins: the reward has to be larger by the pair's margin (Llama 2). The data's margins, or
            differences of its scores, are scaled so that the largest is 1.
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
    bound: Positive = 10.0
    margins: bool = False
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
        DataError: no group has a preference, margins are asked for and none has one, or the
            samples give no views.
        ConfigError: `lam` is below 0, or above 0 without views.
    """
    data = with_preferences(data)
    _check_views(views, lam)
    unit = largest_margin(data, "reward", ctx.events) if cfg.margins else None
    model = open_trained_scalar(init, ctx, zero=cfg.head == "zero", layers=cfg.layers)
    batches = DatasetSource.of(data, model, ctx, size=cfg.batch, epochs=cfg.epochs)

    def loss(out: Outputs, batch: Batch) -> dict[str, Terms]:
        return {"bradley_terry": preference_terms(out, batch, cfg, unit)}

    if views is None or lam == 0:
        train(model, batches, loss, cfg.optim, ctx)
    else:
        fit_with_views(model, batches, loss, views, lam, uml, cfg, ctx)
    normalise_scores(model, data if zero_on is None else zero_on, ctx.machine, cfg.unit_variance)
    return save_checkpoint(model, init, ctx, name)


def preference_terms(
    out: Outputs, batch: Batch, cfg: RewardConfig, unit: float | None = None
) -> Terms:
    """Bradley-Terry over the comparisons of a micro-batch, which may have none.

    Args:
        out: the model's outputs, its scores among them.
        batch: the comparisons.
        cfg: smoothing, noise, centring.
        unit: what margins are divided by; None leaves them out.
    """
    score = require_value(out.score)
    none = torch.zeros(0, dtype=torch.long, device=score.device)
    pairs = with_scaled_margins(batch.pairs or Pairs(none, none, none.float()), unit)
    return bradley_terry(
        score,
        pairs,
        smoothing=cfg.smoothing,
        noise=cfg.noise,
        bound=cfg.bound,
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


def largest_margin(data: Groups, method: str, events: Events) -> float:
    """Return the largest margin of a collection, which becomes 1: Llama 2's "significantly better".

    Margins are in the units of whoever gave them, 7 for scores of 9 and 2 and .7 for .9 and .2.

    Args:
        data: groups with preferences.
        method: whose setting asked for margins.
        events: where it is said how many pairs have one.

    Raises:
        DataError: no pair has a margin above 0.
    """
    votes = [vote.margin for group in data for vote in group.preferences]
    said = [abs(margin) for margin in votes if margin is not None]
    if not any(said):
        raise DataError(
            f"{method}.margins = true, and none of {len(votes)} comparisons has a margin above 0",
            "a margin is a column `margin`, or the difference of two scores of a file",
            f"leave {method}.margins out, or give data with margins or scores",
        )
    largest = max(said)
    text = f"{len(said)} of {len(votes)} comparisons have a margin; the largest, {largest:g}, is 1"
    events.log("margins", largest=largest, pairs=len(said), of=len(votes), text=text)
    return largest


def with_scaled_margins(pairs: Pairs, unit: float | None) -> Pairs:
    """Return pairs whose margins are divided by a unit, or without margins where it is None."""
    if unit is None or pairs.margin is None:
        return replace(pairs, margin=None)
    return replace(pairs, margin=pairs.margin / unit)


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
