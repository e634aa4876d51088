"""What a killed fit resumes from: weights, optimiser, position, in one file."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from tandem.errors import DataError
from tandem.training.sources import BatchSource

STATE = "state.pt"


class StepState:
    """What a killed loop resumes from: one file, replaced as a whole."""

    def __init__(
        self,
        module: nn.Module,
        optimiser: AdamW,
        schedule: LambdaLR,
        source: BatchSource,
        scratch: Path | None,
        every: float,
    ) -> None:
        self.parts: dict[str, Any] = {
            "module": module,
            "optimiser": optimiser,
            "schedule": schedule,
            "source": source,
        }
        self.source = source
        self.path = None if scratch is None else scratch / STATE
        self.every, self.saved = every, time.monotonic()

    def resume(self) -> int:
        """Load the last saved state, if there is one, and return its step; else 0.

        Raises:
            DataError: it was saved by another model or version.
        """
        if self.path is None or not self.path.exists():
            return 0
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        try:
            for name, part in self.parts.items():
                part.load_state_dict(state[name])
            self.source.cut = replace(self.source.cut, tokens=int(state["tokens"]))
        except (RuntimeError, ValueError, KeyError) as error:
            raise DataError(
                f"{self.path} is of another model: {str(error).splitlines()[0]}",
                "a fit goes on from the state of the same version of Tandem, or not at all",
                "delete that file; what it began starts anew",
            ) from error
        return int(state["step"])

    def save(self, step: int, main: bool) -> None:
        """Write what a killed fit resumes from, on the main process, at most every few seconds."""
        if self.path is None or not main or time.monotonic() - self.saved < self.every:
            return
        state = {name: part.state_dict() for name, part in self.parts.items()}
        state["tokens"] = self.source.cut.tokens
        part = self.path.with_suffix(".part")
        torch.save({**state, "step": step}, part)
        part.replace(self.path)
        self.saved = time.monotonic()
