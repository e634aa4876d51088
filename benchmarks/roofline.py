"""Predicted seconds and bytes of a step beside measured ones, on one processor core.

    python benchmarks/roofline.py [--sizes 1 15 60 360] [--out FILE]

A step of SFT over random Llamas in fp32. The speed that a prediction takes is that of products of
the model's own shapes, measured just before; the bandwidth is that of adding two large tensors.
Processor time counts, not the clock, so that other jobs on the machine disturb less.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from vs_trl import result_file
from workloads import Shape, make_model

from tandem.data.groups import Groups
from tandem.data.record import Completion, Group, Prompt
from tandem.machine import Machine
from tandem.methods import sft
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.context import StageContext
from tandem.training.optim import Optim
from tandem.training.roofline import Cluster, ModelSize, Step, predict_step

SHAPES = {
    1: Shape(vocabulary=1024, width=128, ffn=352, layers=4, heads=4),
    15: Shape(),
    60: Shape(vocabulary=32_000, width=512, ffn=1536, layers=14, heads=8),
    360: Shape(vocabulary=49_152, width=1024, ffn=2816, layers=24, heads=16),
}
"""Millions of parameters -> sizes."""
SEQUENCES, PROMPT, ANSWER, STEPS = 8, 64, 64, 4


class Ticks:
    """Notes the processor time at each logged step."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def log(self, kind: str, **numbers: Any) -> None:
        """Note the time of a step."""
        if kind == "train":
            self.at.append(time.process_time())

    def progress(self, *args: Any, **kw: Any) -> None:
        """Show nothing."""


def measure(millions: int) -> dict[str, float]:
    """Fit a few steps, and predict one."""
    shape = SHAPES[millions]
    with tempfile.TemporaryDirectory() as place:
        folder = make_model(Path(place), shape)
        cluster = Cluster(1, 1, _flops(shape), _bandwidth(), 1e12, 1.0, 1.0)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        ticks = Ticks()
        machine = Machine(device="cpu", precision="fp32", log_every=1, save_seconds=1e9)
        ctx = StageContext.at(Path(place) / "run", events=ticks, machine=machine)  # type: ignore[arg-type]
        cfg = sft.SFTConfig(epochs=1, batch=SEQUENCES, optim=Optim(lr=1e-5))
        sft.fit(Checkpoint(folder), _rows(shape), cfg, ctx=ctx)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    size = ModelSize(shape.parameters, shape.layers, shape.width, shape.vocabulary, shape.width)
    found = predict_step(size, cluster, Step(SEQUENCES, PROMPT, ANSWER), "one")
    seconds = statistics.median(np.diff(ticks.at).tolist())
    return {
        "measured_s": round(seconds, 4),
        "predicted_s": round(found.total, 4),
        "predicted_over_measured": round(found.total / seconds, 3),
        "measured_bytes": peak,
        "predicted_bytes": round(sum(found.memory.values())),
        "gflops": round(cluster.flops / 1e9, 1),
    }


def _flops(shape: Shape) -> float:
    """Operations a second of the products of one layer and of the head."""
    rows = SEQUENCES * (PROMPT + ANSWER)
    sides = [(shape.width, shape.width)] * 4 + [(shape.width, shape.ffn)] * 3
    sides = sides * shape.layers + [(shape.width, shape.vocabulary)]
    seconds = operations = 0.0
    for pair in set(sides):
        x, w = torch.randn(rows, pair[0]), torch.randn(pair)
        seconds += sides.count(pair) * _seconds(lambda a=x, b=w: a @ b)
        operations += sides.count(pair) * 2.0 * rows * pair[0] * pair[1]
    return operations / seconds


def _bandwidth() -> float:
    """Bytes a second: two tensors are read and one is written."""
    x, y = torch.randn(1 << 24), torch.randn(1 << 24)
    out = torch.empty_like(x)
    return 3 * 4 * x.numel() / _seconds(lambda: torch.add(x, y, out=out))


def _seconds(work: Callable[[], Any]) -> float:
    times = []
    for _ in range(5):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return max(1e-9, statistics.median(times[1:]))


def _rows(shape: Shape) -> Groups:
    rng = np.random.default_rng(0)

    def one(i: int) -> Group:
        ids = [rng.integers(4, shape.vocabulary, n).astype(np.int32) for n in (PROMPT, ANSWER)]
        return Group(Prompt(f"p{i}", f"p{i}", tokens=ids[0]), (Completion("", ids[1]),))

    return Groups.of(one(i) for i in range(SEQUENCES * STEPS))


def main() -> None:
    """Measure every size, and keep each as soon as it is there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sizes", nargs="+", type=int, choices=list(SHAPES), default=[1, 15, 60])
    parser.add_argument("--out", type=Path, default=result_file("roofline", quick=False))
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for millions in options.sizes:
        found[str(millions)] = measure(millions)
        print(millions, found[str(millions)], flush=True)
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
