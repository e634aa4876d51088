"""SFT: supervised fine-tuning on demonstrations, the loss on completions alone.

L = - sum over trained tokens of log pi(y_t | x, y_<t) / their number in the whole step
(METHODS: reduction by token; by sequence on request). Every assistant turn of a conversation is
trained on, and so is the end-of-sequence token.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from tandem import models
from tandem.artifacts import Checkpoint
from tandem.batch import Batch, Outputs, Terms
from tandem.groups import Groups
from tandem.kernel import open_policy
from tandem.loop import Optim
from tandem.loop import fit as train
from tandem.objectives.nll import nll
from tandem.offline import Offline
from tandem.runs import Here, Run, every_rank
from tandem.stages import encode


@dataclass(frozen=True)
class SFT:
    """Settings of supervised fine-tuning; defaults are AlpacaFarm's.

    Attributes:
        epochs: passes over the demonstrations.
        batch: demonstrations per optimiser step.
        per: what is averaged, tokens or sequences.
        optim: optimiser and schedule.
    """

    epochs: int = 3
    batch: int = 128
    per: Literal["token", "sequence"] = "token"
    optim: Optim = field(default_factory=lambda: Optim(lr=2e-5))


@every_rank
def fit(
    init: Checkpoint,
    data: Groups,
    cfg: SFT = SFT(),
    *,
    name: str = "SFT",
    here: Here,
) -> Checkpoint:
    """Fine-tune a policy on the completions of `data`, each by its weight."""
    policy = open_policy(init.path, here.machine, train=True, seed=here.seed.at("adapters"))

    def loss(out: Outputs, batch: Batch) -> dict[str, Terms]:
        assert out.logp is not None
        return {"nll": nll(out.logp, weight=batch.weight, per=cfg.per)}

    source = Offline(
        data,
        size=cfg.batch,
        epochs=cfg.epochs,
        seed=here.seed,
        layout=policy.layout,
        tokens=here.machine.tokens,
        divisible=True,
    )
    train(policy, source, loss, cfg.optim, here)
    models.save(policy.lm, models.load_tokenizer(init.path), here.out)
    return Checkpoint(here.out, name)


def recipe(run: Run, base: Checkpoint, demonstrations: Groups, cfg: SFT = SFT()) -> Checkpoint:
    """Demonstrations in, a policy out."""
    D = run("demonstrations", encode, demonstrations, base)
    return run("sft", fit, base, D, cfg)
