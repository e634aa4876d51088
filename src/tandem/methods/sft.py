"""SFT: supervised fine-tuning on demonstrations, the loss on completions alone.

L = - sum over trained tokens of log pi(y_t | x, y_<t) / their number in the whole step
(the average by token; by sequence on request: docs/theory/sft.md#loss). Every assistant turn of a
conversation is trained on, and so is the end-of-sequence token. Methods that imitate what they
selected fit with it too, and may weigh answers by their scores: `loss`, see `objectives.imitation`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from tandem.batching.batch import Batch, Outputs, Terms
from tandem.data.groups import Groups
from tandem.errors.ranges import Count, NotNegative, Positive, check_ranges
from tandem.objectives import Imitation, gold, nll, soft_mean, weighted
from tandem.operators.columns import scores_of
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.context import StageContext, every_rank
from tandem.runs.run import Run
from tandem.stages.encoding import encode
from tandem.training.fitting import open_trained, require_value, save_checkpoint
from tandem.training.loop import train
from tandem.training.optim import Optim
from tandem.training.sources import DatasetSource


@dataclass(frozen=True)
class SFTConfig:
    """Settings of supervised fine-tuning; defaults are AlpacaFarm's.

    >>> SFTConfig(epochs=1, batch=16).batch
    16
    >>> pi_sft = recipe(run, base, demonstrations, SFTConfig(epochs=1))  # doctest: +SKIP

    Attributes:
        epochs: passes over the demonstrations.
        steps: optimiser steps instead of epochs.
        batch: demonstrations per optimiser step.
        per: what is averaged, tokens or sequences.
        loss: nll; or, on answers with scores, `weighted` by exp(score / eta), or `gold`.
        eta: temperature of `weighted`, in units of the scores.
        floor: least importance weight of `gold`.
        optim: optimiser and schedule.
    """

    epochs: Count = 3
    steps: Count | None = None
    batch: Count = 128
    per: Literal["token", "sequence"] = "token"
    loss: Imitation = "nll"
    eta: Positive = 1.0
    floor: NotNegative = 0.0
    optim: Optim = field(default_factory=lambda: Optim(lr=2e-5))

    def __post_init__(self) -> None:
        check_ranges(self, "sft")


@every_rank
def fit(
    init: Checkpoint,
    data: Groups,
    cfg: SFTConfig = SFTConfig(),
    *,
    name: str = "SFT",
    ctx: StageContext,
) -> Checkpoint:
    """Fine-tune a policy on the completions of `data`, each by its weight.

    Raises:
        DataError: the loss reads scores, and a group has none.
    """
    level = 0.0 if cfg.loss == "nll" else _level(data, cfg)
    policy = open_trained(init, ctx)

    def loss(out: Outputs, batch: Batch) -> dict[str, Terms]:
        logp = require_value(out.logp)
        own: dict[str, Any] = {"weight": batch.weight, "per": cfg.per}
        if cfg.loss == "nll":
            return {"nll": nll(logp, **own)}
        scores = require_value(batch.scores)
        if cfg.loss == "weighted":
            terms = weighted(logp, scores, eta=cfg.eta, level=level, **own)
        else:
            terms = gold(logp, scores, floor=cfg.floor, **own)
        return {cfg.loss: terms}

    batches = DatasetSource.of(
        data,
        policy,
        ctx,
        size=cfg.batch,
        epochs=cfg.epochs,
        steps=cfg.steps,
        divisible=True,
    )
    train(policy, batches, loss, cfg.optim, ctx)
    return save_checkpoint(policy, init, ctx, name)


def _level(data: Groups, cfg: SFTConfig) -> float:
    """Return the score whose weight is 1; every group must have scores."""
    scores = np.concatenate([scores_of(g, cfg.loss) for g in data])
    weights = np.array([c.weight for g in data for c in g.completions])
    return soft_mean(torch.from_numpy(scores), cfg.eta, torch.from_numpy(weights))


def recipe(
    run: Run, base: Checkpoint, demonstrations: Groups, cfg: SFTConfig = SFTConfig()
) -> Checkpoint:
    """Demonstrations in, a policy out."""
    D = run("demonstrations", encode, demonstrations, base)
    return run("sft", fit, base, D, cfg)
