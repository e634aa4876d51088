"""What a killed fit resumes from: weights, optimiser, position, in one file."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from tandem.errors import DataError, RunError
from tandem.machine import process_rank
from tandem.models.quantised import what_is_trained
from tandem.training.distributed import Parallelism
from tandem.training.sources import BatchSource
from tandem.training.state_file import read_state, write_state

STATE, FORMER = "state.safetensors", "state.pt"


class ResumeState:
    """What a killed loop resumes from: one file, replaced as a whole.

    It holds whole tensors, whoever wrote it: one process or several, with whole weights or with
    slices. So a fit may go on in another number of processes.

    Args:
        module: what is trained.
        schedule: of its learning rate.
        source: where its steps come from.
        together: how several processes train it.
        scratch: the folder of the file; None keeps nothing.
        every: seconds between two files.
    """

    def __init__(
        self,
        module: nn.Module,
        schedule: LambdaLR,
        source: BatchSource,
        together: Parallelism,
        scratch: Path | None,
        every: float,
    ) -> None:
        self.parts: dict[str, Any] = {
            "module": what_is_trained(module),
            "optimiser": together.optimiser,
            "schedule": schedule,
            "source": source,
        }
        self.source, self.together = source, together
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
            state = self.together.spread(state)
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

    def save(self, step: int) -> None:
        """Write the state where it is due; the first process writes."""
        if self.path is None:
            return
        if not self.together.is_save_due(time.monotonic() - self.saved >= self.every):
            return
        parts = {name: part.state_dict() for name, part in self.parts.items()}
        state = self.together.collect(parts)
        if process_rank() == 0:
            write_state(self.path, {**state, "tokens": self.source.cut.tokens, "step": step})
        self.saved = time.monotonic()
