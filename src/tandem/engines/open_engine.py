"""The one place where an engine is chosen for a policy; a new engine is returned from here."""

from __future__ import annotations

from typing import Any

from tandem.engines import Engine
from tandem.engines.torch import TorchEngine
from tandem.machine import Machine
from tandem.models.packed import PackedModel
from tandem.models.quantised import is_quantised


def open_engine(
    policy: PackedModel,
    tokenizer: Any,
    machine: Machine,
    *,
    name: str = "policy",
    mixture: tuple[PackedModel, float] | None = None,
) -> Engine:
    """Open the engine that samples from an opened policy, also while it is trained.

    Args:
        policy: the policy; its weights are read when a batch is sampled.
        tokenizer: writes the texts of what is sampled.
        machine: says which engine, and whether its steps are compiled.
        name: the completions' author.
        mixture: (other, share) to sample from the geometric mixture with another model, token by
            token, in one pass with a cache each.

    Raises:
        ConfigError: vLLM in a launch of several processes, or for a mixture.
        EngineError: vLLM is asked for and is not installed, or does not start.
    """
    if machine.engine == "vllm":
        from tandem.engines.vllm.vllm_engine import VllmEngine, check_support

        check_support(mixture is not None)
        return VllmEngine(policy.lm, tokenizer, dtype=policy.dtype, name=name)
    return TorchEngine(
        policy.lm,
        tokenizer,
        # packed weights are sampled as they are: a copy in another dtype would unpack them
        dtype=None if is_quantised(policy) else policy.dtype,
        mixture=None if mixture is None else (mixture[0].lm, mixture[1]),
        name=name,
        compiled=machine.compiled,
    )
