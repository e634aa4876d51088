"""The one place where an engine is chosen for a policy; a new engine is returned from here."""

from __future__ import annotations

from typing import Any

from tandem.engines import Engine
from tandem.engines.torch import TorchEngine
from tandem.errors import ConfigError
from tandem.machine import Machine, world_size
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
        policy: the policy; engines that sample from a copy of its weights take new ones by
            `Engine.load`.
        tokenizer: writes the texts of what is sampled.
        machine: says which engine, and whether its steps are compiled.
        name: the completions' author.
        mixture: (other, share) to sample from the geometric mixture with another model, token by
            token, in one pass with a cache each.

    Raises:
        ConfigError: vLLM or Ray in a launch of several processes, or for a mixture; or Ray is
            not installed.
        EngineError: vLLM is not installed or does not start, or there is no Ray cluster.
    """
    if machine.engine != "torch":
        _check_support(machine.engine, mixture is not None)
    if machine.engine == "vllm":
        from tandem.engines.vllm.vllm_engine import VllmEngine

        return VllmEngine(policy.lm, tokenizer, dtype=policy.dtype, name=name)
    if machine.engine == "ray":
        from tandem.engines.ray.ray_engine import RayEngine

        return RayEngine(policy.lm, tokenizer, dtype=policy.dtype, name=name)
    return TorchEngine(
        policy.lm,
        tokenizer,
        # packed weights are sampled as they are: a copy in another dtype would unpack them
        dtype=None if is_quantised(policy) else policy.dtype,
        mixture=None if mixture is None else (mixture[0].lm, mixture[1]),
        name=name,
        compiled=machine.compiled,
    )


def check_engine(engine: str) -> None:
    """Refuse, before anything is made, an engine that is not here.

    Raises:
        ConfigError: Ray is not installed, or the launch has several processes.
        EngineError: vLLM is not installed, or no Ray cluster answers.
    """
    if engine != "torch":
        _check_support(engine, mixture=False)
    if engine == "vllm":
        from tandem.engines.vllm.vllm_server import find_python

        find_python()
    if engine == "ray":
        from tandem.engines.ray.cluster import check_cluster

        check_cluster("machine.engine = ray", "leave machine.engine out")


def _check_support(engine: str, mixture: bool) -> None:
    """Refuse what an engine with a copy of the policy cannot do."""
    if mixture:
        raise ConfigError(
            f"machine.engine = {engine} for a mixture of two policies",
            "it draws from one model, and the mixture multiplies two laws at every token",
            "leave machine.engine out",
        )
    if world_size() > 1:
        raise ConfigError(
            f"machine.engine = {engine} in {world_size()} processes",
            "all processes learn from the same samples, and each would ask an engine of its own",
            "leave machine.engine out, or train in one process",
        )
