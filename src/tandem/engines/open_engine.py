"""The one place where an engine is chosen for a policy; a new engine is returned from here."""

from __future__ import annotations

from typing import Any

from tandem.engines.torch import TorchEngine
from tandem.machine import Machine
from tandem.models.packed import PackedModel


def open_engine(
    policy: PackedModel, tokenizer: Any, machine: Machine, *, name: str = "policy"
) -> TorchEngine:
    """Open the engine that samples from an opened policy, also while it is trained.

    Args:
        policy: the policy; its weights are read when a batch is sampled, not copied.
        tokenizer: writes the texts of what is sampled.
        machine: says whether steps are compiled.
        name: the completions' author.
    """
    return TorchEngine(
        policy.lm, tokenizer, dtype=policy.dtype, name=name, compiled=machine.compiled
    )
