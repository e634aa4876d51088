"""What a killed fit resumes from: weights, optimiser, position, in one file."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from tandem.errors import DataError, RunError
from tandem.training.sources import BatchSource
from tandem.training.state_file import read_state, write_state

STATE, FORMER = "state.safetensors", "state.pt"


class ResumeState:
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
        """Load the state that a killed fit left, if there is one; return its step.

        Raises:
            RunError: it is damaged, or an earlier version of Tandem wrote it.
            DataError: it is of another model.
        """
        if self.path is None:
            return 0
        former = self.path.with_name(FORMER)
        if former.exists():
            raise RunError(
                f"{former} was written by an earlier version of Tandem",
                "it is a pickle, which can run code when it is opened and has no digest",
                f"delete {former}; the stage then starts anew",
            )
        if not self.path.exists():
            return 0
        state = read_state(self.path)
        try:
            for name, part in self.parts.items():
                part.load_state_dict(state[name])
            self.source.cut = replace(self.source.cut, tokens=int(state["tokens"]))
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{self.path} is of another model: {str(error).splitlines()[0]}",
                "a fit goes on from the state of the same version of Tandem, or not at all",
                "delete that file; what it began starts anew",
            ) from error
        return int(state["step"])

    def save(self, step: int, main: bool) -> None:
        """Write the state, where it is due and this process is the one that writes."""
        if self.path is None or not main or time.monotonic() - self.saved < self.every:
            return
        state = {name: part.state_dict() for name, part in self.parts.items()}
        write_state(self.path, {**state, "tokens": self.source.cut.tokens, "step": step})
        self.saved = time.monotonic()
