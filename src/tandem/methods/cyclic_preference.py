"""Scalar plus cyclic preference model: a reward, and an embedding whose comparisons may circle.

    log-odds that y beats y'  =  r(x, y) - r(x, y')  +  e(x, y)^T R e(x, y')

R turns each pair of coordinates by a right angle, so the second part is skew-symmetric: it can
hold that a beats b, b beats c and c beats a, which no reward can, and vanishes for two equal
answers (general preference model, Zhang et al. 2024, arXiv:2410.02197; the reward head beside it
is ours, so that a transitive part need not be learned as a turn). Each answer is read once, so n
answers cost n passes and not n^2. A preference model of two arguments, which reads both answers
at once, is `methods.preference`. See docs/theory/reward_models.md#scalar-plus-cyclic-models.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch

from tandem.batching.batch import Batch, Outputs, Pairs, Terms
from tandem.data.groups import Groups
from tandem.errors import ConfigError
from tandem.errors.ranges import Count, LabelNoise, Range, check_ranges
from tandem.methods.reward import with_preferences
from tandem.models import loading
from tandem.objectives.reward import cyclic_log_odds, two_argument
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.context import StageContext, every_rank
from tandem.runs.run import Run
from tandem.training.fitting import open_trained_scalar, require_value, save_checkpoint
from tandem.training.loop import train
from tandem.training.optim import Optim
from tandem.training.sources import DatasetSource


@dataclass(frozen=True)
class CyclicPreferenceConfig:
    """Settings of a scalar plus cyclic model; defaults are the reward model's.

    >>> CyclicPreferenceConfig(dimensions=8).dimensions
    8

    Attributes:
        dimensions: of the embedding, an even number; each two can hold one circle.
        epochs: passes over the comparisons; more than one overfits.
        batch: prompts per optimiser step.
        smoothing: share of labels taken to be wrong, pulls them towards 1/2.
        head: draw the new reward head from N(0, 1/(d + 1)), or start it at `zero`; the
            embedding's is drawn either way, because at zero its gradient is zero too.
        layers: keep only the first layers of the initial model; None keeps all.
        optim: optimiser and schedule.
    """

    dimensions: Annotated[int, Range(2, loading.MOST_DIMENSIONS)] = 4
    epochs: Count = 1
    batch: Count = 16
    smoothing: LabelNoise = 0.0
    head: Literal["normal", "zero"] = "normal"
    layers: Count | None = None
    optim: Optim = field(default_factory=lambda: Optim(lr=3e-6))

    def __post_init__(self) -> None:
        check_ranges(self, "cyclic_preference")
        if self.dimensions % 2:
            raise ConfigError(
                f"cyclic_preference.dimensions = {self.dimensions}",
                "each two coordinates turn against each other, so none may be left over",
                f"set it to {self.dimensions + 1}",
            )


@every_rank
def fit(
    init: Checkpoint,
    data: Groups,
    cfg: CyclicPreferenceConfig = CyclicPreferenceConfig(),
    *,
    name: str = "cyclic",
    ctx: StageContext,
) -> Checkpoint:
    """Fit P(y > y' | x) to the preferences of `data`, from the policy `init` and a fresh head.

        rho = run("rho", cyclic_preference.fit, pi_sft, D, CyclicPreferenceConfig(epochs=2))

    Soft labels are honoured, margins are not read.

    Args:
        init: the policy whose weights it starts from.
        data: tokenised groups; those without a preference are left out.
        cfg: dimensions, head and optimiser.
        name: the model's name in tables.

    Raises:
        DataError: no group has a preference.
    """
    data = with_preferences(data)
    model = open_trained_scalar(
        init, ctx, zero=cfg.head == "zero", layers=cfg.layers, dimensions=cfg.dimensions
    )
    batches = DatasetSource.of(data, model, ctx, size=cfg.batch, epochs=cfg.epochs)

    def loss(out: Outputs, batch: Batch) -> dict[str, Terms]:
        score, embedding = require_value(out.score), require_value(out.embedding)
        none = torch.zeros(0, dtype=torch.long, device=score.device)
        pairs = batch.pairs or Pairs(none, none, none.float())
        soft = (1 - 2 * cfg.smoothing) * pairs.p + cfg.smoothing
        return {"cyclic": two_argument(cyclic_log_odds(score, embedding, pairs), soft)}

    train(model, batches, loss, cfg.optim, ctx)
    model.inner.config.tandem = {"reads": loading.EMBEDDING, "dimensions": cfg.dimensions}
    return save_checkpoint(model, init, ctx, name)


def recipe(
    run: Run, pi_sft: Checkpoint, D: Groups, cfg: CyclicPreferenceConfig = CyclicPreferenceConfig()
) -> Checkpoint:
    """Comparisons in, a scalar plus cyclic preference model out."""
    return run("cyclic_preference", fit, pi_sft, D, cfg)
