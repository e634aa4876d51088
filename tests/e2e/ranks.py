"""Fits methods in one process each, or in several forked ones that train together over gloo.

python ranks.py JOBS        JSON: a list of {processes, place, base, method, settings}

Settings are those of the machine, and `epochs`, and `dies_at`: the step at which all processes are
interrupted; a later job in the same place goes on from what is left. After each job a line of JSON
says what every process saw: losses, gradient norms, and the megabytes that it took beyond what it
began with. A process is forked after the imports, which saves it some seconds.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from climbing import Heard, Letters, prompts
from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.engines import Sampling
from tandem.machine import Lora, Machine
from tandem.methods import dpo, grpo, kto, ppo, reward, sft
from tandem.operators import unpair
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.context import StageContext
from tandem.training.multiview import MultiViewConfig
from tandem.training.optim import Optim
from tiny import group, labelled

OPTIM = Optim(lr=2e-3, warmup=0.1, eps=1e-4, clip=0.5)


def answers(pairs: bool) -> Groups:
    """Return 14 groups of one demonstration, or of two or three compared answers."""
    rng = np.random.default_rng(1)

    def one(i: int) -> Group:
        lengths = rng.integers(2, 20, int(rng.integers(2, 4)) if pairs else 1).tolist()
        made = group(f"p{i}", rng, int(rng.integers(1, 30)), lengths)
        return labelled(made, rng) if pairs else made

    return Groups.of(one(i) for i in range(14))


def fit(method: str, base: Checkpoint, epochs: int, ctx: StageContext) -> None:
    """Fit one method on small data."""
    some: dict[str, Any] = {"epochs": epochs, "batch": 5, "optim": OPTIM}
    if method == "sft":
        sft.fit(base, answers(False), sft.SFTConfig(**some), ctx=ctx)
    elif method == "reward":
        reward.fit(base, answers(True), reward.RewardConfig(**some), ctx=ctx)
    elif method == "reward-views":
        views = {"views": answers(True), "lam": 0.5, "uml": MultiViewConfig(z=4, hidden=16)}
        reward.fit(base, answers(True), reward.RewardConfig(**some), ctx=ctx, **views)
    elif method == "dpo":
        dpo.fit(base, answers(True), dpo.DPOConfig(**some), ctx=ctx)
    elif method == "kto":
        marked = Groups.of(unpair()(answers(True), Seed(0)))
        kto.fit(base, marked, kto.KTOConfig(**some), ctx=ctx)
    else:
        climb(method, base, epochs, ctx)


def climb(method: str, base: Checkpoint, rounds: int, ctx: StageContext) -> None:
    """Fit a method that learns from its own samples."""
    how = {"sampling": Sampling(max_tokens=8), "ctx": ctx}
    sizes: dict[str, Any] = {"prompts": 6, "rounds": rounds, "minibatch": 3, "optim": OPTIM}
    asked = prompts(base.path, 12)
    if method == "grpo":
        grpo.fit(base, asked, Letters(), grpo.GRPOConfig(n=3, **sizes), **how)
        return
    value = "shared" if method == "ppo-shared" else "separate"
    ppo.fit(base, asked, Letters(), ppo.PPOConfig(inner=2, value=value, **sizes), **how)


def work(rank: int, place: Path, base: Path, method: str, settings: dict[str, Any]) -> None:
    """Be one process: fit, and write what it saw."""
    settings = dict(settings)
    dies_at, epochs = settings.pop("dies_at", None), settings.pop("epochs", 3)
    if settings.get("lora"):
        settings["lora"] = Lora(**settings["lora"])
    machine = Machine(device="cpu", precision="fp32", log_every=1,
                      **{"tokens": 60, "save_seconds": 1e9, **settings})  # fmt: skip
    heard = Heard(dies_at=dies_at)
    ctx = StageContext.at(place, seed=Seed(7), events=heard, machine=machine)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        fit(method, Checkpoint(base), epochs, ctx)
    except KeyboardInterrupt:
        if dies_at is None:
            raise
    lines = heard.of("train")
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {
        "losses": [[v for k, v in sorted(x.items()) if k.endswith("_loss")] for x in lines],
        "grad_norms": [x["grad_norm"] for x in lines],
        "megabytes": round((after - before) / 1024, 1),
    }
    (place / f"seen-{rank}.json").write_text(json.dumps(found))


def run(processes: int, place: str, base: str, method: str, settings: dict[str, Any]) -> bool:
    """Fork the processes of one job, wait for all, and print what they saw; True if they did it."""
    home = Path(place)
    home.mkdir(parents=True, exist_ok=True)
    os.environ["TANDEM_CACHE"] = str(home / "cache")
    launch: dict[str, str] = {}
    if processes > 1:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            launch = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(s.getsockname()[1])}
        launch |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    sys.stdout.flush()
    children = []
    for rank in range(processes):
        child = os.fork()
        if child == 0:
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}
            os.environ.update(launch | own)
            os._exit(be_rank(rank, home, Path(base), method, settings))
        children.append(child)
    codes = [os.waitpid(child, 0)[1] for child in children]
    if any(codes):
        return False
    seen = [json.loads((home / f"seen-{rank}.json").read_text()) for rank in range(processes)]
    print(json.dumps(seen))
    return True


def be_rank(rank: int, place: Path, base: Path, method: str, settings: dict[str, Any]) -> int:
    """Work, and return the code to exit with."""
    try:
        work(rank, place, base, method, settings)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        return 1
    return 0


if __name__ == "__main__":
    if not all(run(**job) for job in json.loads(sys.argv[1])):
        sys.exit(1)
