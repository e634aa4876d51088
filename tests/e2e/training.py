"""A run of a few fitting stages on a tiny model: a command to be killed, or launched on two ranks.

python training.py RUN BASE [MACHINE SETTINGS AS JSON]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.engines import Sampling
from tandem.judges.reward_model import RewardModel
from tandem.machine import Lora, Machine
from tandem.methods import dpo, grpo, reward, sft
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.display import Hidden
from tandem.runs.run import Run
from tandem.training.multiview import MultiViewConfig
from tandem.training.optim import Optim
from tiny import group, labelled

OPTIM = Optim(lr=2e-3, warmup=0.1, eps=1e-4)


def data(pairs: bool) -> Groups:
    """Return 14 groups of one demonstration, or of two or three compared answers."""
    rng = np.random.default_rng(1)

    def one(i: int) -> Group:
        lengths = rng.integers(2, 20, int(rng.integers(2, 4)) if pairs else 1).tolist()
        made = group(f"p{i}", rng, int(rng.integers(1, 30)), lengths)
        return labelled(made, rng) if pairs else made

    return Groups.of(one(i) for i in range(14))


def main(place: Path, base: Path, settings: dict) -> None:
    """Demonstrations and preferences in, a policy out."""
    settings |= {"lora": Lora(**settings["lora"])} if settings.get("lora") else {}
    climbs, views = settings.pop("climbs", False), settings.pop("views", False)
    machine = Machine(device="cpu", precision="fp32", tokens=60, log_every=3, **settings)
    with Run(place, seed=7, display=Hidden(), machine=machine) as run:
        epochs = 12
        pi_sft = run(
            "sft",
            sft.fit,
            Checkpoint(base),
            data(False),
            sft.SFTConfig(epochs, batch=4, optim=OPTIM),
        )
        compared = data(True)
        r = run(
            "reward",
            reward.fit,
            pi_sft,
            compared,
            reward.RewardConfig(epochs, batch=4, optim=OPTIM),
        )
        run("dpo", dpo.fit, pi_sft, compared, dpo.DPOConfig(epochs=epochs, batch=4, optim=OPTIM))
        if views:
            cfg = reward.RewardConfig(epochs=4, batch=4, optim=OPTIM)
            multi = {"views": compared, "lam": 0.5, "uml": MultiViewConfig(z=4, hidden=16)}
            run("reward-uml", reward.fit, pi_sft, compared, cfg, **multi)
        if climbs:
            shape = {"prompts": 6, "n": 3, "rounds": 3, "minibatch": 3, "optim": OPTIM}
            sampling, x = Sampling(max_tokens=8), compared.prompts()
            run(
                "grpo",
                grpo.fit,
                pi_sft,
                x,
                RewardModel(r),
                grpo.GRPOConfig(**shape),
                sampling=sampling,
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), json.loads((sys.argv[3:] or ["{}"])[0]))
