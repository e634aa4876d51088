"""KTO: learning from single answers marked good or bad.

With l = log pi - log pi_ref of an answer and z0 the same over answers put behind prompts they do
not answer, clamped at 0 (Ethayarajh et al. 2024, arXiv:2402.01306):

    v = lambda_D sigma(beta (l - z0)) for a good answer, lambda_U sigma(beta (z0 - l)) for a bad one
    minimise  lambda_y - v

z0 belongs to the whole step: where a step is cut into micro-batches it is measured on all of them
first. The neighbour is TRL 1.16's, x_i with y_{i-1}, fixed before shuffling; the paper takes it
within the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from tandem.batching.batch import Batch, Outputs, Terms
from tandem.batching.microbatches import cut_step
from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.errors import DataError
from tandem.errors.ranges import Count, Positive, check_ranges
from tandem.models.reference import reference_logprobs
from tandem.objectives.unpaired import kto, kto_z0
from tandem.operators import mismatch, unpair
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.context import StageContext, every_rank
from tandem.runs.run import Run
from tandem.stages.selection import select
from tandem.training.fitting import open_trained, require_value, save_checkpoint
from tandem.training.loop import train
from tandem.training.optim import Optim
from tandem.training.sources import DatasetSource


@dataclass(frozen=True)
class KTOConfig:
    """Settings of KTO; defaults are the paper's.

    >>> KTOConfig(lam_d=1.33).lam_d  # three bad answers to every four good ones
    1.33

    Attributes:
        beta: how fast value saturates.
        lam_d: weight of good answers.
        lam_u: weight of bad ones; lam_d n_d / (lam_u n_u) should lie in [1, 3/2].
        epochs: passes over the answers.
        batch: answers per optimiser step.
        optim: optimiser and schedule.
    """

    beta: Positive = 0.1
    lam_d: Positive = 1.0
    lam_u: Positive = 1.0
    epochs: Count = 1
    batch: Count = 64
    optim: Optim = field(default_factory=lambda: Optim(lr=5e-6))

    def __post_init__(self) -> None:
        check_ranges(self, "kto")


@every_rank
def fit(
    init: Checkpoint,
    data: Groups,
    cfg: KTOConfig = KTOConfig(),
    *,
    ref: Checkpoint | None = None,
    name: str = "KTO",
    ctx: StageContext,
) -> Checkpoint:
    """Fit a policy to answers whose scores are 1 (good) or 0 (bad).

    Raises:
        DataError: a group has no scores of 0 and 1.
    """
    _marked(data)
    if told := imbalance_line(data, cfg):
        ctx.events.log("imbalance", text=told)
    data = reference_logprobs(
        ref or init, Groups.of(mismatch()(data, ctx.seed)), ctx.machine, ctx.events
    )
    policy = open_trained(init, ctx)

    def loss(out: Outputs, batch: Batch) -> dict[str, Terms]:
        scores = require_value(batch.scores)
        h, own = log_ratio(out, batch), ~_mismatched(batch)
        z0 = kto_z0(h[~own]) if batch.shared is None else batch.shared["z0"]
        good = scores[own]
        return {"kto": kto(h[own], good, z0, beta=cfg.beta, lam_d=cfg.lam_d, lam_u=cfg.lam_u)}

    batches = MismatchedSource.of(
        data, policy, ctx, size=cfg.batch, epochs=cfg.epochs, logp_is="ref_logp"
    )
    train(policy, batches, loss, cfg.optim, ctx)
    return save_checkpoint(policy, init, ctx, name)


def imbalance_line(data: Groups, cfg: KTOConfig) -> str:
    """Say where good answers weigh much more than bad ones, or much less; empty where they do not.

    The weight of all good answers over that of all bad ones should lie in [1, 3/2];
    nothing is said between 1/2 and 3.
    """
    scores = [float(score) for g in data if g.scores is not None for score in g.scores]
    good, bad = sum(s == 1 for s in scores), sum(s == 0 for s in scores)
    if not good or not bad or 0.5 <= cfg.lam_d * good / (cfg.lam_u * bad) <= 3:
        return ""
    flag = (
        f"lam_u {cfg.lam_d * good / bad:.3g}"
        if good > bad
        else f"lam_d {cfg.lam_u * bad / good:.3g}"
    )
    return (
        f"{good:,} good answers against {bad:,} bad ones: all good ones together weigh "
        f"{cfg.lam_d * good / (cfg.lam_u * bad):.2g} times as much as the bad ones, where 1 to 1.5 "
        f"is advised. Give --kto.{flag}"
    )


def log_ratio(out: Outputs, batch: Batch) -> Tensor:
    """[N] log pi - log pi_ref of each completion, summed over its tokens."""
    return (require_value(out.logp) - require_value(batch.ref_logp)).sum()


class MismatchedSource(DatasetSource):
    """An offline source that measures z0 on the whole step before it is split."""

    def batches(self, groups: Sequence[Group]) -> list[Batch]:
        """Pack one step into as few as fit: where they are several, z0 costs a pass more."""
        return self._packed(cut_step(groups, replace(self.cut, parts=1)))

    def steps(self, policy: nn.Module) -> Iterator[list[Batch]]:
        """Yield the steps, with `shared["z0"]` where there are several micro-batches."""
        for micro in super().steps(policy):
            if len(micro) == 1:
                yield micro
                continue
            device = next(policy.parameters()).device
            with torch.no_grad():
                placed = [batch.to(device) for batch in micro]
                h = [log_ratio(policy(b.tokens), b)[_mismatched(b)] for b in placed]
            z0 = kto_z0(torch.cat(h)).cpu()
            yield [replace(batch, shared={"z0": z0}) for batch in micro]


def _mismatched(batch: Batch) -> Tensor:
    """[N] True for answers set beside prompts that they do not answer: nobody judged them."""
    return require_value(batch.scores).isnan()


def _marked(data: Groups) -> None:
    for group in data:
        if group.scores is None or not set(group.scores.tolist()) <= {0.0, 1.0}:
            raise DataError(
                f"group `{group.id}` has scores {group.scores}",
                "KTO learns from answers marked good (1) or bad (0)",
                "import data with labels, or turn comparisons into marks with `unpair()`",
            )


def require_both_marks(data: Groups) -> None:
    """Refuse answers that are all good, or all bad.

    Raises:
        DataError: one of the two is missing.
    """
    seen = {float(score) for g in data if g.scores is not None for score in g.scores}
    if len(seen) == 1:
        missing = "bad" if seen == {1.0} else "good"
        raise DataError(
            f"none of {len(data)} answers is marked {missing}",
            "KTO learns from the difference between good and bad answers; shown one kind alone it "
            "pushes all answers the same way",
            f"add {missing} answers" + (", or `tandem run sft`" if missing == "bad" else ""),
        )


def recipe(run: Run, pi_sft: Checkpoint, D: Groups, cfg: KTOConfig = KTOConfig()) -> Checkpoint:
    """Marked answers in, a policy out; comparisons are taken apart into good and bad answers.

    Raises:
        DataError: all answers are good, or all are bad.
    """
    marks = run("marks", select, D, unpair()) if any(g.preferences for g in D) else D
    require_both_marks(marks)
    return run("kto", fit, pi_sft, marks, cfg)
