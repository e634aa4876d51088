"""What both sides of a comparison are measured with: ticks, phases, tokens and memory.

Nothing of either library is asked: tokens are counted where they enter an embedding, and phases
are the time inside the backward pass and inside the optimiser, whoever calls them.
"""

from __future__ import annotations

import resource
import time
from collections import defaultdict
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook


class Meter:
    """Counts from the first `tick()` on, which marks the start of a step.

    Args:
        passes: over the rows; steps of all but the last one are not timed, nor is the first step.
    """

    def __init__(self, passes: int = 1) -> None:
        self.passes = passes
        self.ticks: list[float] = []
        self.seconds: dict[str, float] = defaultdict(float)
        self.until: list[dict[str, float]] = []
        self.tokens = 0
        self.on = False
        register_module_forward_pre_hook(self._count)
        torch.Tensor.backward = self.timed("backward", torch.Tensor.backward)  # type: ignore[method-assign]
        torch.optim.AdamW.step = self.timed("optimiser", torch.optim.AdamW.step)  # type: ignore[method-assign]

    def tick(self) -> None:
        """Mark the start of a step, or the end of the last."""
        self.ticks.append(time.perf_counter())
        self.until.append(dict(self.seconds))
        self.on = True

    def timed(self, phase: str, work: Any) -> Any:
        """Return the function with its time added to a phase."""

        def inner(*args: Any, **kw: Any) -> Any:
            began = time.perf_counter()
            try:
                return work(*args, **kw)
            finally:
                self.seconds[phase] += time.perf_counter() - began

        return inner

    def report(self) -> dict[str, Any]:
        """Medians and shares over the steps that are timed; tokens over all."""
        import itertools
        import statistics

        steps = [b - a for a, b in itertools.pairwise(self.ticks)]
        begin = max(1, len(steps) - len(steps) // self.passes) if len(steps) > 1 else 0
        timed, before = steps[begin:], self.until[begin]
        shares = {k: (s - before.get(k, 0)) / sum(timed) for k, s in self.until[-1].items()}
        return {
            "step": statistics.median(timed),
            "steps": steps,
            "phases": {**shares, "rest": 1 - sum(shares.values())},
            "tokens_per_step": self.tokens / len(steps),
            "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        }

    def _count(self, module: nn.Module, args: Any) -> None:
        if self.on and isinstance(module, nn.Embedding):
            self.tokens += args[0].numel()
