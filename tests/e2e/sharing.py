"""One epoch of steps that are one micro-batch each; every rank prints the tokens that it read."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from climbing import somewhere
from tandem.batching.batch import Batch, Outputs
from tandem.data.groups import Groups
from tandem.machine import Machine
from tandem.models.packed import PackedModel
from tandem.objectives.nll import nll
from tandem.rng import Seed
from tandem.runs.events import Silent
from tandem.training.loop import train
from tandem.training.optim import Optim
from tandem.training.sources import DatasetSource
from tiny import group, lm


def main(out: Path) -> None:
    rng = np.random.default_rng(0)
    groups = [group(str(i), rng, 20, (10, 10)) for i in range(8)]
    module, seen = PackedModel(lm()), [0]

    def count(_: Any, args: Any) -> None:
        seen[0] += args[0].useful

    def loss(out: Outputs, batch: Batch) -> Any:
        assert out.logp is not None
        return {"nll": nll(out.logp)}

    module.register_forward_pre_hook(count)
    source = DatasetSource(
        Groups.of(groups), size=4, epochs=1, seed=Seed(), layout="rows", tokens=10**4
    )  # fmt: skip
    train(
        module, source, loss, Optim(), somewhere(Silent(), Machine(device="cpu", precision="fp32"))
    )
    rank = os.environ.get("RANK", "0")
    (out / rank).write_text(str(seen[0]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
