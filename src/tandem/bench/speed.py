"""How fast this machine is, by a small piece of the work that a preset does."""

from __future__ import annotations

import time
from statistics import median

WIDTH, TOKENS, LAYERS, STEPS, REPEATS = 128, 512, 4, 3, 3


def time_training_probe() -> float:
    """Return the seconds of a fixed piece of training, the median of three.

    Blocks of the micro model's size are read and differentiated, with as many threads as torch has
    here. It takes about a second, and says within a fourth how long a preset takes in comparison
    with another machine.
    """
    import torch
    from torch.nn import TransformerEncoderLayer

    with torch.random.fork_rng(devices=[]):
        layers = [
            TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True)
            for _ in range(LAYERS)
        ]
        rows = torch.randn(TOKENS // 64, 64, WIDTH)

    def work() -> float:
        begun = time.perf_counter()
        for _ in range(STEPS):
            states = rows
            for layer in layers:
                states = layer(states)
            states.square().mean().backward()
        return time.perf_counter() - begun

    work()
    return median(work() for _ in range(REPEATS))
