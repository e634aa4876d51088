"""Tandem: turn preferences into better language models.

Five verbs over one record: sample completions, judge them, select among them, fit a model on
what is left, and repeat. `tandem.methods` holds one short file per method.

    from tandem import Run, Sampling, Seed

Names are looked up when they are asked for, so that `tandem --help` loads no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tandem.data.groups import Groups
    from tandem.data.record import Group, Prompt
    from tandem.engines import Sampling
    from tandem.machine import Machine
    from tandem.rng import Seed
    from tandem.runs.checkpoint import Checkpoint
    from tandem.runs.run import Run

__version__ = "0.1.0"

__all__ = ["Checkpoint", "Group", "Groups", "Machine", "Prompt", "Run", "Sampling", "Seed"]

_HOMES = {
    "Checkpoint": "artifacts",
    "Group": "groups",
    "Groups": "groups",
    "Machine": "machine",
    "Prompt": "groups",
    "Run": "runs",
    "Sampling": "engines",
    "Seed": "rng",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
