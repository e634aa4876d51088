"""Several processes share a step: how weights and gradients are spread, and what all agree on.

`DataParallel` keeps whole weights in every process and sums gradients by DDP. `FullySharded` gives
every process a slice of weights, gradients and moments, by torch's `fully_shard` (FSDP2). The loop
knows neither: both say how often a process reads a step, how its gradient is measured, and how its
state is collected and spread. What was asked for is what runs, or nothing does.
"""

from __future__ import annotations

import contextlib
import os
from contextlib import AbstractContextManager
from typing import Any, Protocol, cast

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import AdamW
from torch.optim.lr_scheduler import LRScheduler

from tandem.batching.batch import Batch
from tandem.errors import ConfigError
from tandem.machine import Machine, world_size
from tandem.models.devices import resolve_device
from tandem.models.sharded_weights import ShardedWeights, collect_state, spread_tensor
from tandem.training.optim import Optim, build_optimizer

ASKED = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism of its own",
}
"""Variables by which `accelerate launch` asks its processes for an engine."""


class Parallelism(Protocol):
    """How the processes of a launch train one module together.

    Attributes:
        module: what is called; each call may be collective.
        optimiser: AdamW over the parameters that this process updates.
    """

    module: nn.Module
    optimiser: AdamW

    def turns(self, micro: list[Batch]) -> list[tuple[Batch, bool]]:
        """Return the micro-batches that this process reads, and whether each one counts."""
        ...

    def accumulate(self, *, last: bool) -> AbstractContextManager[Any]:
        """Open a backward pass; gradients are summed over processes after the last one."""
        ...

    def step(self, schedule: LRScheduler) -> None:
        """Update the weights, move the learning rate on, drop the gradients."""
        ...

    def is_save_due(self, due: bool) -> bool:
        """Return whether this process takes part in writing a state now."""
        ...

    def collect(self, state: Any) -> Any:
        """Return a state with whole tensors; on the first process alone where it is sharded."""
        ...

    def spread(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return a whole state of module and optimiser as this process holds it."""
        ...

    def close(self) -> None:
        """Give every process whole weights."""
        ...


class DataParallel:
    """Whole weights in every process; DDP sums their gradients."""

    def __init__(self, module: nn.Module, optim: Optim, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.optimiser = build_optimizer(module, optim)
        self.module, self._prepared = accelerator.prepare(module, self.optimiser)

    def turns(self, micro: list[Batch]) -> list[tuple[Batch, bool]]:
        """Every n-th is read by one of n processes; one without any reads the first in vain."""
        rank, size = self.accelerator.process_index, self.accelerator.num_processes
        return [(batch, True) for batch in micro[rank::size]] or [(micro[0], False)]

    def accumulate(self, *, last: bool) -> AbstractContextManager[Any]:
        """DDP sums when a backward pass is not marked as one of several."""
        return contextlib.nullcontext() if last else self.accelerator.no_sync(self.module)

    def step(self, schedule: LRScheduler) -> None:
        """Step Accelerate's optimiser."""
        self._prepared.step()
        schedule.step()
        self._prepared.zero_grad(set_to_none=True)

    def is_save_due(self, due: bool) -> bool:
        """The first process writes alone, when its time has come."""
        return due and self.accelerator.is_main_process

    def collect(self, state: Any) -> Any:
        """It is whole."""
        return state

    def spread(self, state: dict[str, Any]) -> dict[str, Any]:
        """It is whole."""
        return state

    def close(self) -> None:
        """They have."""


class FullySharded:
    """A slice of weights, gradients and moments in every process, by torch's `fully_shard`.

    All processes make as many forward passes, since each one gathers weights from all.

    Raises:
        ConfigError: torch did not cut some parameter over all processes.
    """

    def __init__(self, module: nn.Module, optim: Optim, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        module.to(accelerator.device)
        mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
        self.weights = ShardedWeights(module, mesh)
        if not self.weights.is_spread():
            raise ConfigError(
                "machine.sharding = fsdp2, and some weights are not spread over all processes",
                "a run that was asked to shard, and does not, would need memory that is not there",
                "leave machine.sharding out",
            )
        self.module = module
        self.optimiser = build_optimizer(module, optim)

    def turns(self, micro: list[Batch]) -> list[tuple[Batch, bool]]:
        """Every n-th is read by one of n processes; whoever has one less reads the first again."""
        rank, size = self.accelerator.process_index, self.accelerator.num_processes
        passes = -(-len(micro) // size)
        mine = [(batch, True) for batch in micro[rank::size]]
        return mine + [(micro[0], False)] * (passes - len(mine))

    def accumulate(self, *, last: bool) -> AbstractContextManager[Any]:
        """Gradients of each backward pass are summed and cut at once, so none is held whole."""
        return contextlib.nullcontext()

    def step(self, schedule: LRScheduler) -> None:
        """Update this process's slices."""
        self.optimiser.step()
        schedule.step()
        self.optimiser.zero_grad(set_to_none=True)

    def is_save_due(self, due: bool) -> bool:
        """All take part when the first process's time has come."""
        word = torch.tensor([int(due)], device=self.accelerator.device)
        dist.broadcast(word, src=0)
        return bool(word.item())

    def collect(self, state: Any) -> Any:
        """Gather tensor after tensor; the first process keeps them."""
        for unit in self.weights.module.modules():
            if isinstance(unit, FSDPModule):
                unit.reshard()
        return collect_state(state, keep=self.accelerator.is_main_process)

    def spread(self, state: dict[str, Any]) -> dict[str, Any]:
        """Cut each tensor as its parameter is cut, whatever number of processes wrote it."""
        own = self.module.state_dict()
        module = {k: spread_tensor(v, own[k]) if k in own else v
                  for k, v in state["module"].items()}  # fmt: skip
        learn = [p for group in self.optimiser.param_groups for p in group["params"]]
        moments = {
            i: {k: spread_tensor(v, learn[i]) if isinstance(v, Tensor) else v
                for k, v in kept.items()}
            for i, kept in state["optimiser"]["state"].items()
        }  # fmt: skip
        optimiser = {**state["optimiser"], "state": moments}
        return {**state, "module": module, "optimiser": optimiser}

    def close(self) -> None:
        """Gather them."""
        self.weights.restore()


def open_parallelism(
    module: nn.Module, optim: Optim, machine: Machine, accelerator: Accelerator
) -> Parallelism:
    """Spread a module over the processes of this launch, as the machine asks."""
    kind = FullySharded if machine.sharding == "fsdp2" else DataParallel
    return kind(module, optim, accelerator)


def start_accelerator(machine: Machine) -> Accelerator:
    """Start Accelerate for this launch; precision and gradient accumulation stay with our loop.

    Raises:
        ConfigError: the launcher asks for an engine that is not run; or sharding is asked for and
            there is one process, or the processes do not find each other.
    """
    _refuse_engines()
    accelerator = Accelerator(
        cpu=resolve_device(machine).type == "cpu",
        mixed_precision="no",
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
    )
    check_launch(machine, accelerator.num_processes)
    return accelerator


def most_memory(memory: int, accelerator: Accelerator) -> int:
    """Return the most of all ranks' memory, so that all make the same choice."""
    return -(least_memory(-memory, accelerator) or 0)


def _refuse_engines() -> None:
    """Refuse what `accelerate launch` was told to run: some of it falls back without a word."""
    for variable, engine in ASKED.items():
        if os.environ.get(variable, "false").lower() in ("1", "true", "yes"):
            raise ConfigError(
                f"the launcher asks for {engine} ({variable})",
                "the weights are sharded by this program and not by the launcher, whose engines "
                "give way to plain data parallelism in silence where they cannot run",
                "launch with `torchrun --nproc-per-node 2` or `accelerate launch --multi_gpu`, and "
                "shard with `--machine.sharding fsdp2`",
            )


def check_launch(machine: Machine, processes: int) -> None:
    """Refuse a launch whose processes are not what was asked for.

    Args:
        machine: says whether weights are to be sharded.
        processes: how many work together.
    """
    started = world_size()
    if processes != started:
        raise ConfigError(
            f"the launcher started {started} processes, and {processes} work together",
            "each would train a model of its own, and all would write the same files",
            "launch with `torchrun --nproc-per-node N`, or `accelerate launch --multi_gpu`",
        )
    if machine.sharding == "fsdp2" and processes == 1:
        raise ConfigError(
            "machine.sharding = fsdp2 in one process",
            "weights are spread over the processes of a launch, and here is one",
            "launch several: `torchrun --nproc-per-node 2 -m tandem run ...`; or leave "
            "machine.sharding out",
        )


def total_norm(module: nn.Module) -> Tensor:
    """Return the norm of all gradients together, of all processes where they are sharded."""
    norm = get_total_norm([p.grad for p in module.parameters() if p.grad is not None])
    return cast("DTensor", norm).full_tensor() if isinstance(norm, DTensor) else norm


def clip_gradients(module: nn.Module, largest: float, norm: float) -> None:
    """Scale all gradients so that their norm is at most `largest`."""
    if norm > largest:
        clip_grads_with_norm_(module.parameters(), largest, torch.tensor(norm))


def least_memory(memory: int | None, accelerator: Accelerator) -> int | None:
    """Return the least of all ranks' memory, so that all cut their steps alike."""
    if memory is None or accelerator.num_processes == 1:
        return memory
    own = torch.tensor([memory], device=accelerator.device)
    return min(torch.as_tensor(accelerator.gather(own)).tolist())
