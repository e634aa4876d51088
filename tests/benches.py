"""A small comparison on the micro world, for tests: a plan's file, and recipes that misbehave."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from tandem.errors import DataError
from tandem.methods.dpo import DPOConfig
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.run import Run

PLAN: dict[str, Any] = {
    "title": "tiny",
    "question": "Does the machinery work?",
    "task": "micro",
    "seeds": 2,
    "claims": ["SFT < DPO < best-of-n"],
    "sizes": {
        "demonstrations": 24, "pairs": 16, "held_out": 12, "prompts": 16, "evaluation": 12
    },
    "settings": {
        "sampling": {"max_tokens": 32},
        "sft": {"epochs": 1},
        "dpo": {"epochs": 1, "batch": 16},
        "best_of_n": {"n": 2, "pool": 4},
    },
    "entry": [
        {"name": "DPO", "method": "dpo", "paper": {"win": 50.2}},
        {"name": "best-of-n", "method": "best_of_n"},
        {"name": "broken", "method": "dpo", "recipe": "benches:broken"},
    ],
}  # fmt: skip


BRIEF: dict[str, Any] = {
    "sampling": {"max_tokens": 32},
    "sft": {"epochs": 1},
    "best_of_n": {"n": 2, "pool": 4},
    "dpo": {"epochs": 1, "batch": 16},
    "kto": {"epochs": 1, "batch": 16},
    "rso": {"pool": 4, "keep": 2},
    "raft": {"stages": 1, "prompts": 8, "k": 2},
    "rest": {"grow": 1, "improve": 1, "n": 2},
    "ppo": {"prompts": 8, "rounds": 1, "minibatch": 8},
    "grpo": {"prompts": 4, "rounds": 1, "n": 2, "minibatch": 4},
    "rlp": {"n": 3, "gamma": 0.0},
}
"""Every method of the full preset, as brief as it can be."""


def plan(path: Path, **changes: Any) -> Path:
    """Write the plan, with these values changed, as a file that `tandem bench` reads."""
    path.write_text(json.dumps(copy.deepcopy(PLAN) | changes))  # JSON is YAML
    return path


def broken(run: Run, pi_sft: Checkpoint, cfg: DPOConfig) -> Checkpoint:
    """A recipe that finds a mistake when it is too late."""
    raise DataError("the moon is missing", "this recipe is broken on purpose", "leave it out")


def numbers(told: dict[str, Any]) -> dict[str, Any]:
    """Return results without what another run may have otherwise: time, memory, the command."""
    kept = copy.deepcopy(told)
    for key in ("command", "environment", "commit", "cost"):
        del kept[key]
    for row in kept["policies"]:
        for key in ("seconds", "peak_bytes"):
            row.pop(key, None)
    return kept
