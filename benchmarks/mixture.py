"""What sampling from the mixture of two models costs, beside sampling from one of them.

    python benchmarks/mixture.py [--rounds N] [--threads N] [--out FILE]

The loads are those of benchmarks/sampling.py. The mixture reads both models at every token, a cache
each, and weighs their logits: Nash-MD's opponent. Both sides alternate on the same machine, and the
ratio is of the medians of processor time, because other jobs may share the machine.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
from sampling import LOADS, SHAPES, model, prompts, tokenizer

from tandem.engines import Sampling
from tandem.engines.torch import TorchEngine
from tandem.rng import Seed


def clocked(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock and of the processor."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def measured(name: str, rounds: int) -> dict[str, float]:
    """Measure one load."""
    shape, load = SHAPES[name], LOADS[name]
    one = model(shape)
    other = copy.deepcopy(one)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.9)
    words, asked = tokenizer(shape["vocabulary"]), prompts(load, shape["vocabulary"])
    sides = {
        "one": TorchEngine(one, words),
        "mixture": TorchEngine(one, words, mixture=(other, 0.25)),
    }
    how = Sampling(max_tokens=load["tokens"])
    taken: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    for turn in range(rounds + 1):
        for side, engine in sides.items():
            spent = clocked(lambda e=engine: list(e.sample(asked, load["n"], how, Seed(1))))
            if turn:
                taken[side].append(spent)
    wall, cpu = (
        {side: statistics.median(t[k] for t in times) for side, times in taken.items()}
        for k in (0, 1)
    )
    return {
        "one_s": wall["one"], "mixture_s": wall["mixture"], "ratio": wall["mixture"] / wall["one"],
        "one_cpu_s": cpu["one"], "mixture_cpu_s": cpu["mixture"],
        "cpu_ratio": cpu["mixture"] / cpu["one"], "rounds": rounds,
    }  # fmt: skip


def main() -> None:
    """Measure every load and write them down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--what", choices=[*LOADS], action="append")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    record = {
        "date": date.today().isoformat(), "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__, "threads": options.threads,
        "loads": {name: measured(name, options.rounds) for name in options.what or LOADS},
    }  # fmt: skip
    text = json.dumps(record, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
