"""What a fit logs at its steps, and the refusal of a step that is not a number."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import Tensor

from tandem.batching.batch import Terms
from tandem.errors import DataError
from tandem.runs.events import Events

SLOW = 10.0
"""Seconds without a line after which a step is shown for itself."""


class StepLog:
    """Sums of what the terms report, on the device; metrics are read once every few steps.

    Losses and the norm of the gradient are read at every step, together and once: what is not a
    number must not reach the weights, nor a state that a killed run would resume from.
    """

    def __init__(
        self, events: Events | None, total: int, every: int, accelerator: Accelerator
    ) -> None:
        self.events, self.total, self.every = events, total, every
        self.accelerator = accelerator
        self.sums: dict[str, Tensor] = {}
        self.losses: dict[str, Tensor] = {}
        self.steps, self.tokens, self.since = 0, 0, time.monotonic()
        self.shown = self.since

    def add(
        self, terms: Mapping[str, Terms], weights: Mapping[str, Tensor], *, share: float
    ) -> None:
        """Add a micro-batch; `share` 0 is a rank that had none and read another's."""
        for name, term in terms.items():
            loss = share * term.loss.detach().sum().float() / weights[name]
            self.losses[f"{name}_loss"] = self.losses.get(f"{name}_loss", 0) + loss
            for metric, values in term.metrics.items():
                self._sum(metric, share * values.detach().sum(), share * values.numel())

    def _sum(self, name: str, value: Tensor, count: float) -> None:
        row = torch.stack([value.float(), value.new_tensor(count, dtype=torch.float32)])
        self.sums[name] = self.sums[name] + row if name in self.sums else row

    def check(self, step: int, norm: Tensor) -> float:
        """Refuse a step that is not a number, on every rank; return the gradient's norm."""
        losses = torch.stack(list(self.losses.values()))
        whole = torch.as_tensor(self.accelerator.reduce(losses, "sum"))
        values = torch.cat([whole, norm.to(whole).reshape(1)]).tolist()
        _refuse(dict(zip([*self.losses, "grad_norm"], values, strict=True)), step)
        for name, loss in self.losses.items():
            self._sum(name, loss, 0)
        self.losses = {}
        return values[-1]

    def step(self, step: int, lr: float, norm: float) -> None:
        """Count an optimiser step; every few steps log the means since the last line."""
        self.steps += 1
        if step % self.every and step != self.total:
            self._show_slow(step)
            return
        numbers = self._read() | {"grad_norm": norm}
        _refuse(numbers, step)
        now = time.monotonic()
        speed = self.tokens / max(now - self.since, 1e-9)
        self.steps, self.tokens, self.since = 0, 0, now
        if self.events is not None:
            self.events.log("train", step=step, lr=lr, tokens_per_s=round(speed), **numbers)
            shown = {k: v for k, v in numbers.items() if k.endswith("loss")}
            self.events.progress(step, self.total, "step", tokens_per_s=round(speed), **shown)

    def _show_slow(self, step: int) -> None:
        """Show a step between two lines, where steps take so long that nobody would see any."""
        now = time.monotonic()
        if self.events is not None and now - max(self.shown, self.since) >= SLOW:
            self.events.progress(step, self.total, "step")
            self.shown = now

    def _read(self) -> dict[str, float]:
        """Means since the last line: of losses over steps, of metrics over units."""
        rows = {n: self.accelerator.reduce(v, "sum") for n, v in self.sums.items()}
        self.sums = {}
        pairs = {n: torch.as_tensor(r).tolist() for n, r in rows.items()}
        return {n: s / (c or self.steps) for n, (s, c) in pairs.items()}

    def close(self, step: int) -> None:
        """Log that training has ended."""
        if self.events is not None:
            self.events.log("trained", step=step)


def _refuse(numbers: Mapping[str, float], step: int) -> None:
    bad = [name for name, value in numbers.items() if not math.isfinite(value)]
    if bad:
        raise DataError(
            f"{', '.join(bad)} is {numbers[bad[0]]} at optimiser step {step}",
            "training on would only spread it through the weights",
            "lower the learning rate, or look for extreme scores in the data",
        )
