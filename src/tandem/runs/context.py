"""What a run gives to a stage function that asks for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from tandem.machine import Machine
from tandem.rng import Seed
from tandem.runs import events as talk
from tandem.runs.events import Events

_Stage = TypeVar("_Stage", bound=Callable[..., Any])

INJECTED = ("ctx", "seed", "events", "machine", "encoding")


@dataclass(frozen=True, slots=True)
class StageContext:
    """Where a stage works: its folders, seed, machine and log. A run passes it as `ctx`.

    A function with the keyword-only parameter `ctx` is given one by `run(name, function, ...)`.
    Outside of a run, `StageContext.at(folder)` makes one.

    >>> ctx = StageContext.at(Path("try"), seed=Seed(1))
    >>> _ = (ctx.out / "notes.txt").write_text("kept")
    >>> (ctx.out / "notes.txt").exists()
    True

    Attributes:
        out: the artifact's folder: the stage writes there and returns `Checkpoint(ctx.out, name)`.
        scratch: survives a kill, deleted when the stage is done: step checkpoints.
        seed: the stage's own seed.
        events: progress and numbers.
        machine: device, precision, layout, adapters.
    """

    out: Path
    scratch: Path
    seed: Seed = Seed(0)
    events: Events = field(default_factory=talk.Silent)
    machine: Machine = Machine()

    @classmethod
    def at(cls, folder: Path, **more: Any) -> StageContext:
        """Work in a folder outside of any run, where a killed fit may be resumed."""
        out, scratch = folder / "out", folder / "scratch"
        out.mkdir(parents=True, exist_ok=True)
        scratch.mkdir(exist_ok=True)
        return cls(out, scratch, **more)


def every_rank(stage: _Stage) -> _Stage:
    """Mark a stage whose ranks work together: it is called on each; rank 0 alone writes."""
    cast("Any", stage).every_rank = True
    return stage
