"""Several processes share a step: Accelerate, and what all ranks must agree on."""

from __future__ import annotations

import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import GradientAccumulationPlugin

from tandem.errors import ConfigError
from tandem.machine import Machine
from tandem.models.devices import resolve_device


def start_accelerator(machine: Machine) -> Accelerator:
    """Start Accelerate for this launch; precision and gradient accumulation stay with our loop."""
    accelerator = Accelerator(
        cpu=resolve_device(machine).type == "cpu",
        mixed_precision="no",
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
    )
    kind = accelerator.distributed_type
    if kind in (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
        raise ConfigError(
            f"the launcher asks for {kind.value}",
            "step checkpoints and the exported folder need whole weights, and these are sharded",
            "launch with plain data parallelism (--multi_gpu, or --cpu), or with one process",
        )
    return accelerator


def most_memory(memory: int, accelerator: Accelerator) -> int:
    """Return the most of all ranks' memory, so that all make the same choice."""
    return -(least_memory(-memory, accelerator) or 0)


def least_memory(memory: int | None, accelerator: Accelerator) -> int | None:
    """Return the least of all ranks' memory, so that all cut their steps alike."""
    if memory is None or accelerator.num_processes == 1:
        return memory
    own = torch.tensor([memory], device=accelerator.device)
    return min(torch.as_tensor(accelerator.gather(own)).tolist())
