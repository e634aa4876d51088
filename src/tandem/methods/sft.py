"""SFT: supervised fine-tuning on demonstrations, the loss on completions alone.

L = - sum over trained tokens of log pi(y_t | x, y_<t) / their number in the whole step
(METHODS: reduction by token; by sequence on request). Every assistant turn of a conversation is
trained on, and so is the end-of-sequence token. Methods that imitate what they selected fit with
it too, and may weigh answers by their scores: `loss`, see `objectives.imitation`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from tandem.batching.batch import Batch, Outputs, Terms
from tandem.data.groups import Groups
from tandem.models.opening import open_policy
from tandem.models.saving import save_model
from tandem.models.tokenizers import load_tokenizer
from tandem.objectives import Imitation, gold, nll, weighted
from tandem.operators.columns import scores_of
from tandem.ranges import Count, NotNegative, Positive, check_ranges
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.context import StageContext, every_rank
from tandem.runs.run import Run
from tandem.stages.encoding import encode
from tandem.training.loop import train
from tandem.training.optim import Optim
from tandem.training.sources import DatasetSource


@dataclass(frozen=True)
class SFTConfig:
    """Settings of supervised fine-tuning; defaults are AlpacaFarm's.

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
    mean = 0.0 if cfg.loss == "nll" else _mean(data, cfg.loss)
    policy = open_policy(init.path, ctx.machine, train=True, seed=ctx.seed.at("adapters"))

    def loss(out: Outputs, batch: Batch) -> dict[str, Terms]:
        assert out.logp is not None
        own: dict[str, Any] = {"weight": batch.weight, "per": cfg.per}
        if cfg.loss == "nll":
            return {"nll": nll(out.logp, **own)}
        assert batch.scores is not None
        if cfg.loss == "weighted":
            terms = weighted(out.logp, batch.scores, eta=cfg.eta, mean=mean, **own)
        else:
            terms = gold(out.logp, batch.scores, floor=cfg.floor, **own)
        return {cfg.loss: terms}

    source = DatasetSource(
        data,
        size=cfg.batch,
        epochs=cfg.epochs,
        steps=cfg.steps,
        seed=ctx.seed,
        layout=policy.layout,
        tokens=ctx.machine.tokens,
        divisible=True,
    )
    train(policy, source, loss, cfg.optim, ctx)
    save_model(policy.lm, load_tokenizer(init.path), ctx.out)
    return Checkpoint(ctx.out, name)


def _mean(data: Groups, loss: str) -> float:
    return float(np.mean(np.concatenate([scores_of(g, loss) for g in data])))


def recipe(
    run: Run, base: Checkpoint, demonstrations: Groups, cfg: SFTConfig = SFTConfig()
) -> Checkpoint:
    """Demonstrations in, a policy out."""
    D = run("demonstrations", encode, demonstrations, base)
    return run("sft", fit, base, D, cfg)
