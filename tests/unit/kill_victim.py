"""A run of four stages to be killed: each artifact is written in many small pieces."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import numpy as np

from tandem.data.groups import Groups
from tandem.data.record import Completion, Group, Prompt
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.context import StageContext
from tandem.runs.display import Hidden
from tandem.runs.run import Run

PIECES = 12
PAUSE = 0.002


def sample(n: int, *, seed: Seed) -> Iterator[Group]:
    for i in range(n):
        time.sleep(PAUSE)
        yield Group(Prompt(f"p{i}", "say"), (Completion(str(seed.at(i).uniform())),))


def fit(data: Groups, *, ctx: StageContext) -> Checkpoint:
    """Accumulate a sum step by step, resuming from the last whole step in scratch."""
    done = sorted(int(p.stem) for p in ctx.scratch.glob("*.txt"))
    start, total = (
        (done[-1], float((ctx.scratch / f"{done[-1]}.txt").read_text())) if done else (0, 0.0)
    )
    for step in range(start, PIECES):
        total += float(data[step % len(data)].completions[0].text) * ctx.seed.at(step).uniform()
        part = ctx.scratch / "part"
        part.write_text(repr(total))
        part.rename(ctx.scratch / f"{step + 1}.txt")
        time.sleep(PAUSE)
    (ctx.out / "config.json").write_text("{}")
    with (ctx.out / "model.safetensors").open("wb") as file:
        for piece in np.full(PIECES, total):
            file.write(piece.tobytes())
            file.flush()
            time.sleep(PAUSE)
    return Checkpoint(ctx.out)


def size(policy: Checkpoint) -> dict[str, object]:
    time.sleep(PAUSE * PIECES)
    return {"bytes": (policy.path / "model.safetensors").stat().st_size, "hash": policy.hash}


if __name__ == "__main__":
    with Run(sys.argv[1], seed=7, display=Hidden()) as run:
        data = run("samples", sample, PIECES)
        policy = run("policy", fit, data)
        more = run("more", fit, data + data)
        run("size", size, more)
