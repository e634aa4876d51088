"""A run of PPO to be killed: one stage, sampled and trained in small pieces, always saved."""

from __future__ import annotations

import sys
from pathlib import Path

from climbing import FAST, FP32, Letters, prompts
from tandem.engines import Sampling
from tandem.methods import ppo
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.display import Hidden
from tandem.runs.run import Run
from tandem.training.validation import Validation

ROUNDS = 8

if __name__ == "__main__":
    init, where = Path(sys.argv[1]), Path(sys.argv[2])
    cfg = ppo.PPOConfig(
        prompts=16, rounds=ROUNDS, inner=2, minibatch=4, beta=0.05, kl_target=0.5,
        kl_horizon=200.0, optim=FAST,
    )  # fmt: skip
    validation = Validation(prompts(init, 4, seed=9), (("truth", Letters()),), "truth", every=2)
    with Run(where, seed=7, display=Hidden(), machine=FP32) as run:
        run(
            "policy", ppo.fit, Checkpoint(init), prompts(init, 24), Letters(), cfg,
            sampling=Sampling(max_tokens=24), validation=validation,
        )  # fmt: skip
