"""The tasks: where prompts, demonstrations and judgements come from.

A task's module has `world(...) -> World`. Everything in a world is a value or a handle; no model
is opened and nothing is computed before a stage asks for it.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any

from tandem.errors import ConfigError, nearest
from tandem.groups import Groups, Prompts
from tandem.judges import Judge
from tandem.rng import Seed
from tandem.runs import Checkpoint

TASKS: dict[str, str] = {
    "micro": "a small language made by this project: truth is known, a laptop is enough",
}


@dataclass(frozen=True, slots=True)
class World:
    """What every method may start from.

    Attributes:
        name: the task's or the data file's name.
        base: the model before any training.
        demonstrations: prompts with one good completion each.
        preferences: judged groups for training, or None when an annotator must be asked.
        held_out: judged groups of other prompts; rewards are evaluated on them.
        prompts: unlabelled prompts to sample from while training.
        evaluation: prompts on which policies are compared; none of them is in another split.
        annotator: who gives preferences, or None when they come with the data.
        truth: the programmatic judge, or None.
        notes: what was kept and dropped on the way, as name -> number, for the report.
    """

    name: str
    base: Checkpoint
    demonstrations: Groups
    preferences: Groups | None
    held_out: Groups | None
    prompts: Prompts
    evaluation: Prompts
    annotator: Judge | None = None
    truth: Judge | None = None
    notes: dict[str, Any] = field(default_factory=dict, compare=False)


def world(name: str, seed: Seed) -> World:
    """Open a task.

    Raises:
        ConfigError: there is no such task.
    """
    if name not in TASKS:
        raise ConfigError(
            f"there is no task {name!r}.{nearest(name, TASKS)}",
            "a task is a module in tandem/tasks",
            f"name one of: {', '.join(TASKS)}; or give --model and --data",
        )
    return importlib.import_module(f"{__name__}.{name}").world(seed)
