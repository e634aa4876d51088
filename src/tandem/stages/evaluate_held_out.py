"""An exam without judges: what policies make of held-out answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tandem.data.groups import Groups
from tandem.evaluation.held_out_losses import held_out_table
from tandem.machine import Machine
from tandem.runs.checkpoint import Checkpoint
from tandem.stages.judging import logprobs


def evaluate_held_out(
    policies: Mapping[str, Checkpoint], held_out: Groups, *, start: str, machine: Machine
) -> dict[str, Any]:
    """Read held-out answers with every policy.

    Args:
        policies: by name; they read the same tokens.
        held_out: groups with answers, of prompts that nobody trained on.
        start: the policy that training started from.

    Returns:
        `text`, the table, and `numbers`, the same for JSON.
    """
    readings = {
        name: list(logprobs(policy, held_out, machine=machine)) for name, policy in policies.items()
    }
    table = held_out_table(readings, start)
    return {"text": str(table), "numbers": table.as_dicts()}
